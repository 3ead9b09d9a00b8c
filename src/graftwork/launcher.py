"""What a launcher (`torchrun`, `accelerate launch`) says in the environment of a process."""

from __future__ import annotations

import os

__all__ = ["launched"]


def launched() -> int:
    """How many processes the launcher started, by the environment it gave them."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
