"""`NewTask`: one more task on a trained model, whose pool stays as it is.

new = NewTask(model, head)          # the model now serves the new task alone, and its gates are learned
train(new.learner)                  # only gates, head and private adapters are trainable
model = new.finish_()               # all tasks; those from before give the same outputs, to the bit
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from graftwork.errors import ConfigError, StructureError
from graftwork.gates.registry import gate_family
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.registry import KINDS
from graftwork.models.causal.model import make_model
from graftwork.models.multitask import MultiTaskModel
from graftwork.recipe.extension import Extension
from graftwork.routing.router import find_router
from graftwork.search.discretise import record_structure_
from graftwork.search.parting import trunk_sites
from graftwork.tuner.config import GraftConfig
from graftwork.tuner.layer import GraftLayer
from graftwork.tuner.pool import Pool, site_widths
from graftwork.tuner.view import backbone_parameters, graft_view, peft_configs

__all__ = ["PRIVATE", "Extension", "NewTask", "check_answers"]

PRIVATE = "private"
"""PEFT's name for the new task's own adapters while they are learned."""


class NewTask:
    """A trained model that learns one more task.

    The stored pool, private adapters of tasks added earlier included, is frozen and open to the new task;
    only its gates over the pool, its head and its own private adapters are learned. These are a pool of their
    own, and stay a product of their own afterwards (`Pool.added`): in one product with the others they would
    change the length of its sums, and with it the rounding of the older tasks. In the layers of a trunk
    (`GraftConfig.trunk`) the new task takes the path that all tasks share, and has no private adapters.

    Args:
        model: the trained model. It is changed in place; use `finish_`'s.
        head: the new task.
        extension: what the task may use.
        sites: where private adapters go; default the sites of the model.

    Attributes:
        learner: the model of the new task alone, to be trained; adapter `default` (or whatever the model's is
            called) has the pool, adapter `private` the new adapters.

    Raises:
        ConfigError: the model has the task already, or cannot write the answers of such a task.
        StructureError: the model's structure is not decided, or a limit is smaller than one adapter.

    Example:
        `graftwork.add_task` does all of this from a file, and trains.

        >>> from graftwork.models.folder import load_model
        >>> model, tokenizer = load_model("runs/colours")
        >>> head = gw.Task("mood").head(labels=["bad", "good"])
        >>> new = gw.NewTask(model, head)
        >>> sorted({name.split(".")[-1] for name, p in new.learner.named_parameters() if p.requires_grad})
        ['bias', 'default', 'private', 'weight']

        Train `new.learner` with `MultiTaskTrainer`, then:

        >>> [head.name for head in new.finish_().heads.heads]
        ['colour', 'same', 'length', 'mood']
    """

    def __init__(
        self,
        model: MultiTaskModel,
        head: TaskHead,
        extension: Extension | None = None,
        *,
        sites: Sequence[str] = (),
    ) -> None:
        self.model = model
        self.head = head
        self.extension = extension or Extension()
        view = graft_view(model)
        if head.name in view.config.tasks:
            raise ConfigError(
                f"the model has a task {head.name!r} already (its tasks: {', '.join(view.config.tasks)}); "
                "give the new one another name, or remove the old one first."
            )
        check_answers(model, head.name, head.kind)
        if not view.decided:
            raise StructureError(
                "the structure of the model is still being learned; a task can be added once it is trained."
            )
        self.name = view.adapter_name
        self.config = view.config
        self.backbone = view.backbone
        self.pools = {site: layer.pools[self.name] for site, layer in view.sites.items()}
        self.masks = {site: layer.graft_mask[self.name].clone() > 0 for site, layer in view.sites.items()}
        self.trunk = trunk_sites(model, (*view.sites, *sites))
        """Sites where all tasks share their adapters: the new one takes their path, and has no others."""
        where = [site for site in sites or view.sites if site not in self.trunk]
        where = where if self.extension.private else []
        self._check_limits(where)
        self._open_pool(view.sites)
        if where:
            self._add_private(where)
        active = [self.name, PRIVATE] if self.extension.private else [self.name]
        self._activate(active, trainable=True)
        self.learner = make_model(
            model.backbone,
            [head],
            pooling=model.pooling,
            max_length=model.max_length,
            causal=model.causal,
        )

    @property
    def searched(self) -> list[str]:
        """PEFT's names of the adapters whose gates are learned: the pool, perhaps the private ones."""
        private = [PRIVATE] if self.extension.private_budget is not None else []
        return [self.name, *private] if self.pools else [*private, self.name]

    def _check_limits(self, sites: Sequence[str]) -> None:
        """An impossible limit must fail before anything is changed."""
        extension = self.extension
        if extension.private and not sites:
            raise StructureError(
                "the model has no site left for private adapters; name some, or set private to 0."
            )
        own = [self._pool_like(site).cost for site in sites]
        shared = [site for site in self.pools if site in self.trunk]
        trunk = sum(int(self.masks[site][0].sum()) * self.pools[site].cost for site in shared)
        for name, costs in (("limit", [pool.cost for pool in self.pools.values()]), ("private_budget", own)):
            share: float | None = getattr(extension, name)
            whole = backbone_parameters(self.model)
            least, what = min(costs, default=0), "one adapter"
            if name == "limit" and trunk > least:
                least, what = trunk, "the trunk that all tasks share"
            if share is not None and int(share * whole) < least:
                raise StructureError(
                    f"{name}={share:g} allows {int(share * whole):,} parameters, less than {what} "
                    f"({least:,}); raise it to at least {least / whole:.2g}."
                )

    def _open_pool(self, layers: dict[str, GraftLayer]) -> None:
        """Let the new task alone use the pool, with gates to be learned."""
        extension = self.extension
        self._set_config(self.name, budget=extension.limit, penalty=None if extension.limit else 0.0)
        for site, layer in layers.items():
            pool = replace(self.pools[site], tasks=(self.head.name,), family=gate_family(extension.gates))
            layer.set_pool_(self.name, pool, _weights(layer, self.name))
            if site in self.trunk:
                layer.set_mask(self.name, self.masks[site][:1])

    def _set_config(self, adapter: str, *, budget: float | None, penalty: float | None) -> None:
        config = GraftConfig(
            tasks=[self.head.name],
            pool_size=max(1, self.extension.private),
            r=self.config.r,
            activation=self.config.activation,
            position=self.config.position,
            gates=self.extension.gates,
            budget=budget,
            penalty=penalty,
        )
        peft_configs(self.backbone)[adapter] = config

    def _add_private(self, sites: Sequence[str]) -> None:
        size = self.extension.private
        gated = self.extension.private_budget is not None
        self._set_config(PRIVATE, budget=self.extension.private_budget, penalty=None if gated else 0.0)
        mask = None if gated else torch.ones(1, size, dtype=torch.bool)
        for site in sites:
            layer = self._layer(site)
            pool = replace(self._pool_like(site), tasks=(self.head.name,), size=size, added=())
            if pool.scale != 1:  # 1 stands for none, whatever the size of the pool
                pool = replace(pool, scale=pool.scale * math.sqrt(self.config.pool_size / size))
            layer.add_pool(PRIVATE, replace(pool, family=gate_family(self.extension.gates)), mask=mask)

    def _layer(self, site: str) -> GraftLayer:
        """The graft layer of a site; a site without an open adapter is wrapped again."""
        module = self.backbone.get_submodule(site)
        if isinstance(module, GraftLayer):
            return module
        router = find_router(self.backbone)
        assert router is not None
        layer = GraftLayer(module, router)
        parent, _, child = site.rpartition(".")
        setattr(self.backbone.get_submodule(parent), child, layer.train(module.training))
        return layer

    def _pool_like(self, site: str) -> Pool:
        """The pool of the site, or what it would be at a site which has none."""
        if site in self.pools:
            return self.pools[site]
        module = self.backbone.get_submodule(site)
        width_in, width_out = site_widths(
            module.get_base_layer() if isinstance(module, GraftLayer) else module, site
        )
        parallel = self.config.position == "parallel"
        return Pool(
            tasks=(),
            size=0,
            rank=self.config.r,
            activation=self.config.activation,
            parallel=parallel,
            family=gate_family(self.config.gates),
            width_in=width_in if parallel else width_out,
            width_out=width_out,
            scale=float(self.config.scale),
        )

    def _activate(self, adapters: list[str], *, trainable: bool) -> None:
        for layer in self._layers().values():
            layer.set_adapter(adapters, inference_mode=not trainable)

    def _layers(self) -> dict[str, GraftLayer]:
        return {name: part for name, part in self.backbone.named_modules() if isinstance(part, GraftLayer)}

    @torch.no_grad()
    def finish_(self) -> MultiTaskModel:
        """The model of all tasks, in evaluation mode. Gates still being learned are decided first.

        Closed private adapters are dropped. The weights and masks of the older tasks are those from before.
        """
        from graftwork.search.discretise import discretise_

        adapters = [self.name, PRIVATE] if self.extension.private else [self.name]
        for adapter in adapters:
            if not graft_view(self.model, adapter).decided:
                discretise_(self.model, adapter)
        for site, layer in self._layers().items():
            self._join(site, layer)
        peft_configs(self.backbone).pop(PRIVATE, None)
        config = copy.copy(self.config)
        config.tasks = [*self.config.tasks, self.head.name]
        peft_configs(self.backbone)[self.name] = config
        self._activate([self.name], trainable=False)
        record_structure_(self.model, self.name)
        old = self.model.heads
        model = type(self.model)(
            self.model.backbone,
            [*old.heads, self.head],
            pooling=self.model.pooling,
            dropout=self.model.dropout.p,
            max_length=self.model.max_length,
        )
        model.to(self.learner.heads.weight.device)
        model.heads.load({**old.export(), **self.learner.heads.export()})
        return model.eval()

    def _join(self, site: str, layer: GraftLayer) -> None:
        """One pool for all tasks at a site: the stored pool, then the adapters that the new task keeps."""
        old = self.pools.get(site)
        parts, masks, kept = [], [], 0
        tasks = tuple(self.config.tasks)
        if old is not None:
            parts.append(_weights(layer, self.name))
            own = self.masks[site][:1] if site in self.trunk else layer.graft_mask[self.name] > 0
            masks.append(torch.cat([self.masks[site], own.to(self.masks[site].device)]))
        if PRIVATE in layer.pools:
            layer.shrink_(PRIVATE)
            kept = layer.pools[PRIVATE].size
            down, bias, up = _weights(layer, PRIVATE)
            scale = (old or self._pool_like(site)).scale
            parts.append((down, bias, up * (layer.pools[PRIVATE].scale / scale)))
            own = torch.zeros(len(tasks) + 1, kept, dtype=torch.bool, device=parts[-1][0].device)
            own[-1] = True
            masks.append(own)
            layer.drop_pool_(PRIVATE)
        pool = old or replace(self._pool_like(site), size=0)
        size = pool.size + kept
        if not size:
            parent, _, child = site.rpartition(".")
            setattr(self.backbone.get_submodule(parent), child, layer.base_layer)
            return
        added = (*pool.added, kept) if kept else pool.added
        pool = replace(pool, tasks=(*tasks, self.head.name), size=size, added=added)
        downs, biases, ups = zip(*parts, strict=True)
        mask = torch.cat([part.to(downs[0].device) for part in masks], dim=1)
        # The adapters of a linear pool have no bias.
        bias = None if pool.linear else torch.cat([values for values in biases if values is not None])
        layer.set_pool_(self.name, pool, (torch.cat(downs), bias, torch.cat(ups, dim=1)), mask)


def _weights(layer: GraftLayer, adapter: str) -> tuple[Tensor, Tensor | None, Tensor]:
    bias = layer.graft_bias[adapter].detach() if adapter in layer.graft_bias else None
    return layer.graft_down[adapter].detach(), bias, layer.graft_up[adapter].detach()


def check_answers(model: MultiTaskModel, name: str, kind: str) -> None:
    """Refuse a task that only a language model can answer, if the model is none.

    Raises:
        ConfigError: it is none.
    """
    if KINDS[kind].written and not model.causal:
        others = ", ".join(head.name for head in model.heads.heads)
        raise ConfigError(
            f"task {name!r} of kind: {kind} is answered by a language model, and the model of {others} "
            "has no head for words; train it on a causal model with graftwork fit, or set kind: "
            "classification with labels."
        )
