"""`GraftModel`: PEFT's view of a model with graft adapters, and its registration as a PEFT method."""

from __future__ import annotations

import copy
from typing import Any

import torch
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import register_peft_method
from torch import Tensor, nn

from graftwork.config import GraftConfig
from graftwork.errors import CheckpointError
from graftwork.gates import gate_family
from graftwork.layer import GraftLayer
from graftwork.peft_type import GRAFT
from graftwork.pool import Pool, site_widths
from graftwork.routing import Router
from graftwork.sites import resolve_sites

__all__ = ["GraftModel"]


class GraftModel(BaseTuner):
    """A backbone whose sites are `GraftLayer`s. Made by `get_peft_model(backbone, GraftConfig(...))`."""

    prefix = "graft_"
    tuner_layer_cls = GraftLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - BaseTuner declares it so; sites.py decides

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Turn the sites of one adapter into graft layers.

        The router comes first: a later adapter shares it, and a compact structure may have no site that could
        create it.
        """
        if "_graft_router" not in model.__dict__:
            Router().attach(model)
        # A copy: sites, and later the structure, are those of this model, while users keep their settings to
        # wrap another.
        config = copy.copy(_graft_config(self.peft_config[adapter_name]))
        self.peft_config[adapter_name] = config
        sites = resolve_sites(model, config)
        config.resolved_sites = frozenset(sites)
        if sites:
            config.target_modules = set(sites)
            super().inject_adapter(model, adapter_name, *args, **kwargs)
            # PEFT shortens long target lists to suffixes, which may match more than these sites in another
            # model.
            config.target_modules = set(sites)
        else:
            self._freeze(model)

    def _freeze(self, model: nn.Module) -> None:
        """What injection does to a backbone, for a structure without a single open adapter."""
        self._mark_only_adapters_as_trainable(model)

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        return peft_config

    @staticmethod
    def _check_target_module_exists(peft_config: PeftConfig, key: str) -> bool:
        return key in _graft_config(peft_config).resolved_sites

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        site = target if isinstance(target, GraftLayer) else GraftLayer(target, self.router)
        config = _graft_config(peft_config)
        size, rank, mask = config.pool_size, config.r, None
        if config.structure is not None:
            found = config.structure["sites"][current_key]
            size, rank, mask = _check_structure(found, current_key, len(config.tasks))
        width_in, width_out = site_widths(site.get_base_layer(), current_key)
        parallel = config.position == "parallel"
        pool = Pool(
            tasks=tuple(config.tasks),
            size=size,
            rank=rank,
            activation=config.activation,
            parallel=parallel,
            family=gate_family(config.gates),
            width_in=width_in if parallel else width_out,
            width_out=width_out,
        )
        site.add_pool(
            adapter_name,
            pool,
            mask=mask,
            init_weights=config.init_weights,
            inference_mode=config.inference_mode,
        )
        if site is not target:
            if adapter_name not in self.active_adapters:
                site.requires_grad_(False)
            # Not PEFT's `_replace_module`, which wants a base module with a `.weight`.
            setattr(parent, target_name, site)

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        setattr(parent, child_name, new_module)

    @property
    def router(self) -> Router:
        """The router shared by all graft layers of the model."""
        return self.model.__dict__["_graft_router"]  # type: ignore[no-any-return]

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """False: the adapters are nonlinear."""
        return False


def _graft_config(config: PeftConfig) -> GraftConfig:
    """PEFT hands every tuner a `PeftConfig`; ours is always a `GraftConfig`."""
    assert isinstance(config, GraftConfig)
    return config


def _check_structure(found: dict[str, Any], site: str, tasks: int) -> tuple[int, int, Tensor]:
    """Size, rank and mask of one site of a saved structure."""
    mask = torch.tensor(found["open"], dtype=torch.bool)
    if mask.dim() != 2 or mask.shape[0] != tasks or mask.shape[1] != found["pool_size"]:
        raise CheckpointError(
            f"the saved structure of site {site!r} has shape {tuple(mask.shape)}, but the configuration "
            f"names {tasks} tasks and a pool of {found['pool_size']}; the files do not belong together."
        )
    return int(found["pool_size"]), int(found["r"]), mask


if GRAFT not in PEFT_TYPE_TO_TUNER_MAPPING:
    register_peft_method(name="graft", config_cls=GraftConfig, model_cls=GraftModel, prefix="graft_")
