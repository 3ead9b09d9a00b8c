"""Models of several folders as one: their pools side by side at every site, their heads in one table."""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from peft import PeftModel, get_peft_model

from graftwork.attached import attach
from graftwork.data.tokens import tokenizer_identity
from graftwork.edges import quiet_peft
from graftwork.models.first_pass import WIDTH_NAME, measured_width
from graftwork.models.identity import identity_of
from graftwork.models.multitask import MultiTaskModel
from graftwork.routing.router import find_router
from graftwork.tuner.view import GraftView, graft_view, peft_configs

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from graftwork.tuner.layer import GraftLayer

__all__ = ["family_of", "fuse"]


def family_of(model: MultiTaskModel, tokenizer: PreTrainedTokenizerBase) -> Hashable:
    """Models of equal family can be fused: rows reach them alike, and their adapters are of one form.

    Args:
        model: of a folder.
        tokenizer: its tokenizer.

    Returns:
        Something that no other model has, if this one cannot be fused with any: its adapters are another
        method's, its gates are not decided, or nobody knows which backbone it has.
    """
    identity = identity_of(model.backbone)
    if identity is None or find_router(model.backbone) is None or not isinstance(model.backbone, PeftModel):
        return id(model)
    view = graft_view(model.backbone)
    if len(peft_configs(view.backbone)) > 1 or not view.decided or view.config.modules_to_save:
        return id(model)
    if view.config.trainable_token_indices:
        return id(model)
    form = (view.config.activation, view.config.position)
    heads = str(model.heads.weight.dtype)
    return (identity, form, heads, model.pooling, model.max_length, tokenizer_identity(tokenizer))


def fuse(models: Sequence[MultiTaskModel], base: PreTrainedModel) -> MultiTaskModel:
    r"""One model with the tasks of several models of one family, whose names differ.

    A task has the gates of its own model for that model's adapters, and 0 for all others:

    .. math:: z = \mathrm{diag}(z_1, \dots, z_n), \quad W = [W_1 \dots W_n]

    Adapters of rank r are r / g adapters of rank g with equal gates, so pools of different rank become one of
    their greatest common divisor. The scale of a pool goes into its `W_up`. Answers are those of each model
    up to rounding: sums are longer.

    Args:
        models: of one family (`family_of`).
        base: a bare twin of their backbone.
    """
    views = [graft_view(model.backbone) for model in models]
    heads = [head for model in models for head in model.heads.heads]
    tasks = [head.name for head in heads]
    order = [name for name, _ in base.named_modules()]
    sites = {name for view in views for name in view.sites}
    tables = {name: _table(name, views) for name in order if name in sites}
    config = copy.copy(views[0].config)
    config.tasks, config.groups = tasks, None
    config.scale = 1.0
    config.structure = {"format": 1, "tasks": tasks, "sites": tables}
    config.base_model_name_or_path = base.name_or_path
    if (width := measured_width(models[0].backbone)) is not None:
        attach(base, WIDTH_NAME, width)
    with quiet_peft():
        adapted = get_peft_model(base, config)
    for name, layer in graft_view(adapted).sites.items():
        _fill_(layer, name, views)
    model = MultiTaskModel(adapted, heads, pooling=models[0].pooling, max_length=models[0].max_length)
    model.heads.load({name: value for part in models for name, value in part.heads.export().items()})
    return model.eval().requires_grad_(False)


def _table(site: str, views: Sequence[GraftView]) -> dict[str, object]:
    """The structure of a site: a block of gates for each model, in adapters of the common rank."""
    layers = [view.sites.get(site) for view in views]
    pools = [
        None if layer is None else layer.pools[view.adapter_name]
        for layer, view in zip(layers, views, strict=True)
    ]
    rank = math.gcd(*(pool.rank for pool in pools if pool is not None))
    blocks = []
    for view, layer, pool in zip(views, layers, pools, strict=True):
        if layer is None or pool is None:
            blocks.append(torch.zeros(len(view.config.tasks), 0))
        else:
            gates = layer.evaluation_gates(view.adapter_name)
            blocks.append(gates.repeat_interleave(pool.rank // rank, dim=1))
    gates = torch.block_diag(*blocks)
    shaped = next(pool for pool in pools if pool is not None)
    return {
        "pool_size": gates.shape[1],
        "r": rank,
        "cost": replace(shaped, rank=rank).cost,
        "open": gates.int().tolist(),
    }


@torch.no_grad()
def _fill_(layer: GraftLayer, site: str, views: Sequence[GraftView]) -> None:
    """Copy the weights of all models into a fused site."""
    own = next(iter(layer.pools))
    parts = [(view.sites[site], view.adapter_name) for view in views if site in view.sites]
    downs = [part.graft_down[name] for part, name in parts]
    ups: list[Tensor] = [part.graft_up[name] * part.pools[name].scale for part, name in parts]
    layer.graft_down[own].copy_(torch.cat(downs))
    layer.graft_up[own].copy_(torch.cat(ups, dim=1))
    if own in layer.graft_bias:
        layer.graft_bias[own].copy_(torch.cat([part.graft_bias[name] for part, name in parts]))
