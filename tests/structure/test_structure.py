from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import StructureError
from graftwork.structure.structure import SiteStructure, Structure

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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON"),
        ("[]", "not a structure of format 1: found 'list'"),
        ('{"format": 7}', "not a structure of format 1: found 7"),
        ('{"format": 1, "tasks": ["a"]}', "not a structure: it needs a list `tasks` and a mapping `sites`"),
        (
            '{"format": 1, "tasks": ["a"], "sites": []}',
            "not a structure: it needs a list `tasks` and a mapping `sites`",
        ),
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
