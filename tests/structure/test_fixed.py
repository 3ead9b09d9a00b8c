from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from graftwork.errors import ConfigError, StructureError
from graftwork.structure.fixed import FIXED_STRUCTURES, fixed_structure
from graftwork.structure.structure import SiteStructure, Structure

TASKS = ("a", "b", "c")
GROUPS = [["a", "c"], ["b"]]
BY_RULE = sorted(FIXED_STRUCTURES)
DIVIDED = {"random_paths", "private_paths", "grouped_paths", "half_shared"}


def whole(sites: int = 6, pool: int = 4, cost: int = 10, tasks: tuple[str, ...] = TASKS) -> Structure:
    everything = ((True,) * pool,) * len(tasks)
    return Structure(tasks, {f"layer.{i}": SiteStructure(pool, 2, cost, everything) for i in range(sites)})


@st.composite
def terms(draw):
    """A pool of any shape, prices and a budget."""
    tasks = TASKS[: draw(st.integers(1, 3))]
    size = st.integers(1, 4)
    sites = {}
    for index in range(draw(st.integers(1, 5))):
        pool = draw(size)
        table = ((True,) * pool,) * len(tasks)
        sites[f"s{index}"] = SiteStructure(pool, 2, draw(st.integers(1, 30)), table)
    prices = draw(
        st.none()
        | st.lists(st.floats(0.1, 9), min_size=len(sites), max_size=len(sites)).map(
            lambda values: dict(zip(sites, values, strict=True))
        )
    )
    return Structure(tasks, sites), prices, draw(st.floats(1, 400))


@pytest.mark.parametrize("name", BY_RULE)
@given(given_terms=terms(), seed=st.integers(0, 99))
def test_the_budget_is_never_exceeded_and_no_further_adapter_fits(name, given_terms, seed):
    pool, prices, budget = given_terms
    paid = prices or {site: found.cost for site, found in pool.sites.items()}
    try:
        groups = [[task for task in group if task in pool.tasks] for group in GROUPS]
        groups = [group for group in groups if group]
        structure = fixed_structure(name, pool, budget, prices=prices, seed=seed, groups=groups)
    except StructureError as error:
        needs = "needs an adapter" in str(error) and (
            name in ("uniform", "private_paths", "grouped_paths", "half_shared")
        )
        assert needs or (budget < min(paid.values()) and name == "random_paths")
        return
    assert structure.tasks == pool.tasks
    assert list(structure.sites) == list(pool.sites)
    left = budget - structure.total(paid)
    assert left >= -1e-9
    for site, found in structure.sites.items():
        assert (found.pool_size, found.r, found.cost) == (
            pool.sites[site].pool_size,
            pool.sites[site].r,
            pool.sites[site].cost,
        )
        assert all(found.used) or paid[site] > left - 1e-9


@pytest.mark.parametrize("name", sorted(set(BY_RULE) - DIVIDED))
def test_all_tasks_use_all_that_is_stored(name):
    structure = fixed_structure(name, whole(), 95)
    assert structure.parameters() == 90
    assert {structure.parameters(task) for task in TASKS} == {90}


@pytest.mark.parametrize("name", BY_RULE)
def test_the_same_seed_gives_the_same_structure(name):
    first, again, other = (
        fixed_structure(name, whole(), 120, seed=seed, groups=GROUPS) for seed in (3, 3, 4)
    )
    assert first == again
    assert (first != other) == name.startswith("random")


def test_random_paths_differ_between_tasks():
    structure = fixed_structure("random_paths", whole(), 120)
    assert len({frozenset(structure.paths(task)) for task in TASKS}) == 3
    assert structure.parameters() == 120


