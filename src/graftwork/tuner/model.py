"""`GraftModel`: PEFT's view of a model with graft adapters, and its registration as a PEFT method."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import AuxiliaryTrainingWrapper, register_peft_method
from torch import Tensor, nn

from graftwork.attached import find_attached
from graftwork.cards.adapter import write_cards_of
from graftwork.errors import CheckpointError, RoutingError, SiteError
from graftwork.gates.registry import gate_family
from graftwork.messages import shown
from graftwork.routing.router import ROUTER_NAME, Router, find_router
from graftwork.structure.costs import COSTS, read_cost
from graftwork.tuner.config import GRAFT, GraftConfig
from graftwork.tuner.layer import GraftLayer
from graftwork.tuner.pool import Pool, check_size, site_widths
from graftwork.tuner.sites import resolve_sites

__all__ = ["GraftModel"]


class GraftModel(BaseTuner):
    """A backbone whose sites are `GraftLayer`s. Made by `get_peft_model(backbone, GraftConfig(...))`.

    PEFT keeps it in `PeftModel.base_model`. Forward passes take `graft_rows`, int64 [rows], the index of each
    row's task in `GraftConfig.tasks`; `graftwork.route` sets it for all passes inside a context.

    Raises:
        SiteError: no module of the backbone is a site.
        ConfigError: the pool asks for far more numbers than the backbone has.
        CheckpointError: a saved configuration does not hold what a model needs.

    Example:
        >>> from peft import get_peft_model
        >>> model = get_peft_model(backbone, gw.GraftConfig(tasks=["a", "b"]))
        >>> type(model.base_model).__name__
        'GraftModel'
        >>> import torch
        >>> model.eval()(**tokens, graft_rows=torch.tensor([0, 1])).last_hidden_state.shape
        torch.Size([2, 5, 32])
    """

    prefix = "graft_"
    tuner_layer_cls = GraftLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - BaseTuner declares it so; sites.py decides

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Turn the sites of one adapter into graft layers.

        The router comes first: a later adapter shares it, and a compact structure may have no site that could
        create it.
        """
        found = find_attached(model, ROUTER_NAME)
        if found is None or found.module is not model:
            Router().attach(model)
        config = _graft_config(self.peft_config[adapter_name])
        if not config.inference_mode:
            # A copy: sites, and later the structure, are those of this model, while users keep their settings
            # to wrap another. One in inference mode came with a checkpoint: it is the model's own.
            config = copy.copy(config)
            self.peft_config[adapter_name] = config
        if config.inference_mode and isinstance(config.cost, str) and config.cost not in COSTS:
            raise CheckpointError(
                f"the saved configuration has cost={shown(config.cost)}; a saved model holds its table "
                "itself."
            )
        config.cost = read_cost(config.cost)  # so that a saved model does not need the file
        sites = resolve_sites(model, config)
        config.resolved_sites = frozenset(sites)
        if sites:
            self._check_size(model, config, sites)
            config.target_modules = set(sites)
            super().inject_adapter(model, adapter_name, *args, **kwargs)
            # PEFT shortens long target lists to suffixes, which may match more than these sites in another
            # model.
            config.target_modules = set(sites)
        else:
            self._freeze(model)

    def _check_size(self, model: nn.Module, config: GraftConfig, sites: list[str]) -> None:
        """Refuse a pool of absurd size before it is made; configurations may come from a file."""
        total = 0
        for name in sites:
            site = model.get_submodule(name)
            base = site.get_base_layer() if isinstance(site, GraftLayer) else site
            pool, _ = self._pool(config, base, name)
            total += pool.size * pool.cost + 2 * pool.size * len(pool.tasks)
        tasks = f"{len(config.tasks):,} tasks at {len(sites)} sites"
        check_size(total, model, f"pool_size={config.pool_size}, r={config.r} and {tasks}")

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
        # In the mode of its module: adapters added in evaluation mode must not draw their gates.
        site = target if isinstance(target, GraftLayer) else GraftLayer(target, self.router)
        if site is not target:
            site.train(target.training)
            self._leave_fast_path(current_key, parent, site)
        config = _graft_config(peft_config)
        pool, mask = self._pool(config, site.get_base_layer(), current_key)
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

    @staticmethod
    def _pool(config: GraftConfig, module: nn.Module, name: str) -> tuple[Pool, Tensor | None]:
        """The pool of a site, and its mask if the structure is given."""
        size, rank, mask = config.pool_size, config.r, None
        added: tuple[int, ...] = ()
        if config.structure is not None:
            found = config.structure["sites"][name]
            size, rank, mask, added = _check_structure(found, name, len(config.tasks))
        width_in, width_out = site_widths(module, name)
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
            added=added,
            scale=float(config.scale),
        )
        return pool, mask

    def _leave_fast_path(self, name: str, parent: nn.Module, site: GraftLayer) -> None:
        """Make `nn.TransformerEncoder` call a site; in evaluation it would only read the weights.

        Raises:
            SiteError: `nn.MultiheadAttention` never calls its parts.
        """
        if isinstance(parent, nn.MultiheadAttention):
            raise SiteError(
                f"adapters at {name!r} would do nothing: nn.MultiheadAttention reads that weight without "
                f"calling the layer; choose the attention itself, {name.rpartition('.')[0]!r}."
            )
        parts = name.split(".")
        for end in range(1, len(parts)):
            module = self.model.get_submodule(".".join(parts[:end]))
            if isinstance(module, nn.TransformerEncoder):
                # Padding is left in place: nested tensors have no rows to route.
                module.use_nested_tensor = False
            elif isinstance(module, nn.TransformerEncoderLayer):
                site.register_forward_pre_hook(_called_as_a_module)

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        setattr(parent, child_name, new_module)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """What PEFT wraps around `forward` and `generate`: the adapter of every row, by `adapter_names=`.

        Raises:
            RoutingError: the model is in training mode, or an adapter is unknown.
        """
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        if self.training:
            raise RoutingError("Cannot pass `adapter_names` when the model is in training mode.")
        unknown = sorted(set(names) - {"__base__", *self.peft_config})
        if unknown:
            raise RoutingError(f"Trying to infer with non-existing adapter(s): {', '.join(unknown)}")
        # PEFT's wrappers of whole modules (`modules_to_save`) are told by keyword.
        hooks = [
            module.register_forward_pre_hook(self._tell_adapters, with_kwargs=True)
            for module in self.modules()
            if isinstance(module, AuxiliaryTrainingWrapper)
        ]
        try:
            with self.router.choosing(names):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _tell_adapters(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        adapters = self.router.adapters(x)
        return args, kwargs if adapters is None else {**kwargs, "adapter_names": list(adapters)}

    @property
    def router(self) -> Router:
        """The router shared by all graft layers of the model."""
        router = find_router(self.model)
        assert router is not None  # `inject_adapter` attaches it first
        return router

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """False: the adapters are nonlinear."""
        return False


def _called_as_a_module(module: nn.Module, args: tuple[Any, ...]) -> None:
    """A hook that does nothing: with one, `nn.TransformerEncoderLayer` calls its parts in evaluation, too."""


def _graft_config(config: PeftConfig) -> GraftConfig:
    """PEFT hands every tuner a `PeftConfig`; ours is always a `GraftConfig`."""
    assert isinstance(config, GraftConfig)
    return config


def _check_structure(
    found: dict[str, Any], site: str, tasks: int
) -> tuple[int, int, Tensor, tuple[int, ...]]:
    """Size, rank, mask and later additions of one site of a saved structure."""
    mask = torch.tensor(found["open"], dtype=torch.bool)
    if mask.dim() != 2 or mask.shape[0] != tasks or mask.shape[1] != found["pool_size"]:
        raise CheckpointError(
            f"the saved structure of site {site!r} has shape {tuple(mask.shape)}, but the configuration "
            f"names {tasks} tasks and a pool of {found['pool_size']}; the files do not belong together."
        )
    given = found.get("added", ())
    added = tuple(given) if isinstance(given, list | tuple) else (0,)
    if not all(type(count) is int and count >= 1 for count in added) or sum(added) > mask.shape[1]:
        raise CheckpointError(
            f"the saved structure of site {site!r} has a pool of {mask.shape[1]}, but additions of "
            f"{shown(given)}; the file is damaged."
        )
    return int(found["pool_size"]), int(found["r"]), mask, added


if GRAFT not in PEFT_TYPE_TO_TUNER_MAPPING:
    register_peft_method(name="graft", config_cls=GraftConfig, model_cls=GraftModel, prefix="graft_")
    write_cards_of(GRAFT)
