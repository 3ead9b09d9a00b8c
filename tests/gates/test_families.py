from __future__ import annotations

import math

import pytest
import torch

from graftwork.errors import ConfigError
from graftwork.gates.gumbel import Gumbel, GumbelState
from graftwork.gates.hard_concrete import HardConcrete
from graftwork.gates.importance import Importance, ImportanceState
from graftwork.gates.registry import GATE_FAMILIES, gate_family
from graftwork.gates.sampling import shared_logistic
from graftwork.gates.shifted_sigmoid import ShiftedSigmoid, ShiftState
from graftwork.gates.sigmoid import Sigmoid

WITH_LOGITS = [HardConcrete(), Sigmoid(), Gumbel(), ShiftedSigmoid()]
BERNOULLI = [HardConcrete(), Gumbel(), ShiftedSigmoid()]
"""Families whose gates are zero with a known probability."""
STRAIGHT_THROUGH = [Gumbel(), ShiftedSigmoid()]


def name(family) -> str:
    return family.name


def state_of(family, shape: tuple[int, ...]) -> torch.Tensor | None:
    """A state as it may be in the middle of a run."""
    state = family.initial_state(*shape)
    if family.name == "gumbel":
        GumbelState(state).temperature.fill_(0.4)
    elif family.name == "shifted_sigmoid":
        ShiftState(state).shift.fill_(0.7)
    elif family.name == "importance":
        state = torch.rand(state.shape, generator=torch.Generator().manual_seed(0))
        mask = ImportanceState.of(state).mask
        mask.copy_(mask < 0.5)
    return state


