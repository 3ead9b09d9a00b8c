"""How alike the structures of several runs are, beside what random structures of the same sizes would be."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from graftwork.errors import StructureError
from graftwork.structure.structure import Structure

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["jaccard", "print_stability", "stability"]

DRAWS = 200
"""Random structures drawn per run to estimate the index that chance gives."""
MARGIN = 0.05
"""Distance of the mean Jaccard index above chance from which structures count as alike."""


def jaccard(first: Counter[str], second: Counter[str]) -> float:
    r"""`sum_s min(m_s, n_s) / sum_s max(m_s, n_s)` over the sites; 1 if nothing is open in both.

    Adapters of one site start from random weights and are interchangeable, so it is their number at a site
    that two runs can have in common, not their place in the pool.
    """
    union = (first | second).total()
    return (first & second).total() / union if union else 1.0


def stability(structures: Mapping[str, Structure]) -> dict[str, Any]:
    """Jaccard index of every pair of runs, for what is stored and for the path of every common task.

    Args:
        structures: name of a run -> its structure, with the adapters that were closed.

    Returns:
        `stored` and `tasks` (per task) with `mean` and `least` over the pairs and `chance`, the mean of
        random structures with as many open adapters drawn from the same pools (None if a structure has no
        closed adapter left, as after compaction); `pairs`; `findings` as plain sentences.

    Raises:
        StructureError: fewer than two runs, or runs without a common site.
    """
    if len(structures) < 2:
        raise StructureError(f"{len(structures)} run(s) cannot be compared; give at least two.")
    runs = list(structures.values())
    if not set.intersection(*(set(run.sites) for run in runs)):
        raise StructureError("the runs have no site in common; compare runs on the same backbone and sites.")
    shared = [task for task in runs[0].tasks if all(task in run.tasks for run in runs)]
    result: dict[str, Any] = {
        "runs": list(structures),
        "stored": _alike(runs, None),
        "tasks": {task: _alike(runs, task) for task in shared},
        "pairs": [
            {
                "runs": [first, second],
                "stored": jaccard(_counts(structures[first]), _counts(structures[second])),
                "tasks": {
                    task: jaccard(_counts(structures[first], task), _counts(structures[second], task))
                    for task in shared
                },
            }
            for first, second in combinations(structures, 2)
        ],
    }
    return {**result, "findings": list(_findings(result))}


def _counts(structure: Structure, task: str | None = None) -> Counter[str]:
    """Open adapters per site: all that are stored, or those of one task."""
    row = None if task is None else structure.tasks.index(task)
    return Counter(
        {name: sum(site.used if row is None else site.open[row]) for name, site in structure.sites.items()}
    )


def _alike(runs: Sequence[Structure], task: str | None) -> dict[str, float | None]:
    counts = [_counts(run, task) for run in runs]
    values = [jaccard(first, second) for first, second in combinations(counts, 2)]
    return {"mean": sum(values) / len(values), "least": min(values), "chance": _chance(runs, counts)}


def _chance(runs: Sequence[Structure], counts: Sequence[Counter[str]]) -> float | None:
    """Mean index of random structures with as many open adapters as the runs have."""
    pools = [[name for name, site in run.sites.items() for _ in range(site.pool_size)] for run in runs]
    stored = [sum(map(sum, (site.used for site in run.sites.values()))) for run in runs]
    if any(len(pool) <= kept for pool, kept in zip(pools, stored, strict=True)):
        return None
    draw = random.Random(0)
    drawn = [
        [Counter(draw.sample(pool, count.total())) for _ in range(DRAWS)]
        for pool, count in zip(pools, counts, strict=True)
    ]
    values = [jaccard(first[i], second[i]) for first, second in combinations(drawn, 2) for i in range(DRAWS)]
    return sum(values) / len(values)


def _findings(result: Mapping[str, Any]) -> Iterator[str]:
    entries = {"what is stored": result["stored"]}
    entries |= {f"the path of task {task!r}": entry for task, entry in result["tasks"].items()}
    for what, entry in entries.items():
        if entry["chance"] is not None and entry["mean"] < entry["chance"] + MARGIN:
            yield (
                f"Between the runs, {what} is no more alike than random structures of these sizes "
                f"({entry['mean']:.2f} against {entry['chance']:.2f}): the search finds no preference that "
                "survives the seed."
            )


def print_stability(result: Mapping[str, Any], console: Console) -> None:
    """Findings first, then a row for what is stored and for every task."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"structures of {len(result['runs'])} runs: Jaccard index of open adapters per site")
    for column in ("", "mean", "least", "by chance"):
        table.add_column(column, justify="right" if column else "left")
    for what, entry in {"stored": result["stored"], **result["tasks"]}.items():
        chance = "unknown" if entry["chance"] is None else f"{entry['chance']:.2f}"
        table.add_row(escape(what), f"{entry['mean']:.2f}", f"{entry['least']:.2f}", chance)
    for sentence in result["findings"]:
        console.print(f"  - {sentence}", highlight=False, markup=False)
    console.print(table)
