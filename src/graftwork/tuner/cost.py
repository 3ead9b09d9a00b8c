"""Prices of adapters in a budget: their parameters, their FLOPs per token, or the values of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from graftwork.errors import ConfigError
from graftwork.messages import near_misses

if TYPE_CHECKING:
    from torch import nn

    from graftwork.tuner.pool import Pool

__all__ = ["adapter_price", "backbone_flops"]


def adapter_price(cost: str | Mapping[str, float], site: str, pool: Pool) -> float:
    """Price of one adapter of a site, in the unit of `cost`.

    `parameters`: as `Pool.cost`. `flops`: per token, two for every weight of its linear maps,
    `2 r (d_in + d_out)`. A table: what it says.

    Raises:
        ConfigError: the table has no such site.
    """
    if cost == "parameters":
        return pool.cost
    if cost == "flops":
        return 2 * pool.rank * (pool.width_in + pool.width_out)
    assert not isinstance(cost, str), "a file is read when the model is wrapped"
    if site not in cost:
        near = near_misses(site, cost, cutoff=0.0)[0]
        raise ConfigError(
            f"the cost table has no site {site!r}, but names such as {near!r}; give every site's cost."
        )
    return cost[site]


def backbone_flops(backbone: nn.Module) -> int:
    """FLOPs per token of the backbone's linear maps: two for every weight.

    Embeddings, norms, biases and the attention scores, which depend on the length of the text, are left out.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    total = 0
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and ".modules_to_save." not in f"{name}.":
            total += 2 * module.weight.numel()
    return total