@pytest.mark.parametrize("family", WITH_LOGITS, ids=name)
@pytest.mark.parametrize("method", ["deterministic", "prob_open", "sample"])
def test_gradients_are_those_of_finite_differences(family, method):
    # Away from the corners where hard-concrete gates are clipped. What is drawn straight through has the
    # gradient of something else (below).
    if method == "sample" and isinstance(family, Gumbel | ShiftedSigmoid):
        return
    logits = torch.linspace(-1.5, 1.5, 12, dtype=torch.float64).view(3, 4).requires_grad_()
    state = state_of(family, (3, 4))

    def function(values: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return getattr(family, method)(values, state)

    assert torch.autograd.gradcheck(function, logits, eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("family", STRAIGHT_THROUGH, ids=name)
def test_hard_gates_have_the_gradient_of_their_relaxation(family):
    logits = torch.linspace(-1.5, 1.5, 12, dtype=torch.float64).view(3, 4).requires_grad_()
    state = state_of(family, (3, 4))
    torch.manual_seed(0)
    gates = family.sample(logits, state)
    assert set(gates.flatten().tolist()) == {0.0, 1.0}
    weights = torch.randn_like(gates)
    (gradient,) = torch.autograd.grad((weights * gates).sum(), logits)
    torch.manual_seed(0)
    noise = shared_logistic(logits)
    shift, temperature = (0.0, 0.4) if family.name == "gumbel" else (0.7, 1.0)

    def soft(values: torch.Tensor) -> torch.Tensor:
        return weights * torch.sigmoid((noise + values - shift) / temperature)

    torch.testing.assert_close(gates, (soft(logits) / weights > 0.5).double())
    step = 1e-6 * torch.eye(12, dtype=torch.float64).view(12, 3, 4)
    expected = [(soft(logits + one) - soft(logits - one)).sum() / 2e-6 for one in step]
    torch.testing.assert_close(gradient.flatten(), torch.stack(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", WITH_LOGITS, ids=name)
def test_at_the_bounds_gates_are_all_but_decided(family):
    logits = torch.tensor([[-family.bound, family.bound]])
    closed, opened = family.prob_open(logits)[0].tolist()
    assert closed < 0.05
    assert opened > 0.98
    closed, opened = family.deterministic(logits)[0].tolist()
    assert closed <= 0.01
    assert opened >= 0.99
    assert (family.prob_open(logits * 100)[0] == torch.tensor([0.0, 1.0])).all()
    start = torch.full((1, 2), family.initial_logit)
    least = 0.5 if family.name == "sigmoid" else 0.9
    assert (family.prob_open(start, family.initial_state(1, 2)) >= least).all()


@pytest.mark.parametrize("family", GATE_FAMILIES.values(), ids=lambda family: family.name)
def test_gates_stay_between_zero_and_one(family):
    logits = torch.linspace(-20, 20, 41).view(1, -1)
    for state in (None, state_of(family, (1, 41))):
        for method in (family.sample, family.deterministic, family.prob_open, family.scores):
            gates = method(logits, state)
            assert gates.shape == logits.shape
            assert ((gates >= 0) & (gates <= 1)).all()


def test_hard_concrete_reaches_exact_zero_and_one():
    family = HardConcrete()
    bounds = torch.tensor([[-family.bound, family.bound]])
    assert family.deterministic(bounds).tolist() == [[0.0, 1.0]]
    # Louizos et al. 2018, equation 12, by hand.
    assert family.prob_open(torch.zeros(1, 1)).item() == pytest.approx(
        1 / (1 + math.exp(2 / 3 * math.log(0.1 / 1.1))), abs=1e-6
    )


def test_sigmoid_is_the_papers_gate():
    logits = torch.tensor([[-1.0, 0.0, 2.0]])
    for method in (Sigmoid().sample, Sigmoid().deterministic, Sigmoid().prob_open):
        torch.testing.assert_close(method(logits), torch.sigmoid(logits))
    assert Sigmoid.initial_logit == 0


@pytest.mark.parametrize("family", BERNOULLI, ids=name)
def test_prob_open_is_the_frequency_of_nonzero_samples(family):
    state = state_of(family, (1, 6))
    logits = torch.tensor([[-4.0, -2.0, -1.0, 0.0, 1.0, 4.0]])
    torch.manual_seed(0)
    draws = torch.stack([family.sample(logits, state) for _ in range(20_000)])
    torch.testing.assert_close(
        (draws != 0).float().mean(0), family.prob_open(logits, state), atol=0.015, rtol=0
    )


@pytest.mark.parametrize("family", BERNOULLI, ids=name)
def test_tasks_share_the_noise_so_the_union_is_the_maximum(family):
    state = state_of(family, (5, 8))
    torch.manual_seed(0)
    logits = torch.randn(5, 8) * 2
    draws = torch.stack([family.sample(logits, state) for _ in range(20_000)])
    stored = (draws != 0).any(dim=1).float().mean(0)
    torch.testing.assert_close(stored, family.prob_open(logits, state).amax(0), atol=0.015, rtol=0)


@pytest.mark.parametrize("family", WITH_LOGITS, ids=name)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_samples_are_finite_in_every_floating_type(family, dtype):
    logits = torch.zeros(2, 5000, dtype=dtype, requires_grad=True)
    gates = family.sample(logits, family.initial_state(2, 5000))
    gates.sum().backward()
    assert torch.isfinite(gates).all()
    assert torch.isfinite(logits.grad).all()


def test_fixed_gates_are_open():
    family = gate_family("fixed")
    logits = torch.randn(2, 3)
    assert not family.learnable
    for method in (family.sample, family.deterministic, family.prob_open):
        assert (method(logits) == 1).all()


def test_the_temperature_of_gumbel_gates_falls_with_the_ramp():
    family = Gumbel()
    state = family.initial_state(2, 3)
    found = []
    for ramped in (0.0, 0.5, 1.0):
        family.anneal_(state, ramped)
        found.append(float(GumbelState(state).temperature))
    assert found == pytest.approx([1.0, 0.1**0.5, 0.1])
    torch.manual_seed(0)
    logits = torch.zeros(1, 4000, requires_grad=True)
    seldom = torch.autograd.grad(family.sample(logits, state).sum(), logits)[0] > 0.01
    torch.manual_seed(0)
    often = torch.autograd.grad(family.sample(logits, family.initial_state(1, 1)).sum(), logits)[0] > 0.01
    assert seldom.float().mean() < 0.4 < 0.9 < often.float().mean()


def test_a_shift_moves_the_gates_like_their_logits():
    family = ShiftedSigmoid()
    logits = torch.tensor([[-1.0, 0.5, 2.0]])
    state = torch.tensor(0.7)
    torch.testing.assert_close(family.prob_open(logits, state), torch.sigmoid(logits - 0.7))
    assert family.deterministic(logits, state).tolist() == [[0.0, 0.0, 1.0]]
    assert float(family.prob_open(torch.zeros(1, 1), family.initial_state(1, 1))) == pytest.approx(0.95)


def test_importance_gates_are_a_mask_with_the_gradient_of_a_multiplier():
    family = Importance()
    state = state_of(family, (2, 3))
    logits = torch.zeros(2, 3, requires_grad=True)
    # In evaluation, too: a trainable parameter without a gradient fails PEFT's own tests.
    for method in (family.sample, family.deterministic):
        gates = method(logits, state)
        assert torch.equal(gates, ImportanceState.of(state).mask)
        assert torch.equal(torch.autograd.grad(gates.sum(), logits)[0], torch.ones(2, 3))
    assert torch.equal(family.scores(logits, state), ImportanceState.of(state).score)


def test_the_tables_of_importance_are_views_of_the_saved_buffer_in_a_fixed_order():
    buffer = Importance().initial_state(2, 3)
    state = ImportanceState.of(buffer)
    # Checkpoints hold the buffer alone.
    assert state._fields == ("mask", "score", "mean", "uncertainty", "signed")
    for number, table in enumerate(state):
        table.fill_(number + 7.0)
    assert buffer[:, 0, 0].tolist() == [7.0, 8.0, 9.0, 10.0, 11.0]
    assert all(table.data_ptr() == row.data_ptr() for table, row in zip(state, buffer, strict=True))
    moved = ImportanceState.of(buffer.double())
    assert torch.equal(moved.signed, state.signed.double())


def test_unknown_family_names_the_near_miss():
    with pytest.raises(ConfigError, match=r"unknown gates 'hard_concret'; did you mean 'hard_concrete'\?"):
        gate_family("hard_concret")
