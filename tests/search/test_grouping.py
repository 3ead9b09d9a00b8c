"""Groups of tasks: distances of their inputs, the groups they make, and the paths that groups start with."""

from __future__ import annotations

import itertools

import pytest
import torch

import graftwork as gw
from graftwork.errors import ConfigError, DataError
from graftwork.gates.importance import ImportanceState
from graftwork.search.discretise import set_fixed_structure_
from graftwork.search.grouping import group_tasks, input_distances
from graftwork.search.search import StructureSearch
from graftwork.sparsity.start import starting_paths
from graftwork.structure.groups import check_groups
from graftwork.tuner.view import graft_view
from toys import HOULSBY, graft_layers, grafted, tiny

TASKS = ["cats", "dogs", "birds"]


def batches(
    rows: int = 64, length: int = 6, vocabularies: tuple[tuple[int, int], ...] = ((1, 20), (1, 20), (24, 40))
):
    """Rows of tokens that are drawn from a vocabulary per task; the last two tokens are padding."""
    draw = torch.Generator().manual_seed(0)
    for start in range(0, rows, 16):
        for task, (low, high) in enumerate(vocabularies):
            ids = torch.randint(low, high, (min(16, rows - start), length + 2), generator=draw)
            mask = torch.ones_like(ids)
            mask[:, -2:] = 0
            yield {
                "input_ids": ids,
                "attention_mask": mask,
                "graft_rows": torch.full((len(ids),), task),
                "labels": torch.zeros(len(ids)),
            }


def test_distances_tell_kinds_of_inputs_apart_and_draw_nothing():
    model = tiny().train()
    state = torch.get_rng_state()
    found = input_distances(model, batches(), TASKS)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert torch.equal(found, found.T)
    assert not found.diagonal().any()
    assert abs(float(found[0, 1])) < 0.1
    assert float(found[0, 2]) > 0.5
    assert float(found[1, 2]) > 0.5
    assert group_tasks(found, TASKS) == [["cats", "dogs"], ["birds"]]


def test_distances_are_those_of_the_formula_and_padding_does_not_count():
    model = tiny().eval()
    found = input_distances(model, batches(rows=8), TASKS)
    means = {task: [] for task in range(3)}
    with torch.no_grad():
        for batch in batches(rows=8):
            hidden = model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                output_hidden_states=True,
            )
            rows = torch.stack([layer[:, :-2].mean(dim=1) for layer in hidden.hidden_states], dim=1)
            means[int(batch["graft_rows"][0])].append(rows.double())
    rows = {task: torch.cat(parts) for task, parts in means.items()}
    layers = rows[0].shape[1]
    expected = 0.0
    for layer in range(layers):
        a, c = rows[0][:, layer], rows[2][:, layer]
        va, vc = a.var(dim=0).sum(), c.var(dim=0).sum()
        apart = (a.mean(dim=0) - c.mean(dim=0)).square().sum() - va / len(a) - vc / len(c)
        expected += float(apart / ((va + vc) / 2)) / layers
    assert float(found[0, 2]) == pytest.approx(expected, rel=1e-4)


def test_a_task_needs_two_rows():
    with pytest.raises(DataError, match="task 'birds' has fewer than two rows"):
        input_distances(tiny(), (b for b in batches() if int(b["graft_rows"][0]) < 2), TASKS)
    with pytest.raises(DataError, match="task 'cats' has fewer than two rows"):
        input_distances(tiny(), [], TASKS)


def test_groups():
    def table(pairs: dict[tuple[int, int], float], tasks: int) -> torch.Tensor:
        found = torch.full((tasks, tasks), 9.0).fill_diagonal_(0.0)
        for (a, b), value in pairs.items():
            found[a, b] = found[b, a] = value
        return found

    names = ["a", "b", "c", "d", "e"]
    assert group_tasks(table({(0, 2): 0.1, (1, 3): 0.2}, 5), names) == [["a", "c"], ["b", "d"], ["e"]]
    # A third task joins by its mean distance to both, not by the shortest.
    near = {(0, 1): 0.05, (1, 2): 0.1}
    assert group_tasks(table({**near, (0, 2): 0.2}, 3), names[:3]) == [["a", "b", "c"]]
    assert group_tasks(table({**near, (0, 2): 0.9}, 3), names[:3]) == [["a", "b"], ["c"]]
    assert group_tasks(table({}, 2), names[:2]) == [["a"], ["b"]]
    assert group_tasks(torch.zeros(4, 4), names[:4]) == [["a", "b", "c", "d"]]
    assert group_tasks(torch.full((2, 2), 0.3), names[:2], threshold=0.4) == [["a", "b"]]


def test_a_grouped_start_deals_every_adapter_to_one_group():
    model = grafted(gate_start="grouped", groups=[["cats", "birds"], ["dogs"]], pool_size=6, budget=300)
    paths = starting_paths(graft_view(model))
    for table in paths:
        assert torch.equal(table[0], table[2])
        assert torch.equal(table[0], ~table[1])
    assert sum(int(table[1].sum()) for table in paths) == 6 * len(paths) // 3
    search = StructureSearch(model, 10)
    search.begin(1.0)
    for layer, table in zip(graft_layers(model), paths, strict=True):
        assert torch.equal(layer.prob_open("default") > 0.5, table)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (None, "groups= is missing"),
        ([["cats"], ["dogs"]], "must hold each of the tasks cats, dogs, birds once"),
        ([["cats", "cats"], ["dogs", "birds"]], "must hold each"),
        ([["cats", "dogs", "birds"], []], "not empty"),
    ],
)
def test_groups_must_be_a_partition(groups, message):
    with pytest.raises(ConfigError, match=message):
        check_groups(groups, TASKS)
    model = grafted(gate_start="grouped", groups=groups, budget=300)
    with pytest.raises(ConfigError, match=message):
        StructureSearch(model, 10).begin(1.0)
    with pytest.raises(ConfigError, match="lists of task names"):
        gw.GraftConfig(groups="cats")


