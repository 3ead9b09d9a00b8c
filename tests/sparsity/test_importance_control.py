from __future__ import annotations

import pytest
import torch
from peft import get_peft_model
from torch import nn

import graftwork as gw
from graftwork.gates.importance import ImportanceState
from graftwork.search.search import StructureSearch
from graftwork.sparsity.importance_control import MEMORY, importance_scores
from graftwork.structure.structure import SiteStructure
from graftwork.tuner.view import graft_view
from toys import HOULSBY, graft_layers, grafted, tokens

ROWS = torch.tensor([0, 1, 2, 1])


def searched(budget: float = 300, **settings) -> tuple[nn.Module, StructureSearch]:
    model = grafted(gates="importance", budget=budget, **HOULSBY, **settings)
    search = StructureSearch(model, 100, gw.Schedule(0.2, 0.6, 0.8))
    search.begin(1.0)
    return model.train(), search


def state(layer: nn.Module) -> ImportanceState:
    return ImportanceState.of(layer.graft_state["default"])


def measure_(layer: nn.Module, draw: torch.Generator) -> None:
    """Random sensitivities, and how uncertain they are."""
    for table in (state(layer).mean, state(layer).uncertainty):
        table.copy_(torch.rand(3, 3, generator=draw))


def set_(layer: nn.Module, value: float, adapter: int | slice = slice(None)) -> None:
    """The same sensitivity and uncertainty for all tasks."""
    for table in (state(layer).mean, state(layer).uncertainty):
        table[:, adapter] = value


def loss(model: nn.Module, **route) -> torch.Tensor:
    output = model(input_ids=tokens(), **route)[0]
    target = torch.randn(output.shape, generator=torch.Generator().manual_seed(5)).to(output)
    return (output - target).square().mean()


def test_the_gradient_is_that_of_opening_and_closing():
    model, _ = searched()
    model.double()
    draw = torch.Generator().manual_seed(0)
    for layer in graft_layers(model):
        state(layer).mask.copy_(torch.rand(3, 3, generator=draw) < 0.5)
    loss(model, graft_rows=ROWS).backward()
    for layer in graft_layers(model):
        mask = state(layer).mask.view(-1)
        assert set(mask.tolist()) == {0.0, 1.0}
        found = layer.graft_gate_bias["default"].grad.view(-1)
        for cell in range(9):
            mask[cell] += 1e-5
            above = float(loss(model, graft_rows=ROWS).detach())
            mask[cell] -= 2e-5
            below = float(loss(model, graft_rows=ROWS).detach())
            mask[cell] += 1e-5
            assert float(found[cell]) == pytest.approx((above - below) / 2e-5, rel=1e-4, abs=1e-9)


def test_the_sensitivity_is_that_of_the_weights_behind_the_gate():
    model = grafted(gates="importance", tasks=["one"]).train()
    model.base_model.router.driven = True
    loss(model).backward()
    for layer in graft_layers(model):
        up = layer.graft_up["default"]
        expected = (up * up.grad).sum(dim=0).view(3, 2).sum(dim=1)
        torch.testing.assert_close(layer.graft_gate_bias["default"].grad[0], expected)


def test_running_means_are_those_of_adalora_with_a_longer_memory_and_no_optimizer_moves_a_gate():
    model, search = searched()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    layer = graft_layers(model)[0]
    gate = layer.graft_gate_bias["default"]
    mean = uncertainty = signed = torch.zeros(3, 3)
    for step in range(3):
        optimizer.zero_grad()
        loss(model, graft_rows=ROWS).backward()
        sensitivity = gate.grad.abs()
        signed = MEMORY * signed + (1 - MEMORY) * gate.grad
        mean = MEMORY * mean + (1 - MEMORY) * sensitivity
        uncertainty = MEMORY * uncertainty + (1 - MEMORY) * (sensitivity - mean).abs()
        search.before_step(step)
        assert gate.grad is None
        optimizer.step()
        search.after_step(step + 1)
    torch.testing.assert_close(state(layer).mean, mean)
    torch.testing.assert_close(state(layer).uncertainty, uncertainty)
    torch.testing.assert_close(state(layer).signed, signed)
    assert not gate.any()


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.6])
def test_scores(threshold):
    draw = torch.Generator().manual_seed(0)
    products = torch.rand(3, 50, generator=draw) ** 8
    scores = importance_scores(products, threshold)
    assert float(scores.amax()) == 1.0
    assert (scores >= 0).all()
    shares = products / products.sum(dim=1, keepdim=True)
    assert torch.equal(scores.amax(dim=0).argsort(), shares.sum(dim=0).argsort())
    ratios, shown = shares / shares.amax(dim=0), scores / scores.amax(dim=0)
    sure = (ratios - threshold).abs() > 1e-4
    assert torch.equal((shown >= 0.5)[sure], (ratios >= threshold)[sure])
    assert torch.equal(shown.argsort(dim=0), ratios.argsort(dim=0))
    # A task of few rows, or with a loss of another scale, is heard as well as the others.
    scaled = products * torch.tensor([[1e-6], [1.0], [1e3]])
    torch.testing.assert_close(importance_scores(scaled, threshold), scores)
    equal = importance_scores(torch.tensor([[2.0, 1.0, 1.0, 1.0]]), threshold)[0]
    assert equal.tolist() == [1.0, 0.25, 0.25, 0.25]
    assert not importance_scores(torch.zeros(2, 4), threshold).any()


