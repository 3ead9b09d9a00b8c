"""Noise, in data and in a model: kinds, and the two calls that apply them.

    noise = Noise("keyboard", 0.1)                          # at test time, 10 % of the characters
    data, report = apply_to_task(load_task(task), noise)    # noise in texts, labels or rows
    with model_noise(model, noise, "test") as report:       # noise in embeddings, paths or weights
        evaluate(model)
    report().as_dict()                                      # the asked and the realised ratio, and the unit

Recipes read `graftwork.noise.kinds`, which knows no torch: the calls are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from graftwork.noise.kinds import KINDS, Kind, Noise, NoiseKind, NoiseReport, When

if TYPE_CHECKING:
    from graftwork.noise.applying import apply_to_task, damage_tasks, model_noise, noisy_model

__all__ = [
    "KINDS",
    "Kind",
    "Noise",
    "NoiseKind",
    "NoiseReport",
    "When",
    "apply_to_task",
    "damage_tasks",
    "model_noise",
    "noisy_model",
]


def __getattr__(name: str) -> object:
    """Import a call on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(_import_module("graftwork.noise.applying"), name)
    globals()[name] = value
    return value
