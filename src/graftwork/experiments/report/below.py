"""Which methods of a comparison are below its linear probe, in plain words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graftwork.diagnosis.floor import noise_of
from graftwork.experiments.report.tables import points
from graftwork.experiments.results.collect import Comparison, Group
from graftwork.experiments.results.statistics import counterpart
from graftwork.files.reading import is_finite

__all__ = ["below_probe", "below_reference"]

PROBE = "linear_probe"
"""Method whose score a fine-tuned model should not be below."""


def below_probe(comparison: Comparison, groups: Sequence[Group] | None = None) -> tuple[str, ...]:
    """A sentence for every method that is below the probe of its comparison in some task, and one of advice.

    Means over the seeds are compared; they must differ by more than one standard error of the difference on
    the test rows (`graftwork.diagnosis.floor.noise_of`), for other seeds do not change these.

    Args:
        comparison: methods on the same tasks and data.
        groups: of these; default all.
    """
    probes = [group for group in comparison.groups if group.method == PROBE and group.runs]
    sentences = []
    for group in comparison.groups if groups is None else groups:
        probe = None if group.method == PROBE else counterpart(group, probes)
        if probe is None:
            continue
        lost = [_lost(group, probe, task, metric) for task, metric in comparison.tasks.items()]
        if words := ", ".join(filter(None, lost)):
            sentences.append(f"{group.title} is below the linear probe on {words}.")
    if sentences:
        sentences.append(
            "Where a linear model on the frozen backbone does better than a method: try more epochs, higher "
            "rates (tune.learning_rates), more train rows, a larger budget, or another training.temperature "
            "or training.pooling."
        )
    return tuple(sentences)


def below_reference(comparison: Comparison, reference: str) -> tuple[str, ...]:
    """The same for the reference alone, a method or a label, without the advice."""
    groups = [group for group in comparison.groups if reference in (group.method, group.label)]
    place = f"{comparison.title}: " if comparison.title else ""
    return tuple(f"{place}{sentence}" for sentence in below_probe(comparison, groups)[:-1])


def _lost(group: Group, probe: Group, task: str, metric: str) -> str:
    """`trec (42.7 against 79.0)`; empty if the method is not below the probe, or has no score."""
    mine, theirs = group.suites([task]), probe.suites([task])
    rows = [run.tasks[task].get("rows") for run in group.runs if task in run.tasks]
    counts = [found["test"] for found in rows if isinstance(found, dict) and is_finite(found.get("test"))]
    if not mine or not theirs or not counts:
        return ""
    score, floor = float(np.mean(mine)), float(np.mean(theirs))
    if floor - score <= noise_of(metric, score, floor, float(min(counts))):
        return ""
    return f"{task} ({points(score)} against {points(floor)})"
