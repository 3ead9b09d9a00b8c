from __future__ import annotations

import pytest
import torch

import graftwork as gw
from graftwork.gates.shifted_sigmoid import ShiftState
from graftwork.search.search import StructureSearch
from graftwork.sparsity.shift_control import solve_shift
from graftwork.sparsity.size import expected_size, gate_parameters, pool_cost
from graftwork.tuner.view import graft_view
from toys import grafted, spread_gates, tokens

ROWS = torch.tensor([0, 1, 2, 1])
BOTH_WIDTHS = ["intermediate.dense", "attention.output.dense"]


def searched(budget: float, steps: int = 100, **settings) -> tuple[torch.nn.Module, StructureSearch]:
    model = grafted(gates="shifted_sigmoid", budget=budget, target_modules=BOTH_WIDTHS, **settings)
    search = StructureSearch(model, steps, gw.Schedule(0.2, 0.6, 0.8))
    search.begin(0.4)
    return model, search


@pytest.mark.parametrize("cost", [1.0, 300.0, 1999.0])
def test_the_shift_is_a_root(cost):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, generator=generator) * 3
    costs = torch.rand(50, generator=generator, dtype=torch.float64)
    costs *= 2000 / costs.sum()
    shift = solve_shift(logits, costs, cost, 0.5)
    assert float(costs @ torch.sigmoid((logits.double() - shift) / 0.5)) == pytest.approx(cost, rel=1e-9)


def test_what_is_out_of_reach_opens_or_closes_everything():
    logits, costs = torch.tensor([-2.0, 3.0]), torch.tensor([1.0, 1.0])
    assert solve_shift(logits, costs, 5.0, 1.0) == pytest.approx(-32.0)
    assert solve_shift(logits, costs, 0.0, 1.0) == pytest.approx(33.0)


@pytest.mark.parametrize("settings", [{"budget": 200}, {"budget": 500, "cost": "flops"}, {"budget": 10**6}])
def test_the_expected_size_is_the_target_at_every_step(settings):
    model, search = searched(**settings)
    view = search.view
    total = pool_cost(view)
    budget = min(settings["budget"], total)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.train()
    draw = torch.Generator().manual_seed(0)
    assert float(expected_size(view).detach()) == pytest.approx(0.95 * total, rel=1e-5)
    for step in range(80):
        optimizer.zero_grad()
        output = model(input_ids=tokens(seed=step), graft_rows=ROWS)[0]
        (output - torch.randn(output.shape, generator=draw)).square().mean().backward()
        search.before_step(step)
        optimizer.step()
        found = search.after_step(step + 1)
        ramped = min(1.0, max(0.0, (step + 1 - 20) / 40))
        target = 0.95 * total + ramped * (budget - 0.95 * total)
        if found is None:
            assert float(expected_size(view).detach()) == pytest.approx(target, rel=1e-5), step
    assert found is not None
    if "cost" not in settings:
        assert search.soft_size == pytest.approx(budget, rel=1e-5)
    logits = torch.cat([site.logits("default").flatten() for site in view.sites.values()])
    assert logits.std() > 0.5


def test_gradients_are_those_of_the_whole_solution():
    """The corrected gradient is the derivative through the solver, by finite differences."""
    model, search = searched(200)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.double()
    view = graft_view(model)
    for site in view.sites.values():
        site.graft_ratio["default"].fill_(1.0)
    spread_gates(model)
    for gate in gate_parameters(view):
        gate.data /= 2  # a logit at its bound would not follow
    weights = [torch.randn(3, 3, dtype=torch.float64) for _ in view.sites]

    def loss() -> torch.Tensor:
        gates = [site.prob_open("default") for site in view.sites.values()]
        return torch.stack([(w * p**2).sum() for w, p in zip(weights, gates, strict=True)]).sum()

    def solved() -> float:
        search.control.update(view, 0.7)
        return float(loss().detach())

    solved()
    loss().backward()
    naive = gate_parameters(view)[0].grad.clone()
    search.control.apply(view, 0.7)
    assert not torch.allclose(naive, gate_parameters(view)[0].grad, rtol=0.05)
    assert float(sum(gate.grad.sum() for gate in gate_parameters(view))) == pytest.approx(0.0, abs=1e-12)
    for gate in gate_parameters(view):
        for cell in range(9):
            flat = gate.data.view(-1)
            flat[cell] += 1e-4
            above = solved()
            flat[cell] -= 2e-4
            below = solved()
            flat[cell] += 1e-4
            assert float(gate.grad.view(-1)[cell]) == pytest.approx(
                (above - below) / 2e-4, rel=1e-4, abs=1e-8
            )


def test_moving_all_logits_alike_moves_nothing():
    model, search = searched(200)
    view = graft_view(model)
    for gate in gate_parameters(view):
        gate.data.normal_(std=0.02)
    search.control.update(view, 1.0)
    before = [site.prob_open("default").detach().clone() for site in view.sites.values()]
    shift = float(ShiftState(next(iter(view.sites.values())).graft_state["default"]).shift)
    for site in view.sites.values():
        site.graft_gate_bias["default"].data += 0.8 / float(site.graft_ratio["default"])
    search.control.update(view, 1.0)
    for site, expected in zip(view.sites.values(), before, strict=True):
        assert float(ShiftState(site.graft_state["default"]).shift) == pytest.approx(shift + 0.8, abs=1e-5)
        torch.testing.assert_close(site.prob_open("default").detach(), expected, atol=1e-5, rtol=1e-4)
    # What presses on all gates alike presses on none.
    expected_size(view).backward()
    search.control.apply(view, 1.0)
    assert all(gate.grad.abs().max() < 1e-3 for gate in gate_parameters(view))


def test_without_gradients_there_is_nothing_to_correct():
    model, search = searched(200)
    search.before_step(30)
    assert all(gate.grad is None for gate in gate_parameters(graft_view(model)))
