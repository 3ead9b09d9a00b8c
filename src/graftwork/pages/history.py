"""What is kept of Trainer's log, for files and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["curves"]

CURVES = ("loss", "grad_norm", "learning_rate")
"""Keys of Trainer's log that are kept, beside scores and the figures of the search."""


def curves(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Trainer's log without the clocks."""
    kept = []
    for entry in history:
        values = {
            name: value
            for name, value in entry.items()
            if name in CURVES or name.startswith("graft/") or (name.startswith("eval_") and not _clock(name))
        }
        if values:
            kept.append({"step": int(entry["step"]), **values})
    return kept


def _clock(name: str) -> bool:
    return name in ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
