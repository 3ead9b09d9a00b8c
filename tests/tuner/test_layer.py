from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model
from torch import nn

import graftwork as gw
from graftwork.errors import RoutingError, SiteError, StructureError
from graftwork.tuner.pool import site_widths
from toys import TASKS, graft_layers, grafted, outputs, random_structure, spread_gates, tiny, tokens


class Branch(nn.Module):
    """A backbone of one site."""

    def __init__(self, width_in: int = 6, width_out: int = 4) -> None:
        super().__init__()
        self.site = nn.Linear(width_in, width_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.site(x)


def by_hand(layer: gw.GraftLayer, x: torch.Tensor, gates: torch.Tensor, position: str) -> torch.Tensor:
    """The formula of the method, adapter by adapter, for one row."""
    pool = layer.pools["default"]
    r, down, up = pool.rank, layer.graft_down["default"], layer.graft_up["default"]
    base = layer.base_layer(x)
    read = x if position == "parallel" else base
    result = base
    for k, gate in enumerate(gates):
        units = slice(k * r, (k + 1) * r)
        hidden = read @ down[units].T
        if pool.activation == "gelu":
            hidden = F.gelu(hidden + layer.graft_bias["default"][units])
        result = result + pool.scale * gate * (hidden @ up[:, units].T)
    return result


@pytest.mark.parametrize("position", ["sequential", "parallel"])
@pytest.mark.parametrize("activation", ["gelu", "identity"])
@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 2, 5)])
def test_output_is_the_formula_per_adapter_and_task(position, activation, shape):
    model = grafted(Branch(), position=position, activation=activation, target_modules=["site"])
    spread_gates(model)
    layer = graft_layers(model)[0]
    x = torch.randn(*shape, 6)
    with torch.no_grad(), gw.route(model, ["birds", "cats", "birds"]):
        result = model(x)
        gates = layer.gates("default")
        expected = torch.stack([by_hand(layer, x[i], gates[t], position) for i, t in enumerate([2, 0, 2])])
    torch.testing.assert_close(result, expected)
    assert len({round(float(gate), 3) for gate in gates.flatten()}) > 4


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("gates", ["hard_concrete", "sigmoid", "fixed"])
@pytest.mark.parametrize("position", ["sequential", "parallel"])
def test_a_fresh_model_is_its_backbone(kind, gates, position):
    backbone = tiny(kind)
    expected = outputs(backbone)
    model = get_peft_model(
        backbone, gw.GraftConfig(tasks=TASKS, gates=gates, position=position, budget=10**6)
    )
    for mode in (True, False):
        with gw.route(model.train(mode), ["cats", "dogs", "birds", "cats"]):
            model.base_model.router.driven = True
            assert torch.equal(outputs(model), expected)


