"""From a structure to a small model."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from graftwork.distributed.shards import is_sharded
from graftwork.errors import StructureError, TrainingError
from graftwork.search.discretise import _describe_, discretise_, record_structure_, structure_of
from graftwork.structure.structure import Structure
from graftwork.tuner.config import GraftConfig
from graftwork.tuner.layer import GraftLayer
from graftwork.tuner.view import GraftView, graft_view

__all__ = ["compact_", "compact_config"]


def compact_(
    model: nn.Module, tasks: Sequence[str] | None = None, adapter_name: str | None = None
) -> Structure:
    """Remove what the structure closed, in place: unused adapters, and the wrapping of sites without any.

    Outputs equal those of the discretised model up to rounding. Gates still being learned are discretised
    first. The structure goes into the adapter's configuration, so that `save_pretrained` and
    `PeftModel.from_pretrained` build the right shapes. Never call it while an optimizer holds the parameters:
    they are replaced.

    Args:
        model: a model with a graft adapter, at any depth.
        tasks: keep only these tasks, in this order: with one task, the small model of that task.
        adapter_name: PEFT's name for the adapter; default the active one.

    Returns:
        The compact structure.

    Raises:
        StructureError: a task is unknown.
        TrainingError: the model is sharded by FSDP 2, which keeps the shapes it was given.

    Example:
        >>> from peft import get_peft_model
        >>> model = get_peft_model(backbone, gw.GraftConfig(tasks=["a", "b"], budget=0.03, pool_size=4))
        >>> structure = gw.compact_(model)
        >>> model.save_pretrained("runs/compact")
        >>> adapters = sum(p.numel() for name, p in model.named_parameters() if ".graft_" in name)
        >>> adapters == structure.parameters()
        True
    """
    if is_sharded(model):
        raise TrainingError(
            "FSDP keeps the parameters in the shapes it was given, so a sharded model cannot be made compact "
            "in place; write it with gw.save_compact(model, folder) and load that."
        )
    view = graft_view(model, adapter_name)
    if not view.decided:
        discretise_(model, view.adapter_name)
    name = view.adapter_name
    if tasks is not None:
        _select_tasks(view, tasks)
    for site, layer in view.sites.items():
        if (layer.graft_mask[name] > 0).any():
            layer.shrink_(name)
        else:
            _remove(view.backbone, site, layer, name)
    return record_structure_(model, name)


def compact_config(model: nn.Module, adapter_name: str) -> GraftConfig:
    """The configuration that an adapter would have if it were compact."""
    view = graft_view(model, adapter_name)
    config = copy.copy(view.config)
    added = {site: layer.used_added(adapter_name) for site, layer in view.sites.items()}
    _describe_(config, structure_of(model, adapter_name).compacted(), added)
    return config


def _select_tasks(view: GraftView, tasks: Sequence[str]) -> None:
    known = list(view.config.tasks)
    if isinstance(tasks, str) or not tasks or len(set(tasks)) < len(tasks):
        raise StructureError(f"tasks={tasks!r} must be a list of different task names, at least one.")
    for task in tasks:
        if task not in known:
            raise StructureError(f"unknown task {task!r}; the model has {', '.join(known)}.")
    rows = [known.index(task) for task in tasks]
    for layer in view.sites.values():
        layer.select_tasks_(view.adapter_name, rows)
    view.config.tasks = list(tasks)
    if view.config.groups is not None:
        left = ([task for task in group if task in tasks] for group in view.config.groups)
        view.config.groups = [group for group in left if group]


def _remove(backbone: nn.Module, site: str, layer: GraftLayer, adapter_name: str) -> None:
    if len(layer.pools) > 1:
        layer.drop_pool_(adapter_name)
    else:
        parent, _, child = site.rpartition(".")
        setattr(backbone.get_submodule(parent), child, layer.base_layer)
