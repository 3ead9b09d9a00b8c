"""How long a training is: as its settings say, or else long enough for its rows."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graftwork.recipe.settings import TrainingSettings

__all__ = [
    "ADDED_MIN_STEPS",
    "ADDED_PASSES",
    "EPOCHS",
    "MIN_STEPS",
    "PATIENCE",
    "added_floor",
    "described_length",
    "settle_length",
    "steps_per_epoch",
    "total_steps",
]

EPOCHS = 4.0
"""Passes over the rows if none are given: enough for a few thousand rows (`benchmarks/defaults.py`)."""
MIN_STEPS = 300
"""Smallest number of optimizer steps if `epochs` is not given: search and tuning need as many."""
ADDED_PASSES = 10
"""Passes over the rows of an added task at which that floor ends, for with more so few rows are learned by
heart: after 32 passes over 300 rows qnli had .590 on validation, after 10 it had .668."""
ADDED_MIN_STEPS = 100
"""What is left of that floor at the least."""
PATIENCE = 3
"""Evaluations without a better score after which a training without `epochs` ends."""
EVALUATIONS = 15
"""Largest number of evaluations of a training without `epochs`: with few rows they would take most of the
time."""


def steps_per_epoch(settings: TrainingSettings, rows: int) -> int:
    """Optimizer steps of one pass over `rows` training rows."""
    return math.ceil(math.ceil(rows / settings.batch_size) / settings.gradient_accumulation)


def total_steps(settings: TrainingSettings, rows: int) -> int:
    """Optimizer steps of a run over `rows` training rows, its length settled."""
    assert settings.epochs is not None
    batches = math.ceil(rows / settings.batch_size)
    return math.ceil(math.ceil(batches / settings.gradient_accumulation) * settings.epochs)


def added_floor(settings: TrainingSettings, rows: int) -> TrainingSettings:
    """The settings of an added task with a floor on its steps, if neither that nor `epochs` is given.

    Args:
        settings: the training loop.
        rows: training rows of the task, which has all batches for itself.
    """
    if settings.epochs is not None or settings.min_steps is not None:
        return settings
    most = ADDED_PASSES * steps_per_epoch(settings, rows)
    return dataclasses.replace(settings, min_steps=min(MIN_STEPS, max(ADDED_MIN_STEPS, most)))


def settle_length(settings: TrainingSettings, rows: int) -> TrainingSettings:
    """The settings with `epochs`, `eval_steps` and `patience` filled in.

    Where `epochs` is not given, there are `EPOCHS` passes and at least `MIN_STEPS` steps, evaluated after as
    many epochs as make `EVALUATIONS` evaluations at most. `min_steps` and `patience` that are given hold in
    either case.

    Args:
        settings: the training loop.
        rows: training rows of all tasks together.
    """
    given = settings.epochs is not None
    floor = settings.min_steps if settings.min_steps is not None else (0 if given else MIN_STEPS)
    patience = settings.patience if settings.patience is not None else (0 if given else PATIENCE)
    epochs, once = settings.epochs or EPOCHS, steps_per_epoch(settings, rows)
    if once * epochs < floor:
        epochs = math.ceil(floor / once)
    apart = 1 if given else math.ceil(epochs / EVALUATIONS)
    if apart > 1:
        epochs = apart * math.ceil(epochs / apart)
    steps = settings.eval_steps if settings.eval_steps is not None or apart == 1 else apart * once
    return dataclasses.replace(settings, epochs=float(epochs), eval_steps=steps, patience=patience)


def described_length(settings: TrainingSettings, rows: int) -> str:
    """In words how long a training is whose length was settled."""
    epochs = f"{settings.epochs:g} epochs of {rows:,} rows, {total_steps(settings, rows):,} steps"
    if not settings.patience:
        return epochs
    return f"{epochs}; less if {settings.patience} evaluations bring no better validation score"
