"""One pool, one set of gates: forward, merge, export and noise agree on what evaluation uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

import graftwork as gw
from graftwork.gates.gumbel import GumbelState
from graftwork.gates.importance import ImportanceState
from graftwork.gates.registry import GATE_FAMILIES
from graftwork.gates.shifted_sigmoid import ShiftState
from graftwork.noise.model import path_noise
from graftwork.search.tracking import gate_values
from graftwork.tuner.view import graft_view
from toy_linear import ROUND, Net, linear_net, outcome
from toys import TASKS, graft_layers, spread_gates

SITES = ("linear", "no_bias", "transposed")
POOL = 10


def searching(family: str, sites: Sequence[str] = SITES) -> PeftModel:
    """A model of linear pools in the middle of a search: gates and the state of the family are spread."""
    model = linear_net(list(sites), gates=family, pool_size=POOL, r=1)
    spread_gates(model)
    generator = torch.Generator().manual_seed(5)
    for layer in graft_layers(model):
        for state in layer.graft_state.values():
            if family == "importance":
                state.copy_(torch.rand(state.shape, generator=generator))
                mask = ImportanceState.of(state).mask
                mask.copy_(mask < 0.3)
            elif family == "shifted_sigmoid":
                ShiftState(state).shift.fill_(-2.0)
            else:
                GumbelState(state).temperature.fill_(0.4)
    return model


def by_hand(family: str, layer: gw.GraftLayer) -> Tensor:
    """The gates of evaluation, from the logits and the state alone."""
    if family == "fixed":
        return torch.ones(len(TASKS), POOL)
    known = GATE_FAMILIES[family]
    logits = (known.initial_logit + layer.graft_gate_bias["default"]).clamp(-known.bound, known.bound)
    return {
        "hard_concrete": lambda: (torch.sigmoid(logits) * 1.2 - 0.1).clamp(0, 1),
        "sigmoid": lambda: torch.sigmoid(logits),
        "gumbel": lambda: (logits > 0).float(),
        "shifted_sigmoid": lambda: (logits > -2.0).float(),
        "importance": lambda: ImportanceState.of(layer.graft_state["default"]).mask,
    }[family]().detach()


@pytest.mark.parametrize("family", GATE_FAMILIES)
def test_the_gates_of_evaluation_are_those_of_the_family_and_its_state(family: str) -> None:
    model = searching(family)
    for layer in graft_layers(model):
        expected = by_hand(family, layer)
        assert torch.equal(layer.evaluation_gates("default"), expected)
        assert torch.equal(layer.gates("default"), expected)
        layer.train()  # the mode of the model changes what is drawn, not what evaluation uses
        assert torch.equal(layer.evaluation_gates("default"), expected)
    model.train()
    found = gate_values(graft_view(model))
    for row, task in enumerate(TASKS):
        whole = torch.cat([by_hand(family, layer)[row] for layer in graft_layers(model)])
        assert torch.equal(found[task], whole)


@pytest.mark.parametrize("family", GATE_FAMILIES)
def test_merging_bakes_in_what_forward_computes(family: str) -> None:
    model = searching(family)
    for task in TASKS:
        expected = outcome(model, task)
        assert not torch.allclose(expected, outcome(Net()), atol=1e-3)
        with gw.route(model, task):
            model.merge_adapter()
        torch.testing.assert_close(outcome(model), expected, **ROUND)
        model.unmerge_adapter()
    with gw.route(model, "dogs"):
        model.merge_and_unload()


@pytest.mark.parametrize("family", GATE_FAMILIES)
def test_an_exported_lora_is_what_forward_computes(family: str, tmp_path: Path) -> None:
    model = searching(family, ["linear"])
    gw.export_lora(model, tmp_path, "birds")
    loaded = PeftModel.from_pretrained(Net(), str(tmp_path)).eval()
    torch.testing.assert_close(outcome(loaded), outcome(model, "birds"), **ROUND)


@pytest.mark.parametrize("family", GATE_FAMILIES)
def test_path_noise_acts_on_exactly_the_open_gates(family: str) -> None:
    model = searching(family)
    layers = graft_layers(model)
    expected = [by_hand(family, layer) for layer in layers]
    with path_noise(model, 1.0) as realised:
        assert all((layer.gates("default") == 0).all() for layer in layers)
    assert realised.items == sum(int((gates > 0).sum()) for gates in expected)
    assert realised.ratio == 1
    with path_noise(model, 1.0, redraw=True):
        for layer, gates in zip(layers, expected, strict=True):
            assert torch.equal(layer.gates("default") > 0, gates > 0)
            assert not (layer.gates("default") == gates)[gates > 0].any()
            assert torch.equal(layer.evaluation_gates("default"), gates), "the structure is not touched"


@pytest.mark.parametrize("family", GATE_FAMILIES)
@pytest.mark.parametrize("begun", [False, True], ids=["at the start", "in the middle"])
def test_paths_are_dropped_while_a_model_is_trained(family: str, begun: bool) -> None:
    model = searching(family) if begun else linear_net(list(SITES), gates=family, pool_size=POOL, r=1)
    model.base_model.router.driven = True
    model.train()

    def drawn() -> Tensor:
        torch.manual_seed(0)
        return outcome(model, "cats")

    clean = drawn()
    with path_noise(model, 0.5, training_only=True):
        assert not torch.allclose(drawn(), clean, atol=1e-3)
    assert torch.equal(drawn(), clean)
