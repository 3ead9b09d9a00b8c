"""Parameters that FSDP 2 has spread over several processes: reading and writing them whole.

Outside a forward or backward pass such a parameter is a `DTensor`, of which a process holds a part; inside,
and wherever nothing is sharded, it is a plain tensor. What reads one whole is a collective: every process has
to call it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

if torch.distributed.is_available():
    from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["assign_", "is_sharded", "whole"]


def _is_part(tensor: Tensor) -> bool:
    return torch.distributed.is_available() and isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, differentiable: the gradient of a sharded one is sharded like it."""
    return tensor.full_tensor() if _is_part(tensor) else tensor  # type: ignore[attr-defined]


@torch.no_grad()
def assign_(parameter: Tensor, values: Tensor) -> None:
    """Write the values, given whole and equal on all processes, into a parameter that may be sharded."""
    if _is_part(parameter):
        values = values.to(parameter.device, parameter.dtype).expand(parameter.shape).contiguous()
        values = distribute_tensor(values, parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]
    parameter.copy_(values)


def is_sharded(model: nn.Module) -> bool:
    """True if FSDP 2 manages a part of the model, also while its parameters happen to be whole."""
    if not torch.distributed.is_available():
        return False
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(module, FSDPModule) for module in model.modules())
