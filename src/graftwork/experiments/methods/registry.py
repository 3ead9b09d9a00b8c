"""The registry of methods: what a grid can name."""

from __future__ import annotations

from typing import Any

from graftwork.errors import ConfigError
from graftwork.experiments.methods.adalora import AdaLora
from graftwork.experiments.methods.adapters import AdapterFusion, GumbelSwitch
from graftwork.experiments.methods.baselines import BitFit, Full, Heads, Ia3, LinearProbe, Lora, Poly, Prefix
from graftwork.experiments.methods.frozen import Frozen
from graftwork.experiments.methods.grafts import (
    AdapterDrop,
    Adapters,
    AdaptersFfn,
    FixedStructure,
    Graft,
    Private,
    RandomStructure,
    Shared,
)
from graftwork.experiments.methods.mixed_lora import HydraLora, MtlLora
from graftwork.messages import did_you_mean

__all__ = ["METHODS", "method_class"]

_ALL: tuple[type[Any], ...] = (
    LinearProbe,
    Frozen,
    Heads,
    Full,
    BitFit,
    Lora,
    Ia3,
    Prefix,
    Poly,
    AdaLora,
    MtlLora,
    HydraLora,
    AdapterFusion,
    GumbelSwitch,
    Graft,
    FixedStructure,
    RandomStructure,
    Adapters,
    AdaptersFfn,
    Shared,
    Private,
    AdapterDrop,
)
METHODS: dict[str, type[Any]] = {method.name: method for method in _ALL}
"""Name -> method."""


def method_class(name: str) -> type[Any]:
    """The method called `name`.

    Raises:
        ConfigError: there is none; the message lists those there are.
    """
    if name not in METHODS:
        hint = did_you_mean(name, METHODS)
        raise ConfigError(f"unknown method {name!r}{hint} Allowed: {', '.join(sorted(METHODS))}.")
    return METHODS[name]
