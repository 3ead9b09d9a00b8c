"""Export to forms that need no graftwork: a linear pool as a standard LoRA of PEFT, one per task."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from graftwork.errors import MergeError, RoutingError, StructureError
from graftwork.routing.router import find_router
from graftwork.routing.rows import Route, unknown_task
from graftwork.tuner.layer import GraftLayer
from graftwork.tuner.merging import Update
from graftwork.tuner.view import GraftView, graft_view

__all__ = ["export_lora"]


def export_lora(
    model: nn.Module, folder: str | Path, task: str | None = None, *, adapter_name: str | None = None
) -> LoraConfig:
    r"""Write what a linear graft adapter does for one task as a LoRA that stock PEFT loads.

    In parallel to `W x`, the open adapters of the task are `B A` with `B = (z_k W^up_k)_k` and
    `A = (W^down_k)_k`; in sequence, `A = (W^down_k)_k W` and a bias `B (W^down_k)_k b`. The rank of a site is
    that of its open adapters, and sites without any are left out. Whole modules trained beside the adapters
    (`modules_to_save`) and trained tokens go along.

    Args:
        model: a model with a graft adapter, at any depth. While gates are learned, those of evaluation are
            written.
        folder: gets `adapter_config.json` and `adapter_model.safetensors`.
        task: which task; may be left out if there is but one.
        adapter_name: PEFT's name for the adapter; default the active one.

    Returns:
        The configuration of the LoRA.

    Raises:
        MergeError: adapters are nonlinear, or a site is not a linear layer.
        RoutingError: the task is unknown, or there are several and none is given.
        StructureError: the task uses no adapter at all.

    Source: Hu et al. 2022, LoRA, equation 3 (`W x + B A x`, here with alpha = r).

    Example:
        >>> from peft import PeftModel, get_peft_model
        >>> linear = {"activation": "identity", "init_weights": False}
        >>> config = gw.GraftConfig(tasks=["a", "b"], gates="fixed", pool_size=4, **linear)
        >>> model = get_peft_model(backbone, config)
        >>> lora = gw.export_lora(model, "runs/lora-a", "a")
        >>> lora.r
        4
        >>> loaded = PeftModel.from_pretrained(type(backbone)(backbone.config), "runs/lora-a")
    """
    view = graft_view(model, adapter_name)
    task = _task(view, task)
    updates = _updates(view, task)
    if not updates:
        raise StructureError(f"task {task!r} uses no adapter, so there is nothing to export.")
    biased = any(update.bias is not None for update in updates.values())
    config = _lora_config(view, updates, biased)
    tensors: dict[str, Tensor] = {}
    for site, update in updates.items():
        tensors[f"base_model.model.{site}.lora_A.weight"] = update.down
        tensors[f"base_model.model.{site}.lora_B.weight"] = update.up
        if biased:
            bias = update.up.new_zeros(len(update.up)) if update.bias is None else update.bias
            tensors[f"base_model.model.{site}.lora_B.bias"] = bias
    state = get_peft_model_state_dict(_outermost(model, view), adapter_name=view.adapter_name)
    for name, tensor in state.items():
        if ".graft_" not in name:
            tensors[name if name.startswith("base_model.model.") else f"base_model.model.{name}"] = tensor
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    contents = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(contents, target / "adapter_model.safetensors", metadata={"format": "pt"})
    written = copy.copy(config)
    written.target_modules = sorted(updates)  # PEFT would write a set, in an order that depends on hashing
    written.save_pretrained(str(target))
    return config


def _task(view: GraftView, task: str | None) -> str:
    known = view.config.tasks
    if task is None and len(known) > 1:
        raise RoutingError(f"a LoRA holds one task; give task=, one of {', '.join(known)}.")
    if task is not None and task not in known:
        raise unknown_task(task, known)
    return known[0] if task is None else task


@torch.no_grad()
def _updates(view: GraftView, task: str) -> dict[str, Update]:
    """The sites with open adapters of the task, each with what these add to it."""
    router, updates = find_router(view.backbone), {}
    assert router is not None
    with router.using(Route(task)):
        for site, layer in view.sites.items():
            update = _only_linear(site, layer).linear_update(view.adapter_name)
            used = (update.up != 0).any(dim=0)
            if used.any():
                bias = update.bias if update.bias is None or update.bias.any() else None
                updates[site] = Update(update.up[:, used], update.down[used], bias)
    return updates


def _only_linear(site: str, layer: GraftLayer) -> GraftLayer:
    base = layer.get_base_layer()
    if not isinstance(base, nn.Linear) and type(base).__name__ != "Conv1D":
        raise MergeError(f"site {site!r} is a {type(base).__name__}; only linear layers export as LoRA.")
    if layer.merged:
        raise MergeError(f"site {site!r} has merged adapters; call `unmerge_adapter` first.")
    return layer


def _lora_config(view: GraftView, updates: dict[str, Update], biased: bool) -> LoraConfig:
    ranks = {site: update.up.shape[1] for site, update in updates.items()}
    usual = max(ranks.values())
    # PEFT takes the keys for patterns that may match the end of other names.
    odd = {"^" + re.escape(site): rank for site, rank in ranks.items() if rank != usual}
    source = view.config
    transposed = [type(view.sites[site].get_base_layer()).__name__ == "Conv1D" for site in updates]
    return LoraConfig(
        r=usual,
        lora_alpha=usual,
        rank_pattern=odd,
        alpha_pattern=dict(odd),
        target_modules=sorted(ranks),
        fan_in_fan_out=all(transposed),
        lora_bias=biased,
        modules_to_save=source.modules_to_save,
        trainable_token_indices=source.trainable_token_indices,
        task_type=source.task_type,
        base_model_name_or_path=source.base_model_name_or_path,
        revision=source.revision,
        inference_mode=True,
    )


def _outermost(model: nn.Module, view: GraftView) -> nn.Module:
    """What PEFT's own function for state dicts takes: the `PeftModel`, or the backbone with its adapters."""
    return model if hasattr(model, "peft_config") else view.backbone
