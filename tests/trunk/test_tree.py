"""The tree of paths, as data, and the rows that it makes of a batch."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.trunk.carrying import all_rows, some_rows
from graftwork.trunk.tree import Tree, grow

SIGNATURES = st.integers(1, 6).flatmap(
    lambda tasks: st.lists(
        st.lists(st.integers(0, 2), min_size=tasks, max_size=tasks), min_size=1, max_size=5
    )
)


def test_tasks_that_have_parted_do_not_meet_again():
    tree = grow(4, ["aaaa", "abab", "aaaa", "aaab"])
    assert tree.nodes == ((0, 0, 0, 0), (0, 1, 0, 1), (0, 1, 0, 1), (0, 1, 0, 2))
    assert tree.widths == (1, 2, 2, 3)
    assert tree.groups(3) == [[0, 2], [1], [3]]
    assert tree.passes([1, 1, 2]) == (2 + 2 + 3 * 2) / 4
    assert Tree(((0, 1, 1),)).passes([]) == 2.0


@settings(max_examples=60, deadline=None)
@given(SIGNATURES)
def test_tasks_are_together_as_long_as_they_agree(signatures):
    tree = grow(len(signatures[0]), signatures)
    for section, nodes in enumerate(tree.nodes):
        for one, node in enumerate(nodes):
            for two, other in enumerate(nodes):
                agree = all(some[one] == some[two] for some in signatures[: section + 1])
                assert (node == other) == agree
    assert sorted(tree.widths) == list(tree.widths)


@settings(max_examples=60, deadline=None)
@given(SIGNATURES, st.integers(1, 4), st.randoms(use_true_random=False))
def test_every_row_reaches_its_tasks_by_rows_of_their_groups(signatures, batch, random):
    """Followed back from the end, a row and a task pass only rows of that row and of tasks like it."""
    tasks = len(signatures[0])
    tree = grow(tasks, signatures)
    wanted = torch.tensor([[random.random() < 0.5 for _ in range(tasks)] for _ in range(batch)])
    wanted[range(batch), [random.randrange(tasks) for _ in range(batch)]] = True
    for some, carried in (
        (wanted, some_rows(tree, wanted)),
        (None, all_rows(tree, batch, torch.device("cpu"))),
    ):
        asked = torch.ones(batch, tasks, dtype=torch.bool) if some is None else some
        for row, task in asked.nonzero().tolist():
            place = int(carried.place[row, task])
            assert int(carried.source[place]) == row
            for branch in reversed(carried.branches):
                assert (
                    tree.nodes[branch.section][int(branch.tasks[place])] == tree.nodes[branch.section][task]
                )
                place = int(branch.origin[place])
            assert place == row
        last = {(row, tree.nodes[-1][task]) for row, task in asked.nonzero().tolist()}
        assert len(carried.source) == len(last)