@pytest.mark.parametrize("placement", ["attention+ffn", "block"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_closed_gates_leave_the_backbone(kind, placement):
    backbone = tiny(kind)
    expected = outputs(backbone)
    model = grafted(backbone, placement=placement)
    gw.set_structure_(model, gw.Structure(tuple(TASKS), {}))
    with gw.route(model, "dogs"):
        assert torch.equal(outputs(model), expected)


@pytest.mark.parametrize("training", [True, False])
def test_a_row_does_not_depend_on_the_tasks_of_the_others(training):
    model = grafted().train(training)
    model.base_model.router.driven = True
    spread_gates(model)
    inputs = tokens(6)
    names = ["cats", "birds", "birds", "dogs", "cats", "dogs"]
    torch.manual_seed(0)
    with gw.route(model, names):
        mixed = outputs(model, inputs)
    for task in TASKS:
        torch.manual_seed(0)
        with gw.route(model, task):
            alone = outputs(model, inputs)
        mine = torch.tensor([name == task for name in names])
        torch.testing.assert_close(mixed[mine], alone[mine])
        assert not torch.allclose(mixed[~mine], alone[~mine], atol=1e-3)


def test_frozen_weights_never_change():
    model = grafted().train()
    model.base_model.router.driven = True
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(".graft_" in name for name in trainable)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        with gw.route(model, [*TASKS, "cats"]):
            model(input_ids=tokens())[0].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == trainable


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2", "t5"])
@pytest.mark.parametrize("position", ["sequential", "parallel"])
def test_whole_blocks_as_sites(kind, position):
    backbone = tiny(kind)
    extra = {"decoder_input_ids": tokens(length=3)} if kind == "t5" else {}
    expected = outputs(backbone, **extra)
    model = grafted(backbone, placement="block", position=position)
    with gw.route(model, [*TASKS, "cats"]):
        mixed = outputs(model, **extra)
    with gw.route(model, "dogs"):
        dogs = outputs(model, **extra)
    assert mixed.shape == expected.shape
    assert not torch.allclose(mixed, expected, atol=1e-3)
    torch.testing.assert_close(dogs, mixed)  # all gates are equally open so far
    with model.disable_adapter():
        assert torch.equal(outputs(model, **extra), expected)


def test_a_block_that_returns_a_tuple_keeps_its_other_outputs():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(6)

        def forward(self, *, hidden_states: torch.Tensor, scale: float = 1.0) -> tuple[torch.Tensor, str]:
            return self.norm(hidden_states) * scale, "weights"

    for position in ("sequential", "parallel"):
        backbone = nn.ModuleDict({"block": Block()})
        model = grafted(backbone, tasks=["one"], target_modules=["block"], position=position)
        layer = graft_layers(model)[0]
        hidden, weights = layer(scale=2.0, hidden_states=torch.randn(2, 6))
        assert hidden.shape == (2, 6)
        assert weights == "weights"


def test_widths():
    assert site_widths(nn.Linear(3, 5)) == (3, 5)
    assert site_widths(nn.Sequential(nn.Linear(3, 9), nn.LayerNorm(7), nn.LayerNorm(2))) == (7, 7)
    with pytest.raises(SiteError, match="site 'x' is a Sequential, whose width cannot be told"):
        site_widths(nn.Sequential(nn.Linear(3, 3)), "x")


def test_logits_move_by_the_ratio_with_the_plain_gradient():
    model = grafted()
    layer = graft_layers(model)[0]
    theta = layer.graft_gate_bias["default"]
    assert torch.equal(layer.logits("default"), torch.full_like(theta, 2.0))
    layer.graft_ratio["default"].fill_(50.0)
    theta.data.fill_(-0.01)
    logits = layer.logits("default")
    torch.testing.assert_close(logits, torch.full_like(theta, 1.5))
    logits.sum().backward()
    assert torch.equal(theta.grad, torch.ones_like(theta))
    theta.data.fill_(-100.0)
    bound = layer.pools["default"].family.bound
    torch.testing.assert_close(layer.logits("default"), torch.full_like(theta, -bound))


def test_a_mask_of_another_shape_is_refused():
    layer = graft_layers(grafted())[0]
    with pytest.raises(StructureError, match=r"shape \(2, 2\) .* does not fit a pool of \(3, 3\)"):
        layer.set_mask("default", torch.ones(2, 2, dtype=torch.bool))


def test_decided_gates_do_not_depend_on_the_mode():
    model = grafted()
    gw.set_structure_(model, random_structure(model))
    with gw.route(model, [*TASKS, "dogs"]):
        assert torch.equal(outputs(model.train()), outputs(model.eval()))


def test_gates_follow_the_base_module_in_type_and_merge_is_refused():
    model = grafted(tiny().to(torch.bfloat16), tasks=["one"], activation="gelu", position="sequential")
    assert outputs(model).dtype == torch.bfloat16
    with pytest.raises(NotImplementedError, match="cannot be merged"):
        model.merge_and_unload()


def test_a_replica_of_data_parallel_is_refused():
    model = grafted()
    for layer in graft_layers(model):
        layer._is_replica = True
    with gw.route(model, "cats"), pytest.raises(RoutingError, match=r"nn\.DataParallel splits the batch"):
        outputs(model)


def test_adding_in_place_changes_nothing_that_another_reader_has():
    """The product of linear parallel adapters goes into the output of a linear map, unless that is read."""
    model = grafted(Branch(), position="parallel", activation="identity", target_modules=["site"])
    layer = graft_layers(model)[0]
    x = torch.randn(3, 5, 6)
    with gw.route(model, TASKS):
        with_gradients = model(x).detach()
        kept: list[torch.Tensor] = []
        with torch.no_grad():
            torch.testing.assert_close(model(x), with_gradients)
            handle = layer.base_layer.register_forward_hook(lambda module, args, output: kept.append(output))
            torch.testing.assert_close(model(x), with_gradients)
            handle.remove()
            torch.testing.assert_close(kept[0], layer.base_layer(x))
    model.add_adapter(
        "after",
        gw.GraftConfig(tasks=TASKS, position="sequential", target_modules=["site"], init_weights=False),
    )
    model.base_model.set_adapter(["default", "after"])
    with gw.route(model, TASKS):
        together = model(x).detach()
        with torch.no_grad():
            torch.testing.assert_close(model(x), together)