def test_the_pool_shrinks_along_a_cubic():
    model, search = searched(budget=2 * 66)
    view = graft_view(model)
    draw = torch.Generator().manual_seed(0)
    for layer in graft_layers(model):
        measure_(layer, draw)
    for ramped in (0.0, 0.1, 0.3, 0.5, 0.9, 1.0):
        search.control.update(view, ramped)
        masks = torch.cat([layer.prob_open("default") for layer in graft_layers(model)], dim=1)
        stored = int(masks.amax(dim=0).sum())
        assert stored == int(2 + 10 * (1 - ramped) ** 3 + 1e-9)
        if ramped == 0:
            assert masks.all()
    # The end of the ramp is already the structure that will be chosen.
    open_now = {name: layer.prob_open("default").bool().tolist() for name, layer in view.sites.items()}
    chosen = {name: [list(row) for row in site.open] for name, site in gw.structure_of(model).sites.items()}
    assert open_now == chosen


def test_a_closed_adapter_comes_back_when_it_matters():
    model, search = searched(budget=66)
    view = graft_view(model)
    layers = graft_layers(model)
    for layer in layers:
        set_(layer, 1e-3)
    set_(layers[0], 1.0, 1)
    search.control.update(view, 1.0)
    assert [layer.prob_open("default").any(dim=0).tolist() for layer in layers] == [
        [False, True, False],
        *[[False] * 3] * 3,
    ]
    set_(layers[2], 5.0, 2)
    search.control.update(view, 1.0)
    assert layers[2].prob_open("default").tolist() == [[0, 0, 1]] * 3
    assert not layers[0].prob_open("default").any()


def test_the_threshold_says_who_shares_and_not_what_is_stored():
    paths = {}
    for threshold in (0.1, 0.4):
        model, search = searched(budget=2 * 66, path_threshold=threshold)
        view = graft_view(model)
        draw = torch.Generator().manual_seed(0)
        for layer in graft_layers(model):
            measure_(layer, draw)
        search.control.update(view, 1.0)
        paths[threshold] = gw.structure_of(model)
    few, many = paths[0.4], paths[0.1]
    assert few.parameters() == many.parameters() == 2 * 66
    assert all(few.paths(task) <= many.paths(task) for task in few.tasks)
    assert sum(few.counts().values()) < sum(many.counts().values())


def test_a_task_that_an_adapter_harms_does_not_use_it():
    model, search = searched(budget=66)
    first = graft_layers(model)[0]
    for layer in graft_layers(model):
        set_(layer, 1e-3)
    set_(first, 1.0, 1)
    # Equally strong gradients: one task would lose without the adapter, one gain, one cannot tell.
    state(first).signed[:, 1] = torch.tensor([-1.0, 1.0, 0.1])
    search.control.update(graft_view(model), 1.0)
    assert state(first).mask[:, 1].tolist() == [1, 0, 1]


def test_a_private_start_stays_private():
    model, search = searched(budget=6 * 66, gate_start="private", pool_size=3)
    view = graft_view(model)
    masks = [state(layer).mask for layer in graft_layers(model)]
    assert all(torch.equal(mask.sum(dim=0), torch.ones(3)) for mask in masks)
    before = [mask.clone() for mask in masks]
    draw = torch.Generator().manual_seed(0)
    for layer in graft_layers(model):
        measure_(layer, draw)
    search.control.update(view, 0.0)
    # Through the warm-up nothing closes.
    assert all(torch.equal(mask, was) for mask, was in zip(masks, before, strict=True))
    search.control.update(view, 1.0)
    assert sum(int(mask.sum()) for mask in masks) == 6
    assert all((mask <= was).all() for mask, was in zip(masks, before, strict=True))


class Branches(nn.Module):
    """Sites side by side, so that none can stand in for another."""

    def __init__(self) -> None:
        super().__init__()
        self.sites = nn.ModuleList(nn.Linear(8, 4) for _ in range(6))

    def forward(self, x: torch.Tensor, graft_rows: torch.Tensor | None = None) -> torch.Tensor:
        return torch.cat([site(x) for site in self.sites], dim=-1)


def branches(**settings) -> nn.Module:
    torch.manual_seed(0)
    config = gw.GraftConfig(tasks=["a", "b"], pool_size=2, target_modules=r"sites\.\d", **settings)
    return get_peft_model(Branches(), config)


@pytest.mark.parametrize(
    ("settings", "cost"),
    [
        ({"r": 3, "activation": "gelu", "position": "sequential", "scale": 1.0}, 27),
        ({"r": 2}, 24),  # linear ones: both are needed for a map of rank 4
    ],
)
def test_planted_adapters_are_found(settings, cost):
    """Task a needs the adapters of site 1, task b those of site 4; the budget is exactly these."""
    planted = {"a": 1, "b": 4}
    teacher = branches(gates="fixed", **settings).eval()
    draw = torch.Generator().manual_seed(1)
    tables = {}
    for index, layer in enumerate(graft_layers(teacher)):
        for weight in (layer.graft_up["default"], layer.graft_down["default"]):
            weight.data = torch.randn(weight.shape, generator=draw)
        rows = tuple((index == planted[task],) * 2 for task in ("a", "b"))
        tables[f"sites.{index}"] = SiteStructure(2, settings["r"], cost, rows)
    gw.set_structure_(teacher, gw.Structure(("a", "b"), tables))
    model = branches(gates="importance", budget=4 * cost, **settings)
    steps = 200
    search = StructureSearch(model, steps)
    search.begin(1.0)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    model.train()
    for step in range(steps):
        x = torch.randn(64, 8, generator=draw)
        rows = torch.arange(64) % 2
        with torch.no_grad():
            y = teacher(x, graft_rows=rows)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x, graft_rows=rows), y).backward()
        search.before_step(step)
        optimizer.step()
        search.after_step(step + 1)
    assert search.structure.parameters() == 4 * cost
    for task, index in planted.items():
        assert search.structure.paths(task) == {(f"sites.{index}", 0), (f"sites.{index}", 1)}
