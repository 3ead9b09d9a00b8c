"""Does the learned structure beat the random one?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graftwork.experiments.report.tables import gap
from graftwork.experiments.results.collect import Comparison, Group
from graftwork.experiments.results.statistics import Difference, comparable, counterpart, difference

__all__ = ["Verdict", "judge", "learned"]

LEARNED = "graft"
RANDOM = "random"
"""The methods of the first sentence: a learned structure and a random one."""


@dataclass(frozen=True)
class Verdict:
    """A headline with its evidence.

    Attributes:
        good: the learned structure wins everywhere.
        decided: there are seeds enough to call it so, in colour.
    """

    headline: str
    evidence: tuple[str, ...]
    good: bool
    decided: bool = True

    @property
    def tone(self) -> str:
        """For the headline of a page."""
        return "" if not self.decided else "good" if self.good else "bad"


def judge(comparisons: Sequence[Comparison]) -> Verdict | None:
    """Compare method `graft` with every method of a random structure, by its name or its setting.

    None without both.

    The learned structure beats the random one where the 95 % interval of the paired difference, seeds and
    tasks resampled, lies above zero: nothing less counts. A single pair of seeds has no interval; it is
    counted and named, and decides nothing.
    """
    everything = [group for comparison in comparisons for group in comparison.groups]
    if not any(map(learned, everything)) or not any(map(_random, everything)):
        return None
    found: list[tuple[Comparison, Difference]] = []
    for comparison in comparisons:
        candidates = [group for group in comparison.groups if _random(group)]
        for group in filter(learned, comparison.groups):
            other = counterpart(group, _most_paired(group, comparable(group, candidates)))
            if other is not None:
                found.append((comparison, difference(group, other, list(comparison.tasks))))
    if all(each.mean is None for _, each in found):
        return Verdict(
            "The learned structure does not beat the random one: they have no seed in common", (), False
        )
    evidence = [_evidence(*item) for item in found if item[1].interval is None]
    found = [item for item in found if item[1].interval is not None]
    if not found:
        return Verdict(
            "Too few seeds to tell whether the learned structure beats the random one", tuple(evidence), False
        )
    lost = [item for item in found if item[1].verdict != "better"]
    every = f" in {len(found)} of {len(found)} comparisons" if len(found) > 1 else ""
    if not lost:
        headline = f"The learned structure beats the random one{every}"
    else:
        where = f" in {len(lost)} of {len(found)} comparisons" if len(found) > 1 else ""
        headline = f"The learned structure does not beat the random one{where}"
    if evidence:
        headline += f", {len(evidence)} more {'has' if len(evidence) == 1 else 'have'} too few seeds to tell"
    return Verdict(headline, (*(_evidence(*item) for item in lost or found), *evidence), not lost)


def _most_paired(group: Group, candidates: Sequence[Group]) -> list[Group]:
    seeds = {run.seed for run in group.runs}
    common = [len(seeds & {run.seed for run in each.runs}) for each in candidates]
    return [each for each, count in zip(candidates, common, strict=True) if count == max(common)]


def learned(group: Group) -> bool:
    """Whether the structure of a group was searched for."""
    settings = [run.data["settings"].get("graft") for run in (*group.runs, *group.failed)]
    fixed = any(isinstance(each, dict) and each.get("gates") == "fixed" for each in settings)
    return group.method == LEARNED and not fixed


def _random(group: Group) -> bool:
    settings = [run.data["settings"].get("method") for run in (*group.runs, *group.failed)]
    drawn = any(isinstance(each, dict) and str(each.get("structure")).startswith(RANDOM) for each in settings)
    return drawn or RANDOM in group.method.replace("-", "_").split("_")


def _evidence(comparison: Comparison, result: Difference) -> str:
    place = f"{comparison.title}: " if comparison.title else ""
    versus = f"{place}{result.group.title} against {result.reference.title}: "
    if result.mean is None:
        return f"{versus}no seed in common."
    pairs = f"{len(result.seeds)} pair{'s' * (len(result.seeds) != 1)} of seeds"
    count = f"{len(comparison.tasks)} task{'s' * (len(comparison.tasks) != 1)}"
    interval = (
        "no interval from a single pair"
        if result.interval is None
        else f"95 % interval {gap(result.interval.low)} to {gap(result.interval.high)}"
    )
    return f"{versus}{gap(result.mean)} points, {interval}, {pairs}, {count}."
