"""What an adapter takes of a budget: its parameters, its FLOPs per token, or what a table says."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graftwork.errors import ConfigError
from graftwork.files.reading import is_finite, read_json, user_path
from graftwork.messages import shown

if TYPE_CHECKING:
    from torch import nn

    from graftwork.tuner.pool import Pool

__all__ = ["COSTS", "adapter_price", "backbone_flops", "check_cost", "read_cost"]

COSTS = ("parameters", "flops")
"""Costs by name; the others are tables."""
_FILE = "file:"
"""Prefix of a value that is the path of a file."""


def check_cost(cost: Any) -> None:
    """Refuse a cost that is no name, no file and no table.

    Raises:
        ConfigError: it is none of these, or a price is not above 0.
    """
    if isinstance(cost, str):
        if cost in COSTS or (cost.startswith(_FILE) and cost != _FILE):
            return
        near = difflib.get_close_matches(cost, COSTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"cost={shown(cost)} is not known{hint} Allowed: {', '.join(COSTS)}, file:TABLE.json, or a "
            "mapping of sites to the cost of one adapter."
        )
    if not isinstance(cost, Mapping) or not cost:
        raise ConfigError(f"cost={shown(cost)} must map names of sites to the cost of one adapter.")
    for site, price in cost.items():
        if not is_finite(price) or price <= 0:
            raise ConfigError(
                f"the cost of site {shown(site)} is {shown(price)}; it must be a number above 0."
            )


def read_cost(cost: str | dict[str, float]) -> str | dict[str, float]:
    """The cost with the table in place of its file.

    Raises:
        ConfigError: the file is missing or holds no table.
    """
    if not isinstance(cost, str) or not cost.startswith(_FILE):
        return cost
    path = user_path(cost.removeprefix(_FILE))
    try:
        found = read_json(path)
    except FileNotFoundError:
        raise ConfigError(
            f"cost={cost!r}: there is no file {path}; make one with benchmarks/site_latency.py, or write a "
            "JSON mapping of sites to the cost of one adapter."
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cost={cost!r}: the file cannot be read as JSON ({error}).") from error
    if isinstance(found, str):
        raise ConfigError(f"cost={cost!r}: the file holds {shown(found)}, not a mapping of sites to costs.")
    try:
        check_cost(found)
    except ConfigError as error:
        raise ConfigError(f"cost={cost!r}: {error}") from error
    return dict(found)


def adapter_price(cost: str | Mapping[str, float], site: str, pool: Pool) -> float:
    """What one adapter of a site takes of the budget.

    `parameters`: `r (d_in + d_out + 1)`. `flops`: per token, two for every weight of its linear maps,
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
        near = difflib.get_close_matches(site, cost, n=1, cutoff=0.0)
        raise ConfigError(
            f"the cost table has no site {site!r}, but names such as {near[0]!r}; give every site's cost."
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
