"""`GatedPools`: the pools of a site, their weights, logits and decided masks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from graftwork.distributed.shards import whole
from graftwork.errors import SiteError, StructureError
from graftwork.routing.router import Router
from graftwork.tuner.pool import CONVOLUTIONS, GateChange, Mask, Pool, check_pools, site_widths

__all__ = ["UNDECIDED", "GatedPools"]

UNDECIDED = -1.0
"""Value of every entry of a mask while its gates are learned."""


class GatedPools(nn.Module, BaseTunerLayer):
    """The pools of a site by PEFT's adapter name, and their gates; `GraftLayer` computes with them.

    The tensors are `graft_down` [K r, d_in], `graft_bias` [K r] (none if the pool is linear), `graft_up`
    [d_out, K r], `graft_gate_bias` [tasks, K] (the learned part of the logits; the name keeps Trainer from
    decaying it), and the buffers `graft_mask` [tasks, K] (1 open, 0 closed, -1 still learned), `graft_ratio`
    (see `logits`) and, if the gate family asks for one, `graft_state` (`GateFamily.initial_state`).
    """

    adapter_layer_names = ("graft_down", "graft_bias", "graft_up", "graft_gate_bias")
    other_param_names = ("graft_mask", "graft_ratio", "graft_state", "pools")

    def __init__(self, base_layer: nn.Module, router: Router) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.router = router
        self.pools: dict[str, Pool] = {}
        self.graft_down = nn.ParameterDict()
        self.graft_bias = nn.ParameterDict()
        self.graft_up = nn.ParameterDict()
        self.graft_gate_bias = nn.ParameterDict()
        self.graft_mask = BufferDict(persistent=True)
        self.graft_ratio = BufferDict(persistent=True)
        self.graft_state = BufferDict(persistent=True)
        self._masks: dict[str, Mask] = {}
        self._gate_changes: dict[str, list[GateChange]] = {}
        self.merged_adapters = []
        # PEFT and models read these of adapter layers; those of a whole block mean nothing.
        if any(True for _ in base_layer.parameters(recurse=False)):
            self.in_features, self.out_features = site_widths(base_layer)
        self._disable_adapters = False
        self.register_load_state_dict_pre_hook(check_pools)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(GatedPools._after_load)  # type: ignore[no-untyped-call]

    def add_pool(
        self,
        adapter_name: str,
        pool: Pool,
        *,
        mask: Tensor | None = None,
        init_weights: bool = True,
        inference_mode: bool = False,
    ) -> None:
        """Create the parameters of one pool.

        Args:
            adapter_name: PEFT's name for the adapter.
            pool: sizes and kind.
            mask: bool, [tasks, K]: the structure is given, nothing is left to learn.
            init_weights: `W_up` starts at zero (no effect), else random, as `W_down` always is.
            inference_mode: parameters are not trainable.

        Raises:
            SiteError: parallel adapters at a module whose input they cannot read.
        """
        if pool.parallel and isinstance(self.base_layer, (nn.Embedding, *CONVOLUTIONS)):
            raise SiteError(
                f"the input of a {type(self.base_layer).__name__} is no row of features that parallel "
                "adapters could read; use position='sequential'."
            )
        width = pool.size * pool.rank
        self.pools[adapter_name] = pool
        self.graft_down[adapter_name] = nn.Parameter(torch.empty(width, pool.width_in))
        if not pool.linear:
            self.graft_bias[adapter_name] = nn.Parameter(torch.zeros(width))
        self.graft_up[adapter_name] = nn.Parameter(torch.zeros(pool.width_out, width))
        nn.init.kaiming_uniform_(self.graft_down[adapter_name], a=math.sqrt(5))
        if not init_weights:
            nn.init.normal_(self.graft_up[adapter_name], std=0.02)
        shape = (len(pool.tasks), pool.size)
        if pool.family.learnable and mask is None:
            self.graft_gate_bias[adapter_name] = nn.Parameter(torch.zeros(shape))
            self.graft_ratio[adapter_name] = torch.ones(())
            self.graft_mask[adapter_name] = torch.full(shape, UNDECIDED)
            if (state := pool.family.initial_state(*shape)) is not None:
                self.graft_state[adapter_name] = state
        else:
            self.graft_mask[adapter_name] = torch.ones(shape) if mask is None else mask.float()
        self._refresh_decided()
        self._place(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def _place(self, adapter_name: str) -> None:
        """Move the pool to the device and floating type of the base module, also if that has no `.weight`."""
        tensors = list(itertools.chain(self.base_layer.parameters(), self.base_layer.buffers()))
        if not tensors or tensors[0].device.type == "meta":
            return
        device = tensors[0].device
        # A quantised base may have integers alone; adapters then keep torch's default type.
        dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)
        for container in (self.graft_down, self.graft_bias, self.graft_up, self.graft_gate_bias):
            if adapter_name in container and container[adapter_name].device.type != "meta":
                parameter = container[adapter_name]
                parameter.data = parameter.data.to(device=device, dtype=dtype)
        for buffers in (self.graft_mask, self.graft_ratio, self.graft_state):
            if adapter_name in buffers and buffers[adapter_name].device.type != "meta":
                buffers[adapter_name] = buffers[adapter_name].to(device)

    @staticmethod
    def _after_load(layer: nn.Module, _: Any) -> None:
        assert isinstance(layer, GatedPools)
        layer._refresh_decided()

    def _refresh_decided(self) -> None:
        """Note, per pool, whether its mask is decided and whether it is all ones."""
        self._masks = {
            # A layer whose gates are all ones does not ask for them.
            name: Mask.of(mask, changed=bool(self._gate_changes.get(name)))
            for name, mask in self.graft_mask.items()
        }

    def _mask(self, adapter_name: str) -> Mask:
        values = self.graft_mask[adapter_name]
        # Transformers' `load_adapter` and `.to()` put another tensor in the buffer's place.
        if self._masks[adapter_name].values is not values:
            if torch.compiler.is_exporting():
                # So does `torch.export`, one without values: what it replaces is what is known.
                return self._masks[adapter_name]._replace(values=values)
            self._refresh_decided()
        return self._masks[adapter_name]

    def is_decided(self, adapter_name: str) -> bool:
        """True if the gates of the pool are a fixed mask, False while they are learned."""
        return self._mask(adapter_name).decided

    def logits(self, adapter_name: str) -> Float[Tensor, "tasks adapters"]:
        r"""Logits of the gates, `clip(init + ratio * theta, -bound, bound)` with `d logit / d theta = 1`.

        The ratio makes gates move faster than weights under any optimizer whose step does not depend on the
        gradient's scale (Adam); the gradient passes as if the ratio were 1, so that gates do not eat the
        clipped norm.
        """
        pool, theta = self.pools[adapter_name], whole(self.graft_gate_bias[adapter_name])
        family, theta = pool.family, theta if pool.family.measured else pool.tied(theta)
        with torch.no_grad():
            value = (theta * self.graft_ratio[adapter_name] + family.initial_logit).clamp(
                -family.bound, family.bound
            )
            value -= theta
        logits: Tensor = theta + value
        return logits

    def gates(self, adapter_name: str) -> Float[Tensor, "tasks adapters"]:
        """Gates of a forward pass: the mask once decided, else drawn (training) or those of evaluation."""
        gates = self._unchanged_gates(adapter_name)
        for change in self._gate_changes.get(adapter_name, ()):
            gates = change(gates, self.training)
        return gates

    @contextmanager
    def changing_gates(self, adapter_name: str, change: GateChange) -> Iterator[None]:
        """Inside the context, forward passes use what `change` makes of the gates; contexts may be nested."""
        changes = self._gate_changes.setdefault(adapter_name, [])
        changes.append(change)
        try:
            self._refresh_decided()
            yield
        finally:
            changes.remove(change)
            self._refresh_decided()

    @property
    def gates_change(self) -> bool:
        """Whether a context changes the gates of forward passes."""
        return any(self._gate_changes.values())

    def _unchanged_gates(self, adapter_name: str) -> Float[Tensor, "tasks adapters"]:
        if not self.training or self.is_decided(adapter_name):
            return self.evaluation_gates(adapter_name)
        logits = self.logits(adapter_name)
        if torch.is_grad_enabled() and logits.requires_grad:
            self.router.warn_if_not_driven()
        return self.pools[adapter_name].family.sample(logits, self._state(adapter_name))

    def evaluation_gates(self, adapter_name: str) -> Float[Tensor, "tasks adapters"]:
        """Gates of all tasks as evaluation has them, whatever mode the model is in.

        They are the mask once it is decided, else what the gate family makes of the logits and of its state.
        Noise in the paths (`graftwork.noise.model.path_noise`) is no part of them.
        """
        if self.is_decided(adapter_name):
            return self._mask(adapter_name).values
        family = self.pools[adapter_name].family
        return family.deterministic(self.logits(adapter_name), self._state(adapter_name))

    def prob_open(self, adapter_name: str) -> Float[Tensor, "tasks adapters"]:
        """Probability that each gate is open, differentiable; the mask once it is decided."""
        if self.is_decided(adapter_name):
            return self._mask(adapter_name).values
        logits, state = self.logits(adapter_name), self._state(adapter_name)
        return self.pools[adapter_name].family.prob_open(logits, state)

    def scores(self, adapter_name: str) -> Float[Tensor, "tasks adapters"]:
        """What the discretisation ranks by (`GateFamily.scores`); the mask once it is decided."""
        if self.is_decided(adapter_name):
            return self._mask(adapter_name).values
        logits, state = self.logits(adapter_name), self._state(adapter_name)
        return self.pools[adapter_name].family.scores(logits, state)

    def anneal_(self, adapter_name: str, ramped: float) -> None:
        """Move what the gate family anneals, such as a temperature (`GateFamily.anneal_`)."""
        self.pools[adapter_name].family.anneal_(self._state(adapter_name), ramped)

    def _state(self, adapter_name: str) -> Tensor | None:
        return self.graft_state[adapter_name] if adapter_name in self.graft_state else None

    def strength(self, adapter_name: str) -> Float[Tensor, " adapters"]:
        """`sum_i |down_i| |up_i|` over the r hidden units of every adapter."""
        pool = self.pools[adapter_name]
        down = whole(self.graft_down[adapter_name].detach()).float().norm(dim=1)
        up = whole(self.graft_up[adapter_name].detach()).float().norm(dim=0)
        strength: Tensor = (down * up).view(pool.size, pool.rank).sum(dim=1)
        return strength

    def set_mask(self, adapter_name: str, mask: Tensor) -> None:
        """Decide the gates: `mask` is bool, [tasks, K].

        Raises:
            StructureError: the mask has another shape.
        """
        current = self.graft_mask[adapter_name]
        if mask.shape != current.shape:
            raise StructureError(
                f"a structure of shape {tuple(mask.shape)} (tasks, adapters) does not fit a pool of "
                f"{tuple(current.shape)}."
            )
        current.copy_(mask.to(current))
        self._refresh_decided()
        if adapter_name in self.graft_gate_bias:
            self.graft_gate_bias[adapter_name].grad = None

    def set_pool_(
        self,
        adapter_name: str,
        pool: Pool,
        weights: tuple[Tensor, Tensor | None, Tensor],
        mask: Tensor | None = None,
    ) -> None:
        """Put a pool of these weights in the place of what is there under the name.

        While gates are learned on them the weights are frozen, also after `set_adapter`, which PEFT calls
        whenever adapters are disabled and enabled again.

        Args:
            adapter_name: PEFT's name for the adapter.
            pool: sizes and kind.
            weights: `W_down` [K r, d_in], b [K r] (None if the pool is linear) and `W_up` [d_out, K r].
            mask: bool, [tasks, K]: the structure; None: the gates are learned, from their start.
        """
        for part in (*self.adapter_layer_names, *self.other_param_names):
            if adapter_name in getattr(self, part):
                del getattr(self, part)[adapter_name]
        self.add_pool(adapter_name, pool, mask=mask)
        for container, values in zip((self.graft_down, self.graft_bias, self.graft_up), weights, strict=True):
            if values is not None:
                container[adapter_name] = nn.Parameter(values.detach(), requires_grad=False)
        frozen = {key: names for key, names in self.frozen_peft_weight_names.items() if key != adapter_name}
        if mask is None:
            frozen[adapter_name] = ("graft_down", "graft_bias", "graft_up")
        self.frozen_peft_weight_names = frozen

    def select_tasks_(self, adapter_name: str, rows: Sequence[int]) -> None:
        """Keep only the tasks in these rows of the gate table, in this order. The mask must be decided."""
        pool = self.pools[adapter_name]
        self.graft_mask[adapter_name] = self.graft_mask[adapter_name][list(rows)].clone()
        self.pools[adapter_name] = replace(pool, tasks=tuple(pool.tasks[row] for row in rows))
        self._refresh_decided()

    def shrink_(self, adapter_name: str) -> None:
        """Keep only the adapters that some task uses, and drop the logits. The mask must be decided."""
        size, added = int(self.used(adapter_name).sum()), self.used_added(adapter_name)
        tensors = self.used_tensors(adapter_name)
        self.graft_mask[adapter_name] = tensors.pop("graft_mask")
        for part, values in tensors.items():
            container = getattr(self, part)
            container[adapter_name] = nn.Parameter(
                values, requires_grad=container[adapter_name].requires_grad
            )
        if adapter_name in self.graft_gate_bias:
            for kept in (self.graft_gate_bias, self.graft_ratio, self.graft_state):
                if adapter_name in kept:
                    del kept[adapter_name]
        self.pools[adapter_name] = replace(self.pools[adapter_name], size=size, added=added)
        self._refresh_decided()

    def used(self, adapter_name: str) -> Bool[Tensor, " adapters"]:
        """Which adapters some task uses. The mask must be decided."""
        used: Tensor = (self.graft_mask[adapter_name] > 0).any(dim=0)
        return used

    def used_added(self, adapter_name: str) -> tuple[int, ...]:
        """`Pool.added` without the adapters that no task uses."""
        used = self.used(adapter_name)
        left = (int(used[start:stop].sum()) for start, stop in self.pools[adapter_name].blocks[1:])
        return tuple(count for count in left if count)

    def used_tensors(self, adapter_name: str) -> dict[str, Tensor]:
        """Copies of the weights of the adapters that some task uses, and of their mask, by attribute."""
        keep = self.used(adapter_name)
        units = keep.repeat_interleave(self.pools[adapter_name].rank).nonzero().squeeze(1)
        tensors = {"graft_mask": self.graft_mask[adapter_name][:, keep].clone()}
        for part, dim in (("graft_down", 0), ("graft_bias", 0), ("graft_up", 1)):
            if adapter_name in getattr(self, part):
                old = whole(getattr(self, part)[adapter_name].detach())
                tensors[part] = old.index_select(dim, units.to(old.device)).contiguous()
        return tensors

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove one pool; PEFT's method forgets the cache of decided masks."""
        super().delete_adapter(adapter_name)
        self._refresh_decided()

    def drop_pool_(self, adapter_name: str) -> None:
        """Remove one pool of several, while the adapter lives on at other sites and stays the active one."""
        active = self.active_adapters
        self.set_adapter([name for name in active if name != adapter_name])
        self.delete_adapter(adapter_name)
        self._active_adapter = active
