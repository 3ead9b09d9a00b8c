from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertModel

import graftwork as gw
from graftwork.errors import ConfigError, StructureError
from graftwork.search.discretise import set_fixed_structure_
from graftwork.structure.fixed import FIXED_STRUCTURES
from toys import HOULSBY, TASKS, graft_layers, grafted, outputs, random_structure, spread_gates, tiny

ROWS = torch.tensor([2, 0, 1, 1])


@pytest.mark.parametrize("position", ["sequential", "parallel"])
@pytest.mark.parametrize("placement", ["attention+ffn", "block"])
@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_compact_outputs_equal_the_discretised_ones(kind, placement, position):
    activation = "gelu" if position == "sequential" else "identity"
    model = grafted(tiny(kind), placement=placement, position=position, activation=activation)
    gw.set_structure_(model, random_structure(model))
    discretised = gw.structure_of(model)
    expected = outputs(model, graft_rows=ROWS)
    compact = gw.compact_(model)
    torch.testing.assert_close(outputs(model, graft_rows=ROWS), expected, atol=1e-5, rtol=0)
    assert compact == discretised.compacted() == gw.structure_of(model)
    kept = sum(
        parameter.numel()
        for layer in graft_layers(model)
        for part in (layer.graft_down, layer.graft_bias, layer.graft_up)
        for parameter in part.values()
    )
    assert kept == compact.parameters()
    assert not any("graft_gate" in name for name, _ in model.named_parameters())


@given(share=st.floats(0, 1), seed=st.integers(0, 999), tasks=st.permutations(TASKS), count=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_any_selection_of_tasks_keeps_their_outputs(share, seed, tasks, count):
    model = grafted()
    gw.set_structure_(model, random_structure(model, share, seed))
    tasks = tasks[:count]
    whole = gw.structure_of(model)
    expected = {}
    for task in tasks:
        with gw.route(model, task):
            expected[task] = outputs(model)
    compact = gw.compact_(model, tasks=tasks)
    assert compact.tasks == tuple(tasks)
    for task in tasks:
        assert compact.counts()[task] == whole.counts()[task]
        with gw.route(model, task):
            torch.testing.assert_close(outputs(model), expected[task], atol=1e-5, rtol=0)


def test_unused_sites_are_unwrapped_and_cost_nothing():
    model = grafted()
    structure = random_structure(model, share=1.0)
    name = "encoder.layer.1.output.dense"
    gw.set_structure_(model, gw.Structure(structure.tasks, {name: structure.sites[name]}))
    gw.compact_(model)
    kinds = {name: type(module) for name, module in model.base_model.model.named_modules()}
    assert kinds["encoder.layer.0.output.dense"] is torch.nn.Linear
    assert kinds["encoder.layer.1.attention.output.dense"] is torch.nn.Linear
    assert kinds[name] is gw.GraftLayer
    gw.set_structure_(model, gw.Structure(structure.tasks, {}))
    gw.compact_(model)
    assert graft_layers(model) == []
    assert [type(module) for module in model.base_model.model.modules()] == [
        type(module) for module in tiny().modules()
    ]
    assert isinstance(model.base_model.model, BertModel)
    with gw.route(model, "cats"):
        assert torch.equal(outputs(model), outputs(tiny()))


def test_one_task_needs_no_route():
    model = grafted()
    gw.set_structure_(model, random_structure(model))
    with gw.route(model, "birds"):
        expected = outputs(model)
    gw.compact_(model, tasks=["birds"])
    torch.testing.assert_close(outputs(model), expected, atol=1e-5, rtol=0)


def test_learned_gates_are_discretised_first():
    model = grafted(budget=300)
    spread_gates(model)
    wanted = gw.structure_of(model)
    assert wanted.parameters() <= 300 < wanted.parameters() + 66
    assert not graft_layers(model)[0].is_decided("default")
    assert gw.compact_(model) == wanted.compacted()


def test_compacting_twice_changes_nothing():
    model = grafted()
    gw.set_structure_(model, random_structure(model))
    first = gw.compact_(model)
    expected = outputs(model, graft_rows=ROWS)
    assert gw.compact_(model) == first
    assert torch.equal(outputs(model, graft_rows=ROWS), expected)


def test_discretise_keeps_weights_and_takes_the_ranking():
    model = grafted(penalty=1.0)
    spread_gates(model)
    before = {name: value.clone() for name, value in model.state_dict().items() if "graft_mask" not in name}
    structure = gw.discretise_(model)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    for name, layer in zip(structure.sites, graft_layers(model), strict=True):
        probability = layer.pools["default"].family.prob_open(layer.logits("default"))
        assert structure.sites[name].open == tuple(map(tuple, (probability >= 0.5).tolist()))


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["cats", "cows"], "unknown task 'cows'; the model has cats, dogs, birds"),
        (["cats", "cats"], "different task names"),
        ([], "at least one"),
        ("cats", "must be a list"),
    ],
)
def test_bad_selections_leave_the_model_alone(tasks, message):
    model = grafted()
    gw.set_structure_(model, random_structure(model))
    before = gw.structure_of(model)
    with pytest.raises(StructureError, match=message):
        gw.compact_(model, tasks=tasks)
    assert gw.structure_of(model) == before