@pytest.mark.parametrize(("budget", "counts"), [(60, [1] * 6), (90, [1, 2] * 3), (100, None), (240, [4] * 6)])
def test_uniform_is_even_and_spreads_the_rest(budget, counts):
    structure = fixed_structure("uniform", whole(), budget)
    found = [sum(site.used) for site in structure.sites.values()]
    assert sum(found) == budget // 10
    assert max(found) - min(found) <= 1
    if counts:
        assert Counter(found) == Counter(counts)
    places = [index for index, count in enumerate(found) if count == max(found)]
    gaps = {second - first for first, second in itertools.pairwise(places)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_uniform_needs_an_adapter_everywhere():
    message = r"'uniform' needs an adapter at each of the 6 sites \(60\), but the budget allows 59; lower r"
    with pytest.raises(StructureError, match=message):
        fixed_structure("uniform", whole(), 59)


def test_top_layers_fills_from_the_last_site_down():
    structure = fixed_structure("top_layers", whole(), 60)
    assert [sum(site.used) for site in structure.sites.values()] == [0, 0, 0, 0, 2, 4]


def test_shared_path_is_spread_where_uniform_has_too_little():
    structure = fixed_structure("shared_path", whole(), 30)
    assert [sum(site.used) for site in structure.sites.values()] == [0, 1, 0, 1, 0, 1]


@given(sites=st.integers(1, 6), pool=st.integers(1, 5), adapters=st.integers(3, 30))
def test_private_paths_are_disjoint_and_even(sites, pool, adapters):
    assume(sites * pool >= 3)
    structure = fixed_structure("private_paths", whole(sites, pool), 10 * adapters)
    paths = [structure.paths(task) for task in TASKS]
    assert sum(map(len, paths)) == len(set().union(*paths)) == min(adapters, sites * pool)
    sizes = [len(path) for path in paths]
    assert max(sizes) - min(sizes) <= 1


def test_private_paths_are_spread_over_the_sites():
    structure = fixed_structure("private_paths", whole(12, 4), 120)
    for task in TASKS:
        layers = sorted(int(name.removeprefix("layer.")) for name, _ in structure.paths(task))
        assert [second - first for first, second in itertools.pairwise(layers)] == [3, 3, 3]
    assert all(sum(site.used) == 1 for site in structure.sites.values())


@given(sites=st.integers(2, 6), pool=st.integers(2, 5), adapters=st.integers(6, 30))
def test_half_shared_paths_have_as_much_together_as_apart(sites, pool, adapters):
    assume(sites * pool >= adapters)
    structure = fixed_structure("half_shared", whole(sites, pool), 10 * adapters)
    paths = [structure.paths(task) for task in TASKS]
    common = set.intersection(*paths)
    own = [path - common for path in paths]
    assert len(common) == adapters // 2
    assert sum(map(len, own)) == len(set().union(*own)) == adapters - adapters // 2
    assert max(map(len, own)) - min(map(len, own)) <= 1


def test_private_paths_need_an_adapter_for_every_task():
    with pytest.raises(
        StructureError, match="an adapter for each of the 3 tasks, but a budget of 29 has only 2"
    ):
        fixed_structure("private_paths", whole(), 29)


def saved(structure: Structure, folder: Path, form: str) -> Path:
    data = structure.to_dict()
    if form == "folder":
        (folder / "structure.json").write_text(json.dumps(data))
        return folder
    path = folder / f"{form}.json"
    path.write_text(json.dumps(data if form == "structure" else {"tasks": {}, "structure": data}))
    return path


@pytest.mark.parametrize("form", ["structure", "report", "folder"])
def test_the_structure_of_another_run(form, tmp_path):
    other = fixed_structure("random_paths", whole(), 120, seed=8)
    path = saved(other, tmp_path, form)
    assert fixed_structure(f"file:{path}", whole(), 120) == other
    assert fixed_structure(f"file:{path}", whole(), None) == other
    one = fixed_structure(f"task:b:{path}", whole(tasks=("x", "y")), 120)
    assert one.tasks == ("x", "y")
    assert one.paths("x") == one.paths("y") == other.paths("b")


def test_tasks_in_another_order_keep_their_paths(tmp_path):
    other = fixed_structure("random_paths", whole(), 120)
    turned = fixed_structure(f"file:{saved(other, tmp_path, 'report')}", whole(tasks=("c", "a", "b")), None)
    assert turned.tasks == ("c", "a", "b")
    assert all(turned.paths(task) == other.paths(task) for task in TASKS)


def test_a_compact_structure_fits_a_larger_pool(tmp_path):
    other = fixed_structure("random_paths", whole(), 70)
    found = fixed_structure(f"file:{saved(other.compacted(), tmp_path, 'structure')}", whole(), 70)
    assert found.counts() == other.counts()
    assert found.parameters() == other.parameters()
    assert {site.pool_size for site in found.sites.values()} == {4}


@pytest.mark.parametrize(
    ("spec", "pool", "budget", "message"),
    [
        (
            "file:{}",
            whole(tasks=("a", "b")),
            None,
            "is for the tasks a, b, c, this run has a, b; use task:NAME:",
        ),
        ("file:{}", whole(sites=2), None, "has the site 'layer.2', which this run has not; it has layer.0"),
        (
            "file:{}",
            whole(pool=2),
            None,
            r"has 4 adapters of rank 2 \(10 parameters\) .* this run 2 of rank 2",
        ),
        ("file:{}", whole(cost=11), None, r"this run 4 of rank 2 \(11\); take the same backbone"),
        ("file:{}", whole(), 50, "takes 120, more than the budget of 50; raise it or leave it out"),
        ("task:d:{}", whole(), None, "has no task 'd'; it has a, b, c"),
        (
            "file:{}.not",
            whole(),
            None,
            "there is no structure file .*.not; give a structure.json or report.json",
        ),
    ],
)
def test_structures_that_do_not_fit_are_one_clear_line(spec, pool, budget, message, tmp_path):
    path = saved(fixed_structure("random_paths", whole(), 120), tmp_path, "structure")
    with pytest.raises(StructureError, match=message) as caught:
        fixed_structure(spec.format(path), pool, budget)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ('{"structure": null}', "not a structure of format 1: found 'NoneType'"),
        ("[]", "not a structure of format 1: found 'list'"),
    ],
)
def test_files_without_a_structure(text, message, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(StructureError, match=message):
        fixed_structure(f"file:{path}", whole(), None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "unifrom",
            r"structure='unifrom' is not known; did you mean 'uniform'\? Allowed: random, random_paths, ",
        ),
        ("file:", "'file:' is not known"),
        ("task:a", "'task:a' is not known"),
        ("random", "'random' needs a budget"),
    ],
)
def test_unknown_names_and_missing_budgets(name, message):
    with pytest.raises(ConfigError, match=message):
        fixed_structure(name, whole(), None)


def test_task_budgets():
    limited = fixed_structure("random_paths", whole(), 120, task_budget=50)
    assert all(limited.parameters(task) <= 50 for task in TASKS)
    private = fixed_structure("private_paths", whole(), 120, task_budget=40)
    assert {private.parameters(task) for task in TASKS} == {40}
    with pytest.raises(
        StructureError, match="takes 120 for task 'a', more than the task budget of 50; raise it"
    ):
        fixed_structure("random", whole(), 120, task_budget=50)
