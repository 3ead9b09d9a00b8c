from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import StructureError
from graftwork.structure import SiteScores, SiteStructure, Structure, choose_structure

NAMES = st.text(min_size=1, max_size=6)


@st.composite
def structures(draw) -> Structure:
    tasks = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    sites = {}
    for name in draw(st.lists(NAMES, max_size=4, unique=True)):
        size = draw(st.integers(1, 5))
        row = st.lists(st.booleans(), min_size=size, max_size=size)
        table = draw(st.lists(row, min_size=len(tasks), max_size=len(tasks)))
        sites[name] = SiteStructure(size, draw(st.integers(1, 8)), draw(st.integers(1, 999)), table)
    return Structure(tuple(tasks), sites)


@given(structures())
def test_json_round_trip(structure):
    assert Structure.from_json(structure.to_json()) == structure


@given(structures())
def test_counts_and_parameters_agree(structure):
    stored = {(name, k) for task in structure.tasks for name, k in structure.paths(task)}
    assert structure.parameters() == sum(structure.sites[name].cost for name, _ in stored)
    for task in structure.tasks:
        assert structure.counts()[task] == len(structure.paths(task))
        assert structure.parameters(task) == sum(structure.sites[n].cost for n, _ in structure.paths(task))
        assert structure.parameters(task) <= structure.parameters()


@given(structures())
def test_only_keeps_one_path(structure):
    for task in structure.tasks:
        one = structure.only(task)
        assert one.tasks == (task,)
        assert one.paths(task) == structure.paths(task)
        assert one.parameters() == structure.parameters(task)


@given(structures())
def test_compacted_keeps_paths_and_nothing_unused(structure):
    compact = structure.compacted()
    assert compact.counts() == structure.counts()
    assert compact.parameters() == structure.parameters()
    assert all(all(site.used) for site in compact.sites.values())
    assert all(site.pool_size for site in compact.sites.values())
    assert compact.compacted() == compact


@given(structures(), structures())
def test_diff_turns_one_into_the_other(old, new):
    changes = old.diff(new)
    for task in {*old.tasks, *new.tasks}:
        before = old.paths(task) if task in old.tasks else set()
        after = new.paths(task) if task in new.tasks else set()
        change = changes.get(task, {"opened": [], "closed": []})
        assert (before | set(change["opened"])) - set(change["closed"]) == after
        assert (task in changes) == (before != after)
    assert old.diff(old) == {}


@st.composite
def scores(draw):
    tasks = tuple(f"t{i}" for i in range(draw(st.integers(1, 4))))
    sites = {}
    for index in range(draw(st.integers(1, 5))):
        size = draw(st.integers(1, 4))
        floats = st.lists(st.floats(0, 1), min_size=size, max_size=size)
        table = tuple(tuple(draw(floats)) for _ in tasks)
        strength = tuple(draw(st.lists(st.floats(0, 9), min_size=size, max_size=size)))
        sites[f"s{index}"] = SiteScores(2, draw(st.integers(1, 50)), table, strength)
    return tasks, sites


@given(scores(), st.integers(1, 900))
def test_a_budget_is_met_closer_than_one_adapter(given_scores, budget):
    tasks, sites = given_scores
    if budget < min(site.cost for site in sites.values()):
        with pytest.raises(StructureError, match="smaller than one adapter"):
            choose_structure(tasks, sites, budget)
        return
    structure = choose_structure(tasks, sites, budget)
    left = budget - structure.parameters()
    assert left >= 0
    for site in structure.sites.values():
        assert all(site.used) or site.cost > left


@given(scores(), st.integers(50, 900))
def test_better_adapters_are_kept_first_among_equal_costs(given_scores, budget):
    tasks, sites = given_scores
    sites = {name: SiteScores(s.r, 50, s.prob_open, s.strength) for name, s in sites.items()}
    structure = choose_structure(tasks, sites, budget)
    kept, dropped = [], []
    for name, site in sites.items():
        for k, used in enumerate(structure.sites[name].used):
            best = max(round(row[k], 3) for row in site.prob_open)
            (kept if used else dropped).append((best, site.strength[k]))
    if kept and dropped:
        assert min(kept) >= max(dropped)


def test_ties_are_broken_by_strength_not_by_place():
    probabilities = ((0.9901, 0.9899), (0.9899, 0.9901))
    weak = SiteScores(2, 10, probabilities, (1.0, 2.0))
    strong = SiteScores(2, 10, probabilities, (3.0, 4.0))
    for order in ({"a": weak, "b": strong}, {"b": strong, "a": weak}):
        structure = choose_structure(("x", "y"), order, 25)
        assert structure.paths("x") == structure.paths("y") == {("b", 0), ("b", 1)}


def test_gates_of_stored_adapters_cost_nothing():
    site = SiteScores(2, 10, ((0.9, 0.6), (0.7, 0.1)), (1.0, 1.0))
    structure = choose_structure(("x", "y"), {"s": site}, 10)
    assert structure.sites["s"].open == ((True, False), (True, False))


def test_a_generous_budget_does_not_open_gates_a_task_has_closed():
    site = SiteScores(2, 10, ((0.9, 0.02), (0.05, 0.03)), (1.0, 1.0))
    chosen = choose_structure(("a", "b"), {"s": site}, 1000)
    assert chosen.sites["s"].open == ((True, True), (False, True))


def test_gates_shrunk_all_alike_keep_their_proportions():
    site = SiteScores(2, 10, ((0.2, 0.01), (0.15, 0.02)), (1.0, 1.0))
    chosen = choose_structure(("a", "b"), {"s": site}, 10)
    assert chosen.sites["s"].open == ((True, False), (True, False))


def test_without_a_budget_gates_of_at_least_a_half_open():
    site = SiteScores(2, 10, ((0.5, 0.49), (0.0, 1.0)), (1.0, 1.0))
    assert choose_structure(("x", "y"), {"s": site}, None).sites["s"].open == ((True, False), (False, True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON"),
        ("[]", "not a structure of format 1: found 'list'"),
        ('{"format": 7}', "not a structure of format 1: found 7"),
        ('{"format": 1, "tasks": ["a"]}', "not a structure: KeyError at 'sites'"),
        ('{"format": 1, "tasks": ["a"], "sites": []}', "not a structure: AttributeError"),
        (
            '{"format": 1, "tasks": ["a"], '
            '"sites": {"s": {"pool_size": 2, "r": 1, "cost": 1, "open": [[1]]}}}',
            "a pool of 2 has a row of 1",
        ),
        (
            '{"format": 1, "tasks": ["a"], "sites": {"s": {"pool_size": 1, "r": 1, "cost": 1, "open": []}}}',
            "gates for 0 tasks, but the structure names 1",
        ),
        (
            '{"format": 1, "tasks": ["a"], '
            '"sites": {"s": {"pool_size": 1, "r": -1, "cost": 1, "open": [[1]]}}}',
            "r=-1 of a site must be a whole number",
        ),
    ],
)
def test_a_damaged_structure_is_one_clear_line(text, message):
    with pytest.raises(StructureError, match=message) as caught:
        Structure.from_json(text)
    assert "\n" not in str(caught.value)


def test_unknown_task():
    structure = Structure(("a", "b"), {})
    for call in (structure.only, structure.parameters, structure.paths):
        with pytest.raises(StructureError, match="unknown task 'c'; the structure has a, b"):
            call("c")
