"""What an adapter costs, as a setting: a name, or a table of sites, given or in a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graftwork.errors import ConfigError
from graftwork.files.reading import is_finite, read_json, user_path
from graftwork.messages import did_you_mean, shown

__all__ = ["COSTS", "check_cost", "read_cost"]

COSTS = ("parameters", "flops")
"""Costs that have a name; every other cost is a table."""

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
        raise ConfigError(
            f"cost={shown(cost)} is not known{did_you_mean(cost, COSTS)} Allowed: {', '.join(COSTS)}, "
            "file:TABLE.json, or a mapping of sites to the cost of one adapter."
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
