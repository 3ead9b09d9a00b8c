"""The floor under every task: its majority class, and a linear probe on the frozen backbone.

A task that ends below its probe would do better without its training, and one at its majority class has
learned nothing. Both are said in plain words, from the figures alone, wherever a score is shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from graftwork.files.reading import is_finite
from graftwork.messages import shown

__all__ = ["ADVICE", "evaluation_notes", "floor_note", "floor_notes", "noise_of"]

ROUNDING = 5e-4
"""Difference below which scores count as equal: half of the last of three decimals that are shown."""
ADVICE = (
    "more epochs or a higher rate (training.epochs, training.learning_rate), more train rows, a larger "
    "budget, training.temperature if other tasks have many more rows, or another training.pooling"
)
"""Settings to try for a task below its floor, for messages."""
_CORRELATIONS = ("spearman", "pearson", "matthews")


def floor_notes(tasks: Mapping[str, Any], *, split: str = "test") -> list[str]:
    """A sentence for every task below its floor.

    Args:
        tasks: as in `report.json`: name -> `metric`, the score of `split`, `linear_probe`, `majority`, `rows`
            of every split; of tasks that compare texts `frozen_cosine` and `chance` in place of probe and
            majority. A task that lacks a figure is passed over.
        split: whose score is judged; the yardsticks are those of the test split.
    """
    notes = []
    for name, task in tasks.items():
        if not isinstance(task, Mapping):
            continue
        rows = task.get("rows")
        count = rows.get(split) if isinstance(rows, Mapping) else rows
        score: Any = task.get(split)
        compared = "chance" in task  # texts are compared: nothing is fitted, and there is no class
        fitted, guess = ("frozen_cosine", "chance") if compared else ("linear_probe", "majority")
        probe: Any = task.get(fitted)
        majority: Any = task.get(guess)
        known: list[Any] = [score, majority, count]
        left_out = fitted not in task
        if all(map(is_finite, known)) and (left_out or is_finite(probe)):
            against = None if left_out else float(probe)
            told = _compared_note if compared else floor_note
            note = told(
                name, str(task.get("metric")), float(score), against, float(majority), float(known[2])
            )
            notes += [] if note is None else [note]
    return notes


def evaluation_notes(report: Mapping[str, Any], split: str, tasks: Mapping[str, Any]) -> list[str]:
    """The same for scores measured again, beside the yardsticks of the model's report.

    Args:
        report: as in `report.json`, perhaps empty.
        split: that was scored; only the test split has yardsticks.
        tasks: name -> `metric`, `score` and `rows`.
    """
    known = report.get("tasks")
    if split != "test" or not isinstance(known, Mapping):
        return []
    found = {name: known[name] for name in tasks if isinstance(known.get(name), Mapping)}
    return floor_notes(
        {
            name: {
                **task,
                "metric": tasks[name]["metric"],
                "test": tasks[name]["score"],
                "rows": tasks[name]["rows"],
            }
            for name, task in found.items()
        }
    )


def floor_note(
    task: str, metric: str, score: float, probe: float | None, majority: float, rows: float
) -> str | None:
    """A sentence for a task that is at its majority class, or below its probe by more than noise; else None.

    Args:
        task: its name.
        metric: of the scores.
        score: of the trained model.
        probe: of a linear probe on the frozen backbone; None if it was left out.
        majority: of always guessing the most frequent train class; 0 for numbers.
        rows: that were scored.
    """
    figures = f"{metric} {score:.3f} on {rows:,.0f} rows"
    if score <= majority + ROUNDING:
        guess = "a constant guess" if metric in _CORRELATIONS else "always guessing the most frequent class"
        if probe is None:
            return (
                f"Task {shown(task)} ends at its majority class: {figures}, {guess} has {majority:.3f}; try "
                f"{ADVICE}."
            )
        if probe <= majority + ROUNDING:
            return (
                f"Task {shown(task)} has learned nothing that shows: {figures}, {guess} has {majority:.3f}, "
                f"and so low is the linear probe on the frozen backbone ({probe:.3f}); check its fields text "
                f"and label, then try {ADVICE}."
            )
        return (
            f"Task {shown(task)} ends at its majority class: {figures}, {guess} has {majority:.3f}, the "
            f"linear probe on the frozen backbone {probe:.3f}; try {ADVICE}."
        )
    if probe is None:
        return None
    noise = noise_of(metric, score, probe, rows)
    if probe - score <= max(noise, ROUNDING):
        return None
    return (
        f"Task {shown(task)} ends below its linear probe: {figures}, the probe on the frozen backbone has "
        f"{probe:.3f}, higher by more than the noise of so many rows (one standard error of the difference, "
        f"{noise:.3f}); try {ADVICE}."
    )


def _compared_note(
    task: str, metric: str, score: float, frozen: float | None, chance: float, rows: float
) -> str | None:
    """The same for a task that compares texts: at chance, or below the cosine of frozen vectors."""
    figures = f"{metric} {score:.3f} on {rows:,.0f} rows"
    if score <= chance + ROUNDING:
        return f"Task {shown(task)} ends at chance: {figures}, a random order has {chance:.3f}; try {ADVICE}."
    noise = 0.0 if frozen is None else noise_of(metric, score, frozen, rows)
    if frozen is None or frozen - score <= max(noise, ROUNDING):
        return None
    return (
        f"Task {shown(task)} ends below its frozen cosine: {figures}, the vectors of the frozen backbone "
        f"have {frozen:.3f}, higher by more than the noise of so many rows (one standard error of the "
        f"difference, {noise:.3f}); try {ADVICE}, or a larger training.batch_size, for more negatives."
    )


def noise_of(metric: str, first: float, second: float, rows: float) -> float:
    r"""One standard error of the difference of two scores on as many rows.

    .. math:: \sqrt{\frac{p(1-p) + q(1-q)}{n}}

    for accuracy and recall; macro F1 is taken for a rate alike, and mrr, whose error is smaller. Correlations
    have :math:`(1-r^2)^2/(n-1)` in place of :math:`p(1-p)/n`. The scores are taken as independent: on the
    same rows they differ by less, so that what is called a difference is one.
    """
    rows = max(rows, 2)
    if metric in _CORRELATIONS:
        return math.sqrt(sum((1 - min(1, value * value)) ** 2 for value in (first, second)) / (rows - 1))
    return math.sqrt(sum(max(0, value * (1 - value)) for value in (first, second)) / rows)
