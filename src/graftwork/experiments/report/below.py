"""Which methods of a comparison are below its linear probe or its frozen model, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graftwork.diagnosis.floor import noise_of
from graftwork.experiments.report.tables import points
from graftwork.experiments.results.collect import Comparison, Group, Result
from graftwork.experiments.results.statistics import comparable, counterpart
from graftwork.files.reading import is_finite

__all__ = ["below_floors", "below_probe", "below_reference"]

PROBE, FROZEN = "linear_probe", "frozen"
"""Methods whose scores a fine-tuned model should not be below."""
ADVICE = {
    PROBE: "Where a linear model on the frozen backbone does better than a method: try more epochs, higher "
    "rates (tune.learning_rates), more train rows, a larger budget, or another training.temperature or "
    "training.pooling.",
    FROZEN: "Where the frozen model answers better than a method: try more epochs, higher rates "
    "(tune.learning_rates), more train rows, a larger budget, or another training.temperature.",
}
"""What to do then."""


def below_probe(comparison: Comparison, groups: Sequence[Group] | None = None) -> tuple[str, ...]:
    """A sentence for every method that is below a floor of its comparison in some task, and one of advice.

    Means over the seeds are compared; they must differ by more than one standard error of the difference on
    the test rows (`graftwork.diagnosis.floor.noise_of`), for other seeds do not change these.

    Args:
        comparison: methods on the same tasks and data.
        groups: of these; default all.
    """
    sentences = []
    for kind, advice in ADVICE.items():
        told = _below(comparison, kind, comparison.groups if groups is None else groups)
        sentences += [*told, advice] if told else []
    return tuple(sentences)


def below_floors(comparison: Comparison) -> dict[tuple[str, str], tuple[str, ...]]:
    """(group, task) -> the floors that the group is below there, in words for the cell of its score."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for kind in ADVICE:
        for group, floor in _floors(comparison, kind, comparison.groups):
            for task, metric in comparison.tasks.items():
                if _lost(group, floor, task, metric):
                    words = f"below {_called(kind, floor)}"
                    found[group.id, task] = (*found.get((group.id, task), ()), words)
    return found


def _below(comparison: Comparison, kind: str, groups: Sequence[Group]) -> list[str]:
    """A sentence for every method that is below one of the floors of a kind."""
    sentences = []
    for group, floor in _floors(comparison, kind, groups):
        lost = [_lost(group, floor, task, metric) for task, metric in comparison.tasks.items()]
        if words := ", ".join(filter(None, lost)):
            sentences.append(f"{group.title} is below {_called(kind, floor)} on {words}.")
    return sentences


def _floors(comparison: Comparison, kind: str, groups: Sequence[Group]) -> Iterator[tuple[Group, Group]]:
    """Every method with the floors of a kind that it is to be above."""
    floors = [group for group in comparison.groups if group.method == kind and group.runs]
    for group in groups:
        if group.method in ADVICE:
            continue
        # Of several frozen models, asked in different ways, each is a floor.
        own = comparable(group, floors) if kind == FROZEN else filter(None, [counterpart(group, floors)])
        for floor in own:
            yield group, floor


def _called(kind: str, floor: Group) -> str:
    return "the linear probe" if kind == PROBE else floor.title


def below_reference(comparison: Comparison, reference: str) -> tuple[str, ...]:
    """The same for the reference alone, a method or a label, without the advice."""
    groups = [group for group in comparison.groups if reference in (group.method, group.label)]
    place = f"{comparison.title}: " if comparison.title else ""
    told = [sentence for kind in ADVICE for sentence in _below(comparison, kind, groups)]
    return tuple(f"{place}{sentence}" for sentence in told)


def _lost(group: Group, probe: Group, task: str, metric: str) -> str:
    """`trec (42.7 against 79.0)`; empty if the method is not below the probe, or has no score."""
    mine, theirs = group.suites([task]), probe.suites([task])
    counts = [count for run in group.runs if (count := _scored(run, task)) is not None]
    if not mine or not theirs or not counts:
        return ""
    score, floor = float(np.mean(mine)), float(np.mean(theirs))
    if floor - score <= noise_of(metric, score, floor, float(min(counts))):
        return ""
    return f"{task} ({points(score)} against {points(floor)})"


def _scored(run: Result, task: str) -> float | None:
    """Test rows of a task whose scores a run has; of written answers only some are written."""
    texts = run.data.get("texts")
    answered = texts.get(task, {}).get("test", {}) if isinstance(texts, dict) else {}
    rows = run.tasks.get(task, {}).get("rows")
    found: Any = answered.get("written_rows", rows.get("test") if isinstance(rows, dict) else None)
    return float(found) if is_finite(found) else None
