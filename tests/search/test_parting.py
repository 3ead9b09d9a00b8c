"""Tasks part where `trunk` and `trunk_budget` allow it: in the search, its decision, and what is saved."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import AlbertConfig, AlbertModel

import graftwork as gw
from graftwork.errors import ConfigError, RecipeError
from graftwork.models.multitask import MultiTaskModel
from graftwork.recipe.settings import GraftSettings
from graftwork.search.nested import nested_structures
from graftwork.search.parting import check_trunk
from graftwork.tuner.view import graft_view
from toy_heads import HEADS
from toys import grafted, tiny, tokens

TASKS = [head.name for head in HEADS]
LAYERS = 3
STEPS = 20
FAMILIES = [
    ("importance", "shared"),
    ("importance", "random"),
    ("hard_concrete", "random"),
    ("sigmoid", "shared"),
    ("gumbel", "shared"),
    ("shifted_sigmoid", "shared"),
]


def undecided(**settings: Any) -> PeftModel:
    common = {"gates": "importance", "pool_size": 6, "r": 1, "budget": 1200, "init_weights": True}
    return grafted(tiny("bert", num_hidden_layers=LAYERS), tasks=TASKS, **{**common, **settings}).train()


def layer_of(site: str) -> int:
    """From 1 on."""
    return 1 + next(int(part) for part in site.split(".") if part.isdigit())


class Run:
    """A search on tasks that want other vectors of the same rows."""

    def __init__(self, model: nn.Module, state: dict[str, Any] | None = None) -> None:
        torch.manual_seed(0)
        self.model = model
        self.search = gw.StructureSearch(model, STEPS)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, lr=0.01)
        if state is None:
            self.search.begin(0.01 * len(self.search.window))
        else:
            self.search.load(state)
        self.wanted = torch.randn(len(TASKS), 16)
        self.step = 0

    def go(self, steps: int) -> Run:
        for _ in range(steps):
            rows = torch.arange(6) % len(TASKS)
            found = self.model(input_ids=tokens(6, 5), graft_rows=rows).last_hidden_state.mean(1)
            (found - self.wanted[rows]).square().mean().backward()
            self.search.before_step(self.step)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
            self.search.after_step(self.step)
        return self


def rows_of(model: nn.Module, below: int) -> list[torch.Tensor]:
    """Gates of the sites up to a layer, those of every task."""
    sites = [site for name, site in graft_view(model).sites.items() if layer_of(name) <= below]
    return [site.evaluation_gates("default").detach() for site in sites]


@pytest.mark.parametrize(("gates", "start"), FAMILIES)
def test_below_the_trunk_all_tasks_have_the_same_gates_at_every_step(gates: str, start: str):
    model = undecided(gates=gates, gate_start=start, trunk=2)
    run = Run(model)
    for _ in range(STEPS):
        run.go(1)
        assert all(torch.equal(row, gates[0]) for gates in rows_of(model, 2) for row in gates)
    above = [site for site in run.search.structure.sites if layer_of(site) == LAYERS]
    assert any(len(set(run.search.structure.sites[site].open)) > 1 for site in above)
    assert gw.trunk_price(model) <= (2 + len(TASKS)) / LAYERS * 1.05


@pytest.mark.parametrize(("gates", "start"), FAMILIES)
@pytest.mark.parametrize("price", [1.0, 1.5, 2.0, 3.0])
def test_the_price_of_the_decision_is_within_the_limit(gates: str, start: str, price: float):
    model = undecided(gates=gates, gate_start=start, trunk_budget=price)
    structure = Run(model).go(STEPS).search.structure
    assert structure.parameters() <= 1200
    decided = gw.trunk_price(model.eval())
    assert decided <= price * (1 + 1e-9)
    gw.compact_(model)
    assert gw.trunk_price(model) == decided


def test_a_limit_is_used_and_all_apart_is_as_without_one():
    free = Run(undecided(gate_start="random")).go(STEPS).search
    limited = Run(undecided(gate_start="random", trunk_budget=2.4)).go(STEPS).search
    loose = Run(undecided(gate_start="random", trunk_budget=3)).go(STEPS).search
    assert 1.3 < gw.trunk_price(limited.model.eval()) <= 2.4
    assert gw.trunk_price(free.model.eval()) == 3
    if loose.tree.widths[1:] == (3,) * LAYERS:
        assert loose.structure == free.structure


def test_decided_by_hand_the_limits_hold_as_well():
    for settings, most in (({"trunk": 2}, 2.0), ({"trunk_budget": 1.6}, 1.6), ({"trunk": 3}, 1.0)):
        model = undecided(gates="hard_concrete", **settings).eval()
        with torch.no_grad():
            for site in graft_view(model).sites.values():
                site.graft_gate_bias["default"].uniform_(-4, 4)
        foreseen = gw.structure_of(model)
        assert gw.discretise_(model) == foreseen
        assert gw.trunk_price(model) <= most


def test_predictions_of_a_saved_model_are_those_of_separate_passes(tmp_path: Path):
    model = undecided(gate_start="random", trunk_budget=2.4)
    Run(model).go(STEPS)
    gw.compact_(model.eval())
    price = gw.trunk_price(model)
    assert 1 < price <= 2.4
    model.save_pretrained(tmp_path / "saved")
    backbone = tiny("bert", num_hidden_layers=LAYERS)
    again = PeftModel.from_pretrained(backbone, tmp_path / "saved").eval()
    assert gw.trunk_price(again) == price
    whole = MultiTaskModel(again, HEADS).eval()
    inputs = {"input_ids": tokens(4, 6), "attention_mask": torch.ones(4, 6, dtype=torch.long)}
    with torch.no_grad():
        apart = [whole(**inputs, graft_rows=torch.full((4,), task)).logits for task in range(3)]
        torch.testing.assert_close(whole.forward_all(inputs), torch.stack(apart, 1), atol=1e-5, rtol=1e-5)
    one = copy.deepcopy(again)
    gw.compact_(one, ["dogs"])
    one.save_pretrained(tmp_path / "one")
    backbone = tiny("bert", num_hidden_layers=LAYERS)
    assert PeftModel.from_pretrained(backbone, tmp_path / "one").peft_config["default"].tasks == ["dogs"]


@pytest.mark.parametrize("gates", ["importance", "hard_concrete"])
@pytest.mark.parametrize("at", [8, 16])
def test_an_interrupted_search_goes_on_to_the_same_tree_and_structure(gates: str, at: int):
    whole = Run(undecided(gates=gates, gate_start="random", trunk_budget=2.4)).go(STEPS)
    first = Run(undecided(gates=gates, gate_start="random", trunk_budget=2.4)).go(at)
    state = json.loads(json.dumps(first.search.state()))
    second = Run(first.model, state)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.step = at
    second.go(STEPS - at)
    assert second.search.tree == whole.search.tree
    assert second.search.structure == whole.search.structure


def test_a_damaged_tree_is_refused():
    run = Run(undecided(trunk_budget=2.0)).go(6)
    state = run.search.state()
    for nodes in ([[0, 0, 0]], [[0, 0, 2]] * (LAYERS + 1), [[0, 0]] * (LAYERS + 1)):
        with pytest.raises(ValueError, match="the tree of the tasks does not fit the model"):
            run.search.load({**state, "tree": nodes})


def test_a_damaged_table_of_what_tasks_may_use_is_refused():
    run = Run(undecided(gate_start="random", trunk_budget=2.0)).go(6)
    state = run.search.state()
    assert len(state["control"]["own"]) == len(TASKS)
    with pytest.raises(ValueError, match="the adapters that tasks may use do not fit the model"):
        run.search.load({**state, "control": {"own": [[1, 0]] * len(TASKS)}})


def test_nested_structures_keep_to_the_tree():
    run = Run(undecided(gate_start="random", trunk_budget=2.0)).go(STEPS)
    for structure in nested_structures(run.search, [400, 900]):
        gw.set_structure_(run.model, structure)
        assert gw.trunk_price(run.model.eval()) <= 2.0


def test_without_the_settings_nothing_is_tied_and_nothing_is_saved(tmp_path: Path):
    model = undecided()
    state = Run(model).go(6).search.state()
    assert "tree" not in state
    assert state["control"] == {}
    assert all(site.pools["default"].groups is None for site in graft_view(model).sites.values())
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text("utf-8"))
    assert not {"trunk", "trunk_budget"} & set(saved)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trunk": 0}, "trunk=0 must be a whole number of at least 1"),
        ({"trunk": 1.5}, "trunk=1.5 must be a whole number"),
        ({"trunk_budget": 0.9}, "trunk_budget=0.9 must be a number from 1 .* to 3, the number of tasks"),
        ({"trunk_budget": 3.1}, "trunk_budget=3.1 must be a number from 1 .* to 3"),
        ({"trunk_budget": float("nan")}, "trunk_budget=nan must be a number from 1"),
        ({"trunk_budget": True}, "trunk_budget=True must be a number from 1"),
        ({"trunk": 1, "trunk_budget": 2}, "trunk=1 and trunk_budget=2 exclude each other"),
        ({"trunk": 1, "gates": "fixed"}, "trunk=1 needs a structure that is searched, not gates='fixed'"),
        ({"trunk": 1, "task_budget": 0.01}, "trunk=1 and task_budget=0.01 exclude each other"),
        ({"trunk": 1, "tasks": ["a"]}, "trunk=1 needs at least two tasks, not only 'a'"),
    ],
)
def test_senseless_settings_are_refused_in_one_line(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message) as found:
        gw.GraftConfig(**{"tasks": TASKS, **settings})
    assert "\n" not in str(found.value)


def test_a_trunk_that_the_backbone_cannot_have_is_refused_before_the_search():
    model = undecided(trunk=LAYERS + 1)
    with pytest.raises(ConfigError, match=r"trunk=4: the backbone has 3 layers; give a number from 1 to 3"):
        gw.StructureSearch(model, STEPS)
    settings = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "embedding_size": 16}
    albert = AlbertModel(AlbertConfig(vocab_size=64, num_hidden_layers=3, **settings))
    shared = get_peft_model(albert, gw.GraftConfig(tasks=TASKS, budget=900, pool_size=2, trunk_budget=2))
    with pytest.raises(ConfigError, match="trunk_budget=2 needs a backbone that runs as a row of layers: it"):
        check_trunk(shared)


def test_a_recipe_with_a_given_structure_has_nothing_to_choose():
    with pytest.raises(RecipeError, match=r"leaves nothing to choose for graft.trunk_budget=2"):
        GraftSettings(structure="uniform", budget=0.01, trunk_budget=2)
