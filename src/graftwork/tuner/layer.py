"""`GraftLayer`: one site of the backbone with its fused pool of adapters."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from graftwork.distributed.processes import several
from graftwork.errors import RoutingError, SiteError
from graftwork.routing.router import Router
from graftwork.tuner.gated_pools import GatedPools
from graftwork.tuner.merging import Update, linear_map, linear_update, merge_, unmerge_
from graftwork.tuner.pool import ACTIVATIONS, CONVOLUTIONS, Pool

__all__ = ["GraftLayer", "with_zero_gradient"]


class GraftLayer(GatedPools):
    r"""A site: the base module plus K gated adapters, fused into one bottleneck.

    .. math::
        y = \mathrm{base}(x) + \sum_k z_{t k} W^{up}_k f(W^{down}_k h + b_k)

    with `h` the site's output (sequential) or input (parallel), t the task of the row. The K adapters of rank
    r are one bottleneck of width K r: `u = f(h W_down^T + b)` of shape [rows, ..., K r] is multiplied by each
    row's gates, every one repeated r times. Rows of different tasks therefore share one pass.

    Source: arXiv 2509.03057, equations 1-3; the fused form is ours.

    Shapes: `graft_down` [K r, d_in] (the rows of all W^down), `graft_bias` [K r], `graft_up` [d_out, K r],
    gates [tasks, K], h [rows, ..., d_in], y [rows, ..., d_out].

    Args:
        base_layer: the module of the backbone.
        router: says which task every row of a batch belongs to.

    Raises:
        RoutingError: in `forward`: several tasks and no route, or a route of another length than the batch.
        MergeError: in `merge`: the adapters are not linear, or the site has no weight that could take them.

    Example:
        >>> from peft import get_peft_model
        >>> model = get_peft_model(backbone, gw.GraftConfig(tasks=["a", "b"], pool_size=4, r=2))
        >>> layer = next(module for module in model.modules() if isinstance(module, gw.GraftLayer))
        >>> tuple(layer.graft_down["default"].shape)  # K r = 8 units that read 32 features
        (8, 32)
        >>> tuple(layer.gates("default").shape)
        (2, 4)
    """

    def __init__(self, base_layer: nn.Module, router: Router) -> None:
        super().__init__(base_layer, router)
        self._updates: dict[str, Update] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base module's output plus the gated adapters of every active pool.

        Raises:
            RoutingError: several tasks and no route, or a route of another length than the batch.
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        result = self.base_layer(*args, **kwargs)
        if self.disable_adapters:
            return result
        output = result[0] if isinstance(result, tuple) else result
        chosen = self.router.adapters(output)
        if self.merged:
            if chosen is not None:
                raise RoutingError(
                    "Cannot pass `adapter_names` when there are merged adapters, please call "
                    "`unmerge_adapter` first."
                )
            return result
        # Features last, as linear maps have them; convolutions write theirs behind the rows.
        channels = isinstance(self.base_layer, CONVOLUTIONS)
        output = hidden = output.movedim(1, -1) if channels else output
        for name, rows in self._applied(chosen):
            read = self._site_input(args, kwargs) if self.pools[name].parallel else output
            if rows is None:
                hidden = self._add_adapters(name, read, hidden)
            else:
                index = torch.tensor(rows, device=output.device)
                with self.router.among(rows, output):
                    part = self._add_adapters(name, read[index], hidden[index])
                hidden = hidden.index_copy(0, index, part)
        hidden = hidden.movedim(-1, 1) if channels else hidden
        return (hidden, *result[1:]) if isinstance(result, tuple) else hidden

    def _applied(self, chosen: tuple[str, ...] | None) -> Iterator[tuple[str, list[int] | None]]:
        """The pools of a forward pass, each with the rows it is for (None: all of them)."""
        if chosen is None:
            for name in self.active_adapters:
                if name in self.pools:
                    yield name, None
            return
        for name in self.pools:
            rows = [row for row, adapter in enumerate(chosen) if adapter == name]
            if rows:
                yield name, rows

    @staticmethod
    def _site_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The tensor a site reads: Llama calls `self_attn` by keyword only."""
        for value in (*args, kwargs.get("hidden_states"), *kwargs.values()):
            if isinstance(value, Tensor) and value.is_floating_point():
                return value
        raise SiteError(
            "a parallel adapter found no tensor among the inputs of its site; use position='sequential'."
        )

    def _add_adapters(
        self,
        name: str,
        x: Float[Tensor, "rows *positions d_in"],
        hidden: Float[Tensor, "rows *positions d_out"],
    ) -> Float[Tensor, "rows *positions d_out"]:
        """`hidden` plus the gated adapters of one pool.

        What came with a later task is a product of its own, and not added at all to the rows of tasks that do
        not use it: in the product of the shared part it would change the length of the sums, and so the
        rounding of the older tasks. The copies lie in memory as the shared part did alone.
        """
        pool = self.pools[name]
        rows = self._rows(pool, x)
        gates = None if self._mask(name).all_open else self._row_gates(name, rows, x.dim())
        down, up = self.graft_down[name], self._up(name)
        bias = None if pool.linear else self.graft_bias[name]
        if not pool.added:
            return self._bottleneck(pool, x, gates, down, bias, up, hidden)
        for start, stop in pool.blocks:
            if start == stop:
                continue
            units = slice(start * pool.rank, stop * pool.rank)
            changed = self._bottleneck(
                pool,
                x,
                None if gates is None else gates[..., units],
                down[units].clone(),
                None if bias is None else bias[units].clone(),
                up[:, units].clone(memory_format=torch.contiguous_format),
                hidden,
            )
            if start > 0 or pool.size == sum(pool.added):
                used = (self._mask(name).values[:, start:stop] != 0).any(dim=1)[rows]
                changed = torch.where(used.view(-1, *(1,) * (x.dim() - 1)), changed, hidden)
            hidden = changed
        return hidden

    def _up(self, name: str) -> Tensor:
        """`W_up`, with the logits in its graph if DDP waits for their gradient though they are decided."""
        up: Tensor = self.graft_up[name]
        if self.pools[name].scale != 1:
            up = up * self.pools[name].scale
        if name in self.graft_gate_bias and several() and self._mask(name).decided:
            up = with_zero_gradient(up, self.graft_gate_bias[name])
        return up

    @staticmethod
    def _bottleneck(
        pool: Pool,
        x: Tensor,
        gates: Tensor | None,
        down: Tensor,
        bias: Tensor | None,
        up: Tensor,
        hidden: Tensor,
    ) -> Tensor:
        """`hidden` plus what the adapters write: one product, which needs no memory for their sum."""
        units = ACTIVATIONS[pool.activation](F.linear(x.to(down.dtype), down, bias))
        if gates is not None:
            units = units * gates.to(units.dtype)
        if units.dtype != hidden.dtype:
            return hidden + F.linear(units, up).to(hidden.dtype)
        factors = hidden.flatten(0, -2), units.flatten(0, -2), up.t()
        if not torch.is_grad_enabled():
            # Autocast leaves products in place as they are.
            return factors[0].addmm_(factors[1], factors[2].to(units.dtype)).view(hidden.shape)
        return torch.addmm(*factors).view(hidden.shape)

    def _row_gates(self, name: str, rows: int | Tensor, dimensions: int) -> Tensor:
        """Gates of the hidden units: [K r], or [rows, 1..., K r] if the rows have different tasks."""
        gates = self.gates(name)[rows].repeat_interleave(self.pools[name].rank, dim=-1)
        if isinstance(rows, Tensor):
            gates = gates.view(rows.shape[0], *(1,) * (dimensions - 2), -1)
        return gates

    def _rows(self, pool: Pool, x: Tensor) -> int | Tensor:
        if len(pool.tasks) == 1:
            return 0
        if getattr(self, "_is_replica", False):
            raise RoutingError(
                "nn.DataParallel splits the batch but not the route; use DistributedDataParallel (torchrun, "
                "accelerate)."
            )
        current = self.router.current()
        if current is None:
            raise RoutingError(
                f"the model has {len(pool.tasks)} tasks ({', '.join(pool.tasks)}), but no route says which "
                "one the rows belong to; wrap the call in gw.route(model, task) or pass graft_rows=. If a "
                "trainer has dropped the column, gw.keep_tasks_(trainer) makes it keep the tasks."
            )
        positions = self.router.positions(x)
        return current.resolve(pool.tasks, x.shape[0] // positions, x.device, positions=positions)

    @torch.no_grad()
    def linear_update(self, adapter_name: str) -> Update:
        """What a linear pool adds to the site's weight for the task of the current route.

        Raises:
            MergeError: the pool is not linear, or the site has no weight that could take it.
            RoutingError: several tasks, and no route to one of them.
        """
        pool = self.pools[adapter_name]
        return linear_update(
            self.base_layer,
            pool,
            self.evaluation_gates(adapter_name)[self._task(pool)],
            self.graft_down[adapter_name],
            self.graft_up[adapter_name],
            tuple(self._updates.values()),
        )

    def _task(self, pool: Pool) -> int:
        current = self.router.current()
        if len(pool.tasks) == 1:
            return 0
        if current is None or not isinstance(current.tasks, str):
            raise RoutingError(
                f"merging bakes in one task of {', '.join(pool.tasks)}; call it inside "
                "`with gw.route(model, task):`."
            )
        row = current.resolve(pool.tasks, 0, torch.device("cpu"))
        assert isinstance(row, int)
        return row

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Merge linear pools into the site's weight, for the task of the current route if there are several.

        Args:
            safe_merge: refuse weights that are not finite.
            adapter_names: which adapters; default the active ones.

        Raises:
            MergeError: a pool is not linear, or the site has no weight that could take it.
            RoutingError: several tasks, and no route to one of them.
        """
        for name in check_adapters_to_merge(self, adapter_names):
            if name in self.pools:
                update = self.linear_update(name)
                merge_(linear_map(self.base_layer, self.pools[name].parallel), update, name, safe=safe_merge)
                self._updates[name] = update
                self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take all merged pools out of the site's weight again, up to rounding."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", UserWarning, stacklevel=2)
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            unmerge_(linear_map(self.base_layer, self.pools[name].parallel), self._updates.pop(name))

    def __getattr__(self, name: str) -> Any:
        """Attributes that the backbone reads from a wrapped block, such as `attention_type`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(super().__getattr__("base_layer"), name)


class _ZeroGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, parameter: Tensor) -> Tensor:
        ctx.like = (parameter.shape, parameter.dtype, parameter.device)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        shape, dtype, device = ctx.like
        return gradient, torch.zeros(shape, dtype=dtype, device=device)


def with_zero_gradient(x: Tensor, parameter: Tensor) -> Tensor:
    """`x` itself; in the backward pass the parameter, on which it does not depend, gets a gradient of zero.

    DDP waits for the gradient of every parameter it was given, unless it searches every graph for those that
    are missing (`find_unused_parameters`).
    """
    result: Tensor = _ZeroGradient.apply(x, parameter)  # type: ignore[no-untyped-call]
    return result