def test_importance_keeps_groups_together_and_ranks_by_the_sum_of_their_shares():
    groups = [["cats", "dogs"], ["birds"]]
    settings = {"gates": "importance", "gate_start": "grouped", "groups": groups, "pool_size": 3}
    model = grafted(budget=4 * 66, **settings, **HOULSBY)
    search = StructureSearch(model, 100, gw.Schedule(0.2, 0.6, 0.8))
    search.begin(1.0)
    own = torch.cat(starting_paths(graft_view(model)), dim=1)
    draw = torch.Generator().manual_seed(1)
    tables = torch.rand(3, own.shape[1], generator=draw)
    for layer, table in zip(graft_layers(model), tables.split(3, dim=1), strict=True):
        state = ImportanceState.of(layer.graft_state["default"])
        state.mean.copy_(table)
        state.uncertainty.fill_(1.0)
    search.control.update(graft_view(model), 1.0)
    shares = tables * own / (tables * own).sum(dim=1, keepdim=True)
    expected = torch.zeros(own.shape[1], dtype=torch.bool)
    expected[shares.sum(dim=0).topk(4).indices] = True
    masks = torch.cat(
        [ImportanceState.of(layer.graft_state["default"]).mask for layer in graft_layers(model)], dim=1
    )
    assert torch.equal(masks > 0, own & expected)
    structure = gw.structure_of(model)
    assert structure.paths("cats") == structure.paths("dogs")
    assert not structure.paths("cats") & structure.paths("birds")
    assert structure.parameters() == 4 * 66


def test_a_saved_configuration_keeps_its_groups_and_a_task_taken_out_leaves_them(tmp_path):
    model = grafted(gates="fixed", gate_start="grouped", groups=[["cats", "birds"], ["dogs"]])
    gw.compact_(model, tasks=["cats", "dogs"])
    model.save_pretrained(tmp_path)
    again = gw.GraftConfig.from_pretrained(tmp_path)
    assert again.groups == [["cats"], ["dogs"]]


def test_a_random_start_is_seeded_and_leaves_no_adapter_without_a_task():
    def start(seed: int) -> torch.Tensor:
        model = grafted(gate_start="random", start_seed=seed, pool_size=60, budget=300)
        return torch.cat(starting_paths(graft_view(model)), dim=1)

    first = start(1)
    assert torch.equal(first, start(1))
    assert not torch.equal(first, start(2))
    assert first.any(dim=0).all()
    # Expected: 1/2, and one of three gates for the eighth of the adapters that would have none.
    assert float(first.double().mean()) == pytest.approx(1 / 2 + 1 / 24, abs=0.06)
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(first, 2))


@pytest.mark.parametrize("gates", ["importance", "hard_concrete"])
def test_a_search_begins_with_its_random_start(gates):
    model = grafted(gates=gates, gate_start="random", start_seed=3, budget=4 * 66, pool_size=6, **HOULSBY)
    search = StructureSearch(model, 10, gw.Schedule(0.2, 0.6, 0.8))
    search.begin(1.0)
    paths = starting_paths(graft_view(model))
    for layer, table in zip(graft_layers(model), paths, strict=True):
        assert torch.equal(layer.prob_open("default") > 0.5, table)
    if gates == "importance":
        draw = torch.Generator().manual_seed(0)
        for layer in graft_layers(model):
            state = ImportanceState.of(layer.graft_state["default"])
            for measured in (state.mean, state.uncertainty):
                measured.copy_(torch.rand(3, 6, generator=draw))
        search.control.update(graft_view(model), 1.0)
        structure = gw.structure_of(model)
        assert structure.parameters() == 4 * 66
        # Who uses what was drawn; what is stored was chosen.
        own = dict(zip(structure.sites, paths, strict=True))
        for task, name in enumerate(structure.tasks):
            stored = {place for other in structure.tasks for place in structure.paths(other)}
            assert structure.paths(name) == {(site, k) for site, k in stored if own[site][task, k]}


def test_a_shared_start_opens_everything():
    assert all(table.all() for table in starting_paths(graft_view(grafted(budget=300))))


def test_grouped_paths_divide_the_budget_by_the_tasks_of_a_group():
    groups = [["cats", "birds"], ["dogs"]]
    model = grafted(groups=groups, budget=9 * 66, pool_size=6, **HOULSBY)
    structure = set_fixed_structure_(model, "grouped_paths")
    assert structure.paths("cats") == structure.paths("birds")
    assert not structure.paths("cats") & structure.paths("dogs")
    assert {task: len(structure.paths(task)) for task in TASKS} == {"cats": 6, "dogs": 3, "birds": 6}
    assert structure.parameters() == 9 * 66
    # Spread over the sites: none has two more of a group than another.
    for task in TASKS:
        per_site = [sum(place[0] == site for place in structure.paths(task)) for site in structure.sites]
        assert max(per_site) - min(per_site) <= 1
    with pytest.raises(ConfigError, match="groups= is missing"):
        set_fixed_structure_(grafted(budget=300), "grouped_paths")
