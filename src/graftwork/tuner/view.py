"""Finding the graft adapter inside whatever model holds it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from graftwork.attached import find_attached
from graftwork.errors import ConfigError
from graftwork.routing.router import ROUTER_NAME
from graftwork.tuner.config import GraftConfig
from graftwork.tuner.layer import GraftLayer

__all__ = ["GraftView", "backbone_parameters", "graft_tensors", "graft_view", "peft_configs"]


@dataclass(frozen=True)
class GraftView:
    """One graft adapter of a model.

    Attributes:
        backbone: the model whose modules were wrapped; site names are relative to it.
        adapter_name: PEFT's name for the adapter.
        config: its settings.
        sites: site name -> layer, in the model's order. Empty if the structure is.
    """

    backbone: nn.Module
    adapter_name: str
    config: GraftConfig
    sites: dict[str, GraftLayer]

    @property
    def decided(self) -> bool:
        """True once no gate is being learned."""
        return all(site.is_decided(self.adapter_name) for site in self.sites.values())


def graft_view(model: nn.Module, adapter_name: str | None = None) -> GraftView:
    """The graft adapter `adapter_name` of `model`, by default the active one.

    Raises:
        ConfigError: the model has no such adapter.
    """
    found = find_attached(model, ROUTER_NAME)
    if found is None:
        raise ConfigError(
            f"{type(model).__name__} has no graft adapter; wrap it with get_peft_model(model, "
            f"GraftConfig(...))."
        )
    backbone = found.module
    layers = {name: module for name, module in backbone.named_modules() if isinstance(module, GraftLayer)}
    configs = {
        name: config for name, config in peft_configs(backbone).items() if isinstance(config, GraftConfig)
    }
    if adapter_name is None:
        active = [name for layer in layers.values() for name in layer.active_adapters if name in configs]
        adapter_name = next(iter([*active, *configs]), None)
    if adapter_name is None or adapter_name not in configs:
        raise ConfigError(f"no graft adapter {adapter_name!r}; the model has {', '.join(configs) or 'none'}.")
    sites = {name: layer for name, layer in layers.items() if adapter_name in layer.pools}
    return GraftView(backbone, adapter_name, configs[adapter_name], sites)


def peft_configs(backbone: nn.Module) -> dict[str, Any]:
    """The configurations of all adapters of a backbone, by name: the mapping that PEFT keeps on it."""
    return backbone.peft_config  # type: ignore[return-value]


def backbone_parameters(model: nn.Module) -> int:
    """Parameters of the frozen transformer, without adapters and without copies made by `modules_to_save`."""
    backbone = graft_view(model).backbone
    adapters = {
        id(parameter)
        for layer in backbone.modules()
        if isinstance(layer, GraftLayer)
        for name in layer.adapter_layer_names
        for parameter in getattr(layer, name).values()
    }
    return sum(
        _size(parameter)
        for name, parameter in backbone.named_parameters()
        if id(parameter) not in adapters and ".modules_to_save." not in name
    )


def _size(parameter: Tensor) -> int:
    """Numbers of a parameter; bitsandbytes packs two of four bits into one."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def graft_tensors(view: GraftView) -> dict[str, Tensor]:
    """The weights and gates of a graft adapter, by name."""
    marker = f".{view.adapter_name}"
    return {
        f"{site}.{name.removesuffix(marker)}": parameter
        for site, layer in view.sites.items()
        for name, parameter in layer.named_parameters()
        if name.startswith("graft_") and name.endswith(marker)
    }
