"""MTL-LoRA and HydraLoRA against their formulas, written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graftwork.errors import ConfigError
from graftwork.experiments.methods.mixed_lora import HydraMap, MtlMap, _linear_maps

IN, OUT, RANK, UPS, TASKS = 6, 5, 2, 3, 4


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(IN, OUT).requires_grad_(False)


def filled(layer: nn.Module) -> nn.Module:
    """All weights drawn, so that nothing is zero or the identity."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def test_mtl_lora_is_its_formula() -> None:
    rows = [torch.tensor([3, 0, 3])]
    layer = filled(MtlMap(linear(), RANK, UPS, 1.5, TASKS, rows, 0.5))
    x = torch.randn(3, 7, IN)
    out = layer(x)
    for row, task in enumerate(rows[0].tolist()):
        weights = torch.softmax(layer.mix_bias[task] / 0.5, 0)
        for place in range(7):
            narrow = layer.inner[task] @ (layer.down @ x[row, place])
            added = sum(weights[i] * (layer.up[i].T @ narrow) for i in range(UPS))
            expected = layer.base(x[row, place]) + 1.5 * added
            torch.testing.assert_close(out[row, place], expected)


def test_hydra_lora_is_its_formula() -> None:
    layer = filled(HydraMap(linear(), RANK, UPS, 1.5))
    x = torch.randn(3, 7, IN)
    out = layer(x)
    for row in range(3):
        for place in range(7):
            token = x[row, place]
            weights = torch.softmax(layer.gate @ token, 0)
            added = sum(weights[i] * (layer.up[i].T @ (layer.down @ token)) for i in range(UPS))
            torch.testing.assert_close(out[row, place], layer.base(token) + 1.5 * added)


def test_at_first_nothing_is_added_and_up_projections_part() -> None:
    rows = [torch.tensor([0, 1])]
    for layer in (MtlMap(linear(), RANK, UPS, 2.0, TASKS, rows, 0.5), HydraMap(linear(), RANK, UPS, 2.0)):
        x = torch.randn(2, 3, IN)
        torch.testing.assert_close(layer(x), layer.base(x))
        layer(x).pow(2).sum().backward()
        gradients = layer.up.grad
        assert not torch.allclose(gradients[0], gradients[1])


def test_rows_that_are_no_rows_of_the_batch_are_refused() -> None:
    layer = MtlMap(linear(), RANK, UPS, 2.0, TASKS, [torch.tensor([0, 1])], 0.5)
    with pytest.raises(ConfigError, match="6 rows in a batch of 2"):
        layer(torch.randn(6, IN))


def test_targets_are_named_as_in_peft() -> None:
    model = nn.ModuleDict({"query": nn.Linear(2, 2), "myquery": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    assert _linear_maps(model, ["query"]) == ["query"]
    assert _linear_maps(model, r".*query") == ["query", "myquery"]
    with pytest.raises(ConfigError, match="names no linear map"):
        _linear_maps(model, ["norm"])