def test_structures_that_do_not_fit_are_refused():
    model = grafted()
    good = gw.structure_of(model)
    site = next(iter(good.sites))
    with pytest.raises(StructureError, match="for the tasks cats, the model for cats, dogs, birds"):
        gw.set_structure_(model, good.only("cats"))
    with pytest.raises(StructureError, match="the model has no site 'x'"):
        gw.set_structure_(model, gw.Structure(good.tasks, {"x": good.sites[site]}))
    other = gw.structure_of(grafted(pool_size=2))
    with pytest.raises(StructureError, match=r"has \(3, 2\) \(tasks, adapters\), the model \(3, 3\)"):
        gw.set_structure_(model, other)
    with pytest.raises(ConfigError, match="has no graft adapter; wrap it"):
        gw.compact_(tiny())


def test_ranking_and_task_budget_of_the_configuration_decide():
    plain, by_strength = (grafted(budget=400, rank_by=rank_by) for rank_by in ("prob_open", "strength"))
    limited = grafted(budget=400, task_budget=140)
    for model in (plain, by_strength, limited):
        spread_gates(model)
    stored = {
        (site, k): float(layer.strength("default")[k])
        for site, layer in zip(gw.structure_of(plain).sites, graft_layers(plain), strict=True)
        for k in range(3)
    }
    structure = gw.discretise_(by_strength)
    kept = {(name, k) for name, site in structure.sites.items() for k, used in enumerate(site.used) if used}
    assert kept == set(sorted(stored, key=stored.__getitem__)[-len(kept) :])
    assert structure != gw.structure_of(plain)
    small = gw.discretise_(limited)
    assert [small.parameters(task) for task in TASKS] == [128, 128, 128]
    assert small.parameters() <= 400


@pytest.mark.parametrize("name", sorted(FIXED_STRUCTURES))
def test_controls_are_set_on_a_model_and_survive_compaction(name):
    model = grafted(gates="fixed", groups=[["cats", "birds"], ["dogs"]])
    model.peft_config["default"].budget = 1000
    structure = set_fixed_structure_(model, name, seed=5)
    assert gw.structure_of(model) == structure
    assert 1000 - 80 < structure.parameters() <= 1000
    expected = outputs(model, graft_rows=ROWS)
    assert gw.compact_(model) == structure.compacted()
    torch.testing.assert_close(outputs(model, graft_rows=ROWS), expected, atol=1e-5, rtol=0)


def test_a_control_takes_the_place_of_gates_being_learned():
    model = grafted(budget=400, **HOULSBY)
    structure = set_fixed_structure_(model, "uniform")
    assert gw.structure_of(model) == structure
    assert {sum(site.used) for site in structure.sites.values()} == {1, 2}
