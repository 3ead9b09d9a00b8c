"""Whether a processor can compute in bfloat16, or only imitate it."""

from __future__ import annotations

import functools
import time
import warnings

import torch

__all__ = ["bfloat16_slowdown", "warn_if_bfloat16_is_slow"]

SLOW = 3.0
"""Times float32: a processor with bfloat16 instructions is below 1, one without them at 10 to 100."""


@functools.cache
def bfloat16_slowdown() -> float:
    """How many times as long a matrix product takes in bfloat16 as in float32 on this CPU, measured."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.ones(64, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
        tries = []
        for _ in range(5):
            start = time.perf_counter()
            left @ right
            tries.append(time.perf_counter() - start)
        seconds[dtype] = min(tries)
    return seconds[torch.bfloat16] / seconds[torch.float32]


def warn_if_bfloat16_is_slow() -> None:
    """Say so if training in bfloat16 on this CPU takes longer than in float32."""
    if (times := bfloat16_slowdown()) > SLOW:
        warnings.warn(
            f"this CPU has no bfloat16 instructions: a matrix product takes {times:.0f} times as long as in "
            "float32. Train with training.bf16 false.",
            stacklevel=3,
        )
