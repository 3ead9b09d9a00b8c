"""The first line of the report: does the learned structure lead the strongest LoRA of its size?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graftwork.experiments.report.tables import FEW, gap, span
from graftwork.experiments.report.verdict import Verdict, learned
from graftwork.experiments.results.collect import Comparison, Group
from graftwork.experiments.results.edges import edge_doubt
from graftwork.experiments.results.statistics import Difference, difference

__all__ = ["lead"]

ROOM = 1.05
"""Stored parameters of a rival of equal size, as a share of those of the learned structure."""
PROBE = "linear_probe"


def lead(comparisons: Sequence[Comparison]) -> Verdict | None:
    """Compare every learned structure with the LoRA of at most its stored size that is best on validation.

    The headline is that of the learned structure with most pairs of seeds up to `FEW`, of several the one
    that is best on validation; the others are evidence. A linear probe whose mean test score is not below
    its own comes first: then nothing was gained.

    Returns:
        None if no LoRA of that size has a seed in common with a learned structure.
    """
    found: list[tuple[tuple[int, float, str], Verdict]] = []
    for comparison in comparisons:
        for group in filter(learned, comparison.groups):
            rival = _strongest(comparison, group)
            if rival is not None:
                between = difference(group, rival, list(comparison.tasks))
                rank = (min(len(between.seeds), FEW), _validation(comparison, group), group.id)
                found.append((rank, _said(comparison, between)))
    if not found:
        return None
    _, first = max(found, key=lambda item: item[0])
    others = [verdict.headline + "." for _, verdict in found if verdict is not first]
    return Verdict(first.headline, (*first.evidence, *others), first.good, first.decided)


def _strongest(comparison: Comparison, group: Group) -> Group | None:
    """The LoRA with a seed in common, not larger, that is best on validation."""
    own = group.mean("parameters.stored")
    seeds = {run.seed for run in group.runs}
    rivals = []
    for each in comparison.groups:
        stored = each.mean("parameters.stored")
        common = any(run.seed in seeds and run.suite(list(comparison.tasks)) is not None for run in each.runs)
        if (
            "lora" in each.method
            and common
            and own is not None
            and stored is not None
            and stored <= ROOM * own
        ):
            rivals.append(each)
    return max(rivals, key=lambda each: (_validation(comparison, each), each.id), default=None)


def _validation(comparison: Comparison, group: Group) -> float:
    scores = group.suites(list(comparison.tasks), "validation")
    return float(np.mean(scores)) if scores else -1.0


def _said(comparison: Comparison, between: Difference) -> Verdict:
    group = between.group
    place = f", {comparison.title}" if comparison.title else ""
    decided = len(between.seeds) >= FEW and between.interval is not None
    words = _words(between, decided) + place
    edges = tuple(
        f"{each.title}: {doubt}, so a better one may lie beyond."
        for each in (group, between.reference)
        if (doubt := edge_doubt(each))
    )
    probe = _probe(comparison, group)
    if probe is None:
        return Verdict(
            words, edges, between.verdict == "better", decided and between.verdict != "not told apart"
        )
    headline = f"{probe.title} is as good as {group.title} or better; {words}"
    return Verdict(headline, edges, False, decided)


def _words(between: Difference, decided: bool) -> str:
    count = f"{len(between.seeds)} seed{'s' * (len(between.seeds) != 1)}"
    mean = between.mean or 0.0
    interval = "" if between.interval is None else f" {span(between.interval)}"
    against = f"the strongest LoRA of its size ({between.reference.title})"
    if not decided:
        few = f"{count}: too few to tell"
        return f"{between.group.title} is at {gap(mean)} points{interval} from {against}, {few}"
    if between.verdict == "not told apart":
        return f"{between.group.title} is level with {against}: {gap(mean)} points{interval}, {count}"
    verb = "leads" if between.verdict == "better" else "trails"
    return f"{between.group.title} {verb} {against} by {gap(abs(mean)).lstrip('+')} points{interval}, {count}"


def _probe(comparison: Comparison, group: Group) -> Group | None:
    """A linear probe whose mean is not below that of a group."""
    tasks = list(comparison.tasks)
    own = group.suites(tasks)
    for each in comparison.groups:
        scores = each.suites(tasks)
        if each.method == PROBE and scores and own and np.mean(scores) >= np.mean(own):
            return each
    return None
