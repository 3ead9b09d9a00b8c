from __future__ import annotations

import json

import pytest
import torch

import graftwork as gw
from graftwork.errors import StructureError, TrainingError
from graftwork.search.search import StructureSearch
from toys import TASKS, graft_layers, grafted, random_structure, tokens

ROWS = torch.tensor([0, 1, 2, 1])


def run(
    model, steps: int = 30, start: int = 0, search: StructureSearch | None = None, optimizer=None, **kwargs
):
    """A hand-written training loop."""
    model.train()
    if search is None:
        search = StructureSearch(model, 30, **kwargs)
        search.begin(30 * 0.01)
    optimizer = optimizer or torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for step in range(start, steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(input_ids=tokens(seed=step), graft_rows=ROWS)[0].square().mean().backward()
        search.before_step(step)
        optimizer.step()
        search.after_step(step + 1)
    return search, optimizer


LEARNABLE = ["hard_concrete", "sigmoid", "gumbel", "shifted_sigmoid", "importance"]


@pytest.mark.parametrize("gates", LEARNABLE)
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_hand_written_loop_meets_the_budget(share, gates):
    budget = round(share * 4 * 3 * 66)
    model = grafted(budget=budget, gates=gates)
    search, _ = run(model)
    assert search.structure == gw.structure_of(model)
    assert budget - 66 < search.structure.parameters() <= budget
    assert all(layer.is_decided("default") for layer in graft_layers(model))
    assert search.phase(29) == "tune"
    figures = search.figures()
    assert figures["realised_parameters"] == figures["expected_parameters"] == search.structure.parameters()
    assert figures["open_paths_cats"] == search.structure.counts()["cats"]


@pytest.mark.parametrize("gates", ["hard_concrete", "sigmoid", "gumbel", "shifted_sigmoid"])
def test_a_private_start_leaves_every_adapter_to_one_task(gates):
    model = grafted(budget=500, gates=gates, gate_start="private", pool_size=2)
    search = StructureSearch(model, 30)
    search.begin(0.3)
    owned = torch.zeros(len(TASKS), dtype=torch.long)
    for layer in graft_layers(model):
        logits = layer.logits("default")
        family = layer.pools["default"].family
        home = logits > -2.9
        assert (home.sum(dim=0) == 1).all()
        assert torch.allclose(logits[home], torch.tensor(family.initial_logit))
        assert torch.allclose(logits[~home], torch.tensor(-3.0))
        owned += home.sum(dim=1)
    assert owned.max() - owned.min() <= 1


def test_a_private_start_is_not_repeated_on_resume():
    model = grafted(budget=500, gate_start="private")
    search, _ = run(model, steps=8)
    before = [layer.logits("default").clone() for layer in graft_layers(model)]
    again = StructureSearch(model, 30)
    again.load(search.state())
    for layer, logits in zip(graft_layers(model), before, strict=True):
        assert torch.equal(layer.logits("default"), logits)


def test_sharing_is_learned_from_a_private_start_where_tasks_want_the_same():
    torch.manual_seed(0)
    model = grafted(budget=2 * 66, gate_start="private", pool_size=2)
    search = StructureSearch(model, 120)
    search.begin(72 * 0.02)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    model.train()
    wanted = torch.randn(16)
    for step in range(120):
        optimizer.zero_grad()
        (model(input_ids=tokens(seed=step), graft_rows=ROWS)[0] - wanted).square().mean().backward()
        search.before_step(step)
        optimizer.step()
        search.after_step(step + 1)
    # Two adapters for three tasks: with private paths one task would have none.
    assert search.structure.counts() == dict.fromkeys(TASKS, 2)


def test_phases_and_the_gradient_of_each():
    model = grafted()
    search = StructureSearch(model, 100, gw.Schedule(0.2, 0.4, 0.6))
    search.begin(1.0)
    thetas = [layer.graft_gate_bias["default"] for layer in graft_layers(model)]
    search.before_step(19)
    assert all(theta.grad is None for theta in thetas)
    thetas[0].grad = torch.ones_like(thetas[0])
    search.control.update(search.view, 1.0)
    search.before_step(20)
    search.before_step(30)
    assert all(theta.grad is not None and theta.grad.abs().sum() > 0 for theta in thetas)
    assert search.window == range(20, 60)
    assert search.after_step(59) is None
    assert search.after_step(60) is not None
    assert all(theta.grad is None for theta in thetas)
    assert search.after_step(61) is None


def test_a_run_whose_schedule_never_discretises_decides_at_its_last_step():
    model = grafted()
    search = StructureSearch(model, 10, gw.Schedule(0.1, 0.5, 1.0))
    search.begin(1.0)
    assert [search.after_step(step) is None for step in range(1, 11)] == [True] * 9 + [False]


def test_gates_stay_within_their_bounds():
    model = grafted()
    search = StructureSearch(model, 100)
    search.begin(0.5)
    for layer in graft_layers(model):
        assert float(layer.graft_ratio["default"]) == pytest.approx(24.0)
        layer.graft_gate_bias["default"].data.fill_(-1e3)
    search.after_step(1)
    for layer in graft_layers(model):
        bound = layer.pools["default"].family.bound
        torch.testing.assert_close(layer.logits("default"), torch.full((3, 3), -bound))
        with torch.no_grad():
            layer.graft_gate_bias["default"] += 0.01
        assert (layer.logits("default") > -bound + 0.2).all()


@pytest.mark.parametrize("gates", LEARNABLE)
def test_the_search_goes_on_from_its_state(gates):
    model = grafted(budget=300, gates=gates)
    whole, _ = run(model)
    other = grafted(budget=300, gates=gates)
    search, optimizer = run(other, steps=12)
    state = json.loads(json.dumps(search.state()))
    resumed = StructureSearch(other, 30)
    resumed.load(state)
    run(other, start=12, search=resumed, optimizer=optimizer)
    assert resumed.structure == whole.structure
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_state_after_the_decision_keeps_the_structure():
    model = grafted(budget=300)
    search, _ = run(model)
    resumed = StructureSearch(model, 30)
    resumed.load(json.loads(json.dumps(search.state())))
    assert resumed.structure == search.structure
    assert resumed.soft_size == search.soft_size
    assert resumed.after_step(29) is None


@pytest.mark.parametrize("make", ["fixed", "given"])
def test_nothing_is_searched_if_nothing_is_learned(make):
    model = grafted(gates="fixed") if make == "fixed" else grafted()
    if make == "given":
        gw.set_structure_(model, random_structure(model))
    before = gw.structure_of(model)
    search, _ = run(model, steps=5)
    assert search.structure is None
    assert search.phase(0) == "tune"
    assert gw.structure_of(model) == before


def test_gates_without_anybody_to_decide_them_warn_once():
    model = grafted().train()
    with pytest.warns(UserWarning, match="nobody drives the structure search"):
        model(input_ids=tokens(), graft_rows=ROWS)
    model(input_ids=tokens(), graft_rows=ROWS)  # a second warning would be an error
    fixed = grafted(gates="fixed").train()
    fixed(input_ids=tokens(), graft_rows=ROWS)
    with gw.route(grafted(), TASKS[0]), torch.no_grad():
        grafted().train()(input_ids=tokens(), graft_rows=ROWS)


def test_impossible_searches_are_refused():
    with pytest.raises(TrainingError, match="at least one optimizer step, not 0"):
        StructureSearch(grafted(), 0)
    with pytest.raises(StructureError, match="less than one adapter"):
        StructureSearch(grafted(budget=63), 10)
    with pytest.raises(TrainingError, match="learning rates of the search phase sum to 0"):
        StructureSearch(grafted(), 10).begin(0.0)
    with pytest.warns(UserWarning, match="gates can travel only 5 during the search"):
        StructureSearch(grafted(), 10, travel=5)


@pytest.mark.parametrize("gates", ["gumbel", "shifted_sigmoid", "importance"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_recomputed_forward_pass_repeats_its_draw(gates, reentrant):
    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        model = grafted(gates=gates).train()
        model.base_model.router.driven = True
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
            assert model.base_model.model.is_gradient_checkpointing
        torch.manual_seed(0)
        output = model(input_ids=tokens(), graft_rows=ROWS)[0]
        (output * torch.linspace(-1, 1, 16)).sum().backward()
        return [layer.graft_gate_bias["default"].grad for layer in graft_layers(model)]

    expected = gradients(False)
    assert all(gradient.any() for gradient in expected)
    for found, gradient in zip(gradients(True), expected, strict=True):
        torch.testing.assert_close(found, gradient)
