"""Several processes of one run: who writes, and how what one of them finds out reaches the others.

The launcher (`torchrun`, `accelerate launch`) starts the processes; nothing here does. In a single process
every function is what its name says without anybody to wait for. torch is imported where there are several.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from graftwork.errors import GraftworkError, TrainingError
from graftwork.launcher import launched

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "any_process",
    "equal_everywhere",
    "from_main",
    "is_main",
    "is_shared",
    "join",
    "leave",
    "main_first",
    "on_all",
    "on_main",
    "several",
    "world_size",
]

T = TypeVar("T")
PATIENCE = timedelta(hours=2)
"""Time that processes wait for the main one, which alone scores the frozen backbone and writes the report."""
CLOSE = 1e-2
"""Relative difference up to which values of different processes count as equal."""


def join() -> None:
    """Join the process group of the launcher, if there is one, as Trainer would do later.

    Raises:
        TrainingError: the launcher asks for a model spread over the processes.
    """
    if launched() > 1 and not several():
        import torch
        from accelerate import PartialState

        for name in ("FSDP", "DEEPSPEED"):
            if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true":
                error = TrainingError(
                    f"graftwork fit trains copies of the model, {name} would spread it over the processes; "
                    "launch it with torchrun or accelerate launch --multi_gpu, or use Trainer "
                    "(docs/distributed.md)."
                )
                error.shared = True
                raise error
        PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)


def leave() -> None:
    """Leave the process group."""
    if several():
        import torch.distributed as dist

        dist.destroy_process_group()


def several() -> bool:
    """True if this process is one of several."""
    if "torch" not in sys.modules:
        return False
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """How many processes there are."""
    if not several():
        return 1
    import torch.distributed as dist

    return dist.get_world_size()


def is_main() -> bool:
    """True for the process that writes and prints; the environment decides before `join`."""
    if not several():
        return os.environ.get("RANK", "0") == "0" or launched() == 1
    import torch.distributed as dist

    return dist.get_rank() == 0


def from_main(value: T) -> T:
    """The value of the main process, on all of them."""
    if not several():
        return value
    import torch.distributed as dist

    box = [value if is_main() else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[return-value]


def on_all(work: Callable[[], T]) -> T:
    """Do something on every process; if it fails on any of them it fails on all.

    Every process has to call it. Calls may be nested: an error that all know is not exchanged again.

    Raises:
        GraftworkError: that of the first process that has one.
    """
    if not several():
        return work()
    import torch.distributed as dist

    error: BaseException | None = None
    try:
        result = work()
    except Exception as raised:
        if is_shared(raised):
            raise
        error = raised
    told = error
    if error is not None and not isinstance(error, GraftworkError):
        told = TrainingError(f"process {dist.get_rank()} failed: {type(error).__name__}: {error}")
    everybody: list[Any] = [None] * world_size()
    dist.all_gather_object(everybody, told)
    first = next((found for found in everybody if found is not None), None)
    if first is None:
        return result
    if error is not None and not isinstance(error, GraftworkError):
        raise error
    first.shared = True
    raise first


def is_shared(error: BaseException) -> bool:
    """True if all processes have this error, so that one of them is enough to print it."""
    return isinstance(error, GraftworkError) and error.shared


def on_main(work: Callable[[], T]) -> T:
    """Do something on the main process alone; all get its result, or its error."""
    return from_main(on_all(lambda: work() if is_main() else None))  # type: ignore[return-value]


def main_first(work: Callable[[], T]) -> T:
    """Do something on the main process, then on the others, which find what it left on disk."""
    first = on_all(lambda: work() if is_main() else None)
    rest = on_all(lambda: None if is_main() else work()) if several() else None
    return first if is_main() else rest  # type: ignore[return-value]


def any_process(flag: bool) -> bool:
    """True on all processes if it is on one."""
    if not several():
        return flag
    import torch
    import torch.distributed as dist

    tensor = torch.tensor(int(flag), device=_device())
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return bool(tensor)


def equal_everywhere(values: Tensor) -> bool:
    """True if all processes have about the same values."""
    if not several():
        return True
    import torch
    import torch.distributed as dist

    values = values.detach().to(_device(), torch.float32).nan_to_num()
    largest = torch.stack([values, -values])
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    spread = largest[0] + largest[1]
    return bool((spread <= CLOSE * values.abs().max()).all())


def _device() -> torch.device:
    """Where tensors for collectives have to be."""
    import torch
    import torch.distributed as dist

    if "gloo" in dist.get_backend():
        return torch.device("cpu")
    return torch.accelerator.current_accelerator() or torch.device("cpu")
