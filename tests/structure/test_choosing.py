from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import StructureError
from graftwork.structure.choosing import choose_family, choose_structure
from graftwork.structure.ranking import RANKINGS, SiteScores


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
    sites = {name: SiteScores(s.r, 50, s.scores, s.strength) for name, s in sites.items()}
    structure = choose_structure(tasks, sites, budget)
    kept, dropped = [], []
    for name, site in sites.items():
        for k, used in enumerate(structure.sites[name].used):
            best = max(round(row[k], 3) for row in site.scores)
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


def test_rankings_differ_in_what_they_keep():
    site = SiteScores(2, 10, ((0.9, 0.8, 0.1),), (1.0, 2.0, 9.0))
    kept = {
        rank_by: choose_structure(("x",), {"s": site}, 10, rank_by=rank_by).sites["s"].used
        for rank_by in ("prob_open", "strength", "product")
    }
    assert kept == {
        "prob_open": (True, False, False),
        "strength": (False, False, True),
        "product": (False, True, False),
    }


def test_by_strength_the_gates_only_say_who_uses_what_is_stored():
    site = SiteScores(2, 10, ((0.1, 0.9), (0.04, 0.9)), (9.0, 1.0))
    structure = choose_structure(("x", "y"), {"s": site}, 10, rank_by="strength")
    assert structure.sites["s"].open == ((True, False), (False, False))


@pytest.mark.parametrize("rank_by", RANKINGS)
def test_complete_ties_depend_on_names_alone(rank_by):
    names = [f"layer.{i}" for i in range(12)]
    sites = {name: SiteScores(2, 10, ((0.5, 0.5),), (1.0, 1.0)) for name in names}
    forward = choose_structure(("x",), sites, 60, rank_by=rank_by)
    backward = choose_structure(("x",), {name: sites[name] for name in names[::-1]}, 60, rank_by=rank_by)
    assert forward.paths("x") == backward.paths("x")
    first = {(name, k) for name in names[:3] for k in range(2)}
    last = {(name, k) for name in names[-3:] for k in range(2)}
    assert forward.paths("x") not in (first, last)


def priced(sites: dict[str, SiteScores], prices: list[float]) -> dict[str, SiteScores]:
    return {
        name: SiteScores(s.r, s.cost, s.scores, s.strength, price)
        for (name, s), price in zip(sites.items(), prices, strict=False)
    }


@given(scores(), st.floats(0.5, 30), st.lists(st.floats(0.1, 5), min_size=5, max_size=5))
def test_a_budget_is_met_in_the_unit_of_the_prices(given_scores, budget, prices):
    tasks, sites = given_scores
    sites = priced(sites, prices)
    paid = {name: site.takes for name, site in sites.items()}
    if budget < min(paid.values()):
        with pytest.raises(StructureError, match="smaller than one adapter"):
            choose_structure(tasks, sites, budget)
        return
    structure = choose_structure(tasks, sites, budget)
    left = budget - structure.total(paid)
    assert left >= -1e-9
    for name, site in structure.sites.items():
        assert all(site.used) or paid[name] > left - 1e-9
    parameters = {name: site.cost for name, site in structure.sites.items()}
    assert structure.parameters() == structure.total(parameters)
    assert structure.parameters(tasks[0]) == structure.total(parameters, tasks[0])


def test_prices_that_add_up_to_the_budget_but_for_rounding_fit():
    sites = {f"s{i}": SiteScores(1, 7, ((0.9,),), (1.0,), 0.1) for i in range(5)}
    assert choose_structure(("x",), sites, 0.3).counts() == {"x": 3}


@given(scores(), st.integers(50, 400), st.integers(50, 200))
def test_no_task_exceeds_its_budget_and_keeps_its_best(given_scores, budget, task_budget):
    tasks, sites = given_scores
    structure = choose_structure(tasks, sites, budget, task_budget=task_budget)
    stored = {(name, k) for name, site in structure.sites.items() for k, used in enumerate(site.used) if used}
    assert structure.parameters() <= budget
    for t, task in enumerate(tasks):
        assert structure.parameters(task) <= task_budget
        for name, k in stored - structure.paths(task):
            keenest = max(row[k] for row in sites[name].scores)
            unwanted = sites[name].scores[t][k] < 0.5 * keenest
            mine = (round(sites[name].scores[t][k], 3), sites[name].strength[k])
            # What is left out does not fit beside the better ones that were taken before it.
            better = sum(
                sites[n].cost
                for n, j in structure.paths(task)
                if (round(sites[n].scores[t][j], 3), sites[n].strength[j]) >= mine
            )
            assert unwanted or sites[name].cost > task_budget - better


def test_a_task_budget_leaves_the_stored_budget_met_where_tasks_differ():
    own = SiteScores(1, 10, ((0.9, 0.9, 0.8, 0.1, 0.1, 0.1), (0.1, 0.1, 0.1, 0.9, 0.7, 0.6)), (1.0,) * 6)
    structure = choose_structure(("x", "y"), {"s": own}, 40, task_budget=20)
    assert structure.parameters() == 40
    assert structure.sites["s"].open == (
        (True, True, False, False, False, False),
        (False, False, False, True, True, False),
    )


def test_tasks_that_want_the_same_store_no_more_than_one_path():
    same = SiteScores(1, 10, ((0.9, 0.8, 0.7), (0.9, 0.8, 0.7)), (1.0,) * 3)
    structure = choose_structure(("x", "y"), {"s": same}, 30, task_budget=20)
    assert structure.parameters() == structure.parameters("x") == structure.parameters("y") == 20


@given(
    scores(),
    st.lists(st.integers(50, 600), min_size=1, max_size=4, unique=True),
    st.none() | st.integers(50, 300),
    st.sampled_from(sorted(RANKINGS)),
)
def test_a_family_is_nested_and_within_its_budgets(given_scores, budgets, task_budget, rank_by):
    tasks, sites = given_scores
    family = choose_family(tasks, sites, budgets, task_budget=task_budget, rank_by=rank_by)
    largest = choose_structure(tasks, sites, max(budgets), task_budget=task_budget, rank_by=rank_by)
    ordered = sorted(zip(budgets, family, strict=True), key=lambda pair: pair[0])
    assert ordered[-1][1] == largest
    for budget, structure in ordered:
        assert structure.parameters() <= budget
    for (_, small), (_, large) in itertools.pairwise(ordered):
        for task in tasks:
            assert small.paths(task) <= large.paths(task)
            assert task_budget is None or small.parameters(task) <= task_budget


@given(scores(), st.lists(st.integers(50, 600), min_size=1, max_size=4, unique=True))
def test_among_equal_costs_a_family_is_what_each_budget_gives_alone(given_scores, budgets):
    tasks, sites = given_scores
    sites = {name: SiteScores(s.r, 50, s.scores, s.strength) for name, s in sites.items()}
    for budget, structure in zip(budgets, choose_family(tasks, sites, budgets), strict=True):
        assert structure == choose_structure(tasks, sites, budget)


def test_a_task_budget_below_one_adapter():
    site = SiteScores(2, 10, ((0.9,),), (1.0,))
    with pytest.raises(StructureError, match=r"the task budget of 9 is smaller than one adapter \(10\)"):
        choose_structure(("x",), {"s": site}, 10, task_budget=9)
