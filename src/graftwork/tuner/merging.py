"""What a linear pool adds to its site, as a product of two matrices, and putting it into the site's weight.

Without a nonlinearity the K adapters of a task are one matrix, `M = sum_k z_k W^up_k W^down_k`. In parallel
to a linear map `W x + b` that is `W + M`; in sequence it is `(1 + M) W` and `(1 + M) b`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from graftwork.errors import MergeError
from graftwork.tuner.pool import CONVOLUTIONS, Pool

__all__ = ["Update", "linear_map", "linear_update", "merge_", "unmerge_"]


@dataclass(frozen=True)
class Update:
    """What a linear pool adds to the weight and the bias of a linear map.

    Attributes:
        up: [d_out, R], with R the hidden units of the pool.
        down: [R, d_in]; the weight grows by `up @ down`.
        bias: [d_out], or None if the bias stays.
    """

    up: Float[Tensor, "d_out units"]
    down: Float[Tensor, "units d_in"]
    bias: Float[Tensor, " d_out"] | None


def linear_map(base: nn.Module, parallel: bool) -> nn.Module:
    """The linear map of a site that its adapters can be merged into.

    Raises:
        MergeError: the site has none.
    """
    if isinstance(base, nn.MultiheadAttention) and not parallel:
        base = base.out_proj
    linear = isinstance(base, nn.Linear) or type(base).__name__ == "Conv1D"
    if not linear and (parallel or not isinstance(base, (nn.Embedding, *CONVOLUTIONS))):
        raise MergeError(
            f"a site that is a {type(base).__name__} cannot be merged into; choose linear layers as sites."
        )
    if isinstance(base, CONVOLUTIONS) and base.groups > 1:
        raise MergeError(
            f"a {type(base).__name__} of {base.groups} groups cannot be merged into: its output channels see "
            "different inputs, and adapters mix them."
        )
    weight = base.weight
    # Quantised tensors of torchao pass for floats, but are of a class of their own.
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or type(weight.data) is not Tensor:
        raise MergeError(
            f"a quantised or sharded {type(base).__name__} cannot be merged into; load the backbone in full."
        )
    return base


def _matrix(base: nn.Module) -> Float[Tensor, "d_out d_in"]:
    """The weight of a linear map with the features it writes in front, in float32."""
    weight = base.weight
    assert isinstance(weight, Tensor)
    weight = weight.detach().float()
    if isinstance(base, CONVOLUTIONS):
        return weight.flatten(1)
    return weight if isinstance(base, nn.Linear) else weight.T


def _bias(base: nn.Module) -> Float[Tensor, " d_out"] | None:
    bias = getattr(base, "bias", None)
    return bias.detach().float() if isinstance(bias, Tensor) else None


@torch.no_grad()
def linear_update(
    base: nn.Module,
    pool: Pool,
    gates: Float[Tensor, " adapters"],
    down: Float[Tensor, "units d_in"],
    up: Float[Tensor, "d_out units"],
    merged: tuple[Update, ...] = (),
) -> Update:
    """What a linear pool adds to a site for one task, in float32.

    Args:
        base: the site.
        pool: what the pool looks like.
        gates: those of the task.
        down: `W_down` of the whole pool.
        up: `W_up` of the whole pool.
        merged: what is in the weight of the site already and does not belong to it.

    Raises:
        MergeError: the pool is not linear, or the site has no weight that could take it.
    """
    if not pool.linear:
        raise MergeError(
            f"adapters with activation={pool.activation!r} are nonlinear and cannot be merged; keep them as "
            "they are (gw.compact_ makes them small), or train with activation='identity'."
        )
    base = linear_map(base, pool.parallel)
    up = pool.scale * up.float() * gates.float().repeat_interleave(pool.rank)
    down = down.float()
    if pool.parallel:
        return Update(up, down, None)
    weight, bias = _matrix(base), _bias(base)
    for other in merged:
        weight = weight - other.up @ other.down
        bias = bias - other.bias if bias is not None and other.bias is not None else bias
    return Update(up, down @ weight, None if bias is None else up @ (down @ bias))


@torch.no_grad()
def merge_(base: nn.Module, update: Update, name: str, *, safe: bool = False) -> None:
    """Add an update to the weight of a linear map, in place.

    Raises:
        ValueError: with `safe`, the sum is not finite; the weight is as it was.
    """
    weight, bias = _matrix(base) + update.up @ update.down, _bias(base)
    if bias is not None and update.bias is not None:
        bias = bias + update.bias
    if safe and not (weight.isfinite().all() and (bias is None or bias.isfinite().all())):
        raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken")
    parameter = base.weight
    assert isinstance(parameter, Tensor)
    transposed = not isinstance(base, (nn.Linear, *CONVOLUTIONS))
    parameter.copy_((weight.T if transposed else weight).reshape(parameter.shape))
    if bias is not None:
        base.bias.copy_(bias)  # type: ignore[operator]


@torch.no_grad()
def unmerge_(base: nn.Module, update: Update) -> None:
    """Take an update out of the weight of a linear map again, in place, up to rounding."""
    minus = Update(-update.up, update.down, None if update.bias is None else -update.bias)
    merge_(base, minus, "")
