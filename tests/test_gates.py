from __future__ import annotations

import math

import pytest
import torch

from graftwork.errors import ConfigError
from graftwork.gates import GATE_FAMILIES, HardConcrete, Sigmoid, gate_family

LEARNABLE = [family for family in GATE_FAMILIES.values() if family.learnable]


@pytest.mark.parametrize("family", LEARNABLE, ids=lambda family: family.name)
@pytest.mark.parametrize("method", ["deterministic", "prob_open", "sample"])
def test_gradients_are_those_of_finite_differences(family, method):
    # Away from the corners where hard-concrete gates are clipped.
    logits = torch.linspace(-1.5, 1.5, 12, dtype=torch.float64).view(3, 4).requires_grad_()

    def function(values: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return getattr(family, method)(values)

    assert torch.autograd.gradcheck(function, logits, eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("family", GATE_FAMILIES.values(), ids=lambda family: family.name)
def test_gates_stay_between_zero_and_one(family):
    logits = torch.linspace(-20, 20, 41).view(1, -1)
    for gates in (family.sample(logits), family.deterministic(logits), family.prob_open(logits)):
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


def test_prob_open_is_the_frequency_of_nonzero_samples():
    family = HardConcrete()
    logits = torch.tensor([[-4.0, -2.0, -1.0, 0.0, 1.0, 4.0]])
    torch.manual_seed(0)
    draws = torch.stack([family.sample(logits) for _ in range(20_000)])
    torch.testing.assert_close((draws != 0).float().mean(0), family.prob_open(logits), atol=0.015, rtol=0)


def test_tasks_share_the_noise_so_the_union_is_the_maximum():
    family = HardConcrete()
    torch.manual_seed(0)
    logits = torch.randn(5, 8) * 2
    draws = torch.stack([family.sample(logits) for _ in range(20_000)])
    stored = (draws != 0).any(dim=1).float().mean(0)
    torch.testing.assert_close(stored, family.prob_open(logits).amax(0), atol=0.015, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_samples_are_finite_in_every_floating_type(dtype):
    logits = torch.zeros(2, 5000, dtype=dtype, requires_grad=True)
    gates = HardConcrete().sample(logits)
    gates.sum().backward()
    assert torch.isfinite(gates).all()
    assert torch.isfinite(logits.grad).all()


def test_fixed_gates_are_open():
    family = gate_family("fixed")
    logits = torch.randn(2, 3)
    assert not family.learnable
    for method in (family.sample, family.deterministic, family.prob_open):
        assert (method(logits) == 1).all()


def test_unknown_family_names_the_near_miss():
    with pytest.raises(ConfigError, match=r"unknown gates 'hard_concret'; did you mean 'hard_concrete'\?"):
        gate_family("hard_concret")
