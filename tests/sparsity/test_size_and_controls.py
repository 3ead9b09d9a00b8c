from __future__ import annotations

import json

import pytest
import torch

import graftwork as gw
from graftwork.errors import ConfigError
from graftwork.gates.importance import ImportanceState
from graftwork.search.schedule import Schedule
from graftwork.sparsity.budget_control import BudgetControl
from graftwork.sparsity.penalty_control import PenaltyControl
from graftwork.sparsity.size import expected_size, pool_parameters
from graftwork.tuner.view import graft_view
from toys import graft_layers, grafted, random_structure, spread_gates


def view_of(**settings):
    model = grafted(**settings)
    spread_gates(model)
    return graft_view(model)


def thetas(view) -> list[torch.Tensor]:
    return [site.graft_gate_bias["default"] for site in view.sites.values()]


@torch.no_grad()
def test_expected_size_is_the_union_over_tasks():
    view = view_of(target_modules=["intermediate.dense", "attention.output.dense"])
    by_hand = sum(
        pool.cost * float(site.prob_open("default")[:, k].max())
        for site in view.sites.values()
        for pool in [site.pools["default"]]
        for k in range(pool.size)
    )
    assert float(expected_size(view)) == pytest.approx(by_hand, rel=1e-5)
    assert len({site.pools["default"].cost for site in view.sites.values()}) == 2
    assert float(expected_size(view)) < pool_parameters(view)


@pytest.mark.parametrize("gates", ["hard_concrete", "gumbel", "shifted_sigmoid", "importance"])
@torch.no_grad()
def test_expected_size_is_the_mean_size_of_sampled_structures(gates):
    view = view_of(gates=gates)
    torch.manual_seed(0)
    total = 0.0
    for site in view.sites.values():
        site.train()
        if gates == "importance":
            ImportanceState.of(site.graft_state["default"]).mask.copy_(torch.rand(3, 3) < 0.3)
    for _ in range(3000):
        for site in view.sites.values():
            total += float((site.gates("default") > 0).any(0).sum()) * site.pools["default"].cost
    assert total / 3000 == pytest.approx(float(expected_size(view)), rel=0.02)


@pytest.mark.parametrize("in_adapters", [True, False])
def test_gradient_of_the_expected_size(in_adapters):
    view = view_of()
    site = next(iter(view.sites.values()))
    theta = site.graft_gate_bias["default"]
    (gradient,) = torch.autograd.grad(expected_size(view, in_adapters=in_adapters), theta)
    step = 1e-2
    for t in range(theta.shape[0]):
        for k in range(theta.shape[1]):
            with torch.no_grad():
                theta[t, k] += step
                above = float(expected_size(view, in_adapters=in_adapters))
                theta[t, k] -= 2 * step
                below = float(expected_size(view, in_adapters=in_adapters))
                theta[t, k] += step
            expected = (above - below) / (2 * step)
            assert float(gradient[t, k]) == pytest.approx(expected, abs=0.02 * max(1, abs(expected)))


def test_decided_gates_have_the_size_of_their_structure():
    model = grafted()
    gw.set_structure_(model, random_structure(model))
    assert float(expected_size(graft_view(model))) == gw.structure_of(model).parameters()


@torch.no_grad()
def test_penalty_mean_is_a_fraction_and_sum_counts_gates():
    view = view_of()
    mean = PenaltyControl(2.0, "mean").loss(view, 0.5)
    assert float(mean) == pytest.approx(2.0 * 0.5 * float(expected_size(view)) / pool_parameters(view))
    total = sum(float(site.prob_open("default").sum()) for site in view.sites.values())
    assert float(PenaltyControl(2.0, "sum").loss(view, 0.5)) == pytest.approx(total, rel=1e-5)
    assert float(PenaltyControl(2.0, "sum").loss(view, 0.0)) == 0


@torch.no_grad()
def test_the_papers_penalty_is_the_sum_of_sigmoids():
    view = view_of(gates="sigmoid", penalty=1.0, penalty_reduction="sum")
    total = sum(float(torch.sigmoid(site.logits("default")).sum()) for site in view.sites.values())
    assert float(PenaltyControl(1.0, "sum").loss(view, 1.0)) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_the_budget_is_reached_without_a_task(share):
    view = graft_view(grafted())
    budget = round(share * pool_parameters(view))
    control = BudgetControl(budget)
    for site in view.sites.values():
        site.graft_ratio["default"].fill_(6.0)
    optimizer = torch.optim.Adam(thetas(view), lr=0.02)
    for step in range(600):
        ramped = min(1.0, step / 200)
        optimizer.zero_grad()
        control.loss(view, ramped).backward()
        optimizer.step()
        control.update(view, ramped)
    assert float(expected_size(view).detach()) == pytest.approx(budget, rel=0.1)


def test_a_budget_above_the_pool_does_not_press():
    view = view_of()
    control = BudgetControl(10 * pool_parameters(view))
    control.update(view, 1.0)
    assert control.figures()["multiplier_1"] <= 0


@pytest.mark.parametrize("updates", [0, 3])
def test_the_state_of_a_budget_control_survives_json(updates):
    view = view_of()
    first = BudgetControl(200)
    for _ in range(updates):
        first.update(view, 0.7)
    second = BudgetControl(200)
    second.load(json.loads(json.dumps(first.state())))
    for _ in range(3):
        assert torch.equal(first.loss(view, 0.9), second.loss(view, 0.9))
        first.update(view, 0.9)
        second.update(view, 0.9)
    assert first.state() == second.state()


def test_schedule():
    schedule = Schedule(0.2, 0.4, 0.6)
    progress = [0.0, 0.19, 0.2, 0.3, 0.4, 0.59, 0.6, 1.0]
    assert [schedule.phase(p) for p in progress] == ["warm-up"] * 2 + ["search"] * 4 + ["tune"] * 2
    assert [schedule.ramped(p) for p in progress] == pytest.approx([0, 0, 0, 0.5, 1, 1, 1, 1])
    assert Schedule(0, 0, 0).phase(0.0) == "tune"
    assert Schedule(0, 0, 1).ramped(0.0) == 1.0


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.6), (-0.1, 0.5, 0.6), (0.1, 0.7, 0.6), (0.1, 0.5, 1.1)])
def test_a_schedule_out_of_order_is_refused(fractions):
    with pytest.raises(ConfigError, match="must satisfy 0 <= warmup <= ramp <= discretise <= 1"):
        Schedule(*fractions)


def test_layers_are_left_without_gradients():
    view = view_of()
    PenaltyControl(1.0, "mean").loss(view, 1.0)
    assert all(layer.graft_gate_bias["default"].grad is None for layer in graft_layers(view.backbone))
