"""What a comparison has found so far, as a table in the terminal, and the command for the whole report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graftwork.advice import command
from graftwork.experiments.results.collect import Comparison, Group, Result, agreed, compare
from graftwork.experiments.results.joined import join_tasks
from graftwork.experiments.results.statistics import interval_of_mean
from graftwork.experiments.results.store import Store
from graftwork.progress import told

__all__ = ["print_summary"]


def print_summary(store: Store, keys: Iterable[str], console: Console) -> None:
    """Print a row for every method that has a result, the best first, and what to type for the report.

    Without a final run the tuning runs are shown, which have no test score.

    Args:
        store: the results.
        keys: the runs of the grid.
        console: where to print.
    """
    found = [data for key in dict.fromkeys(keys) if (data := store.read(key)) is not None]
    runs = [
        Result(data, key=data["key"], method=data["method"], label=data["label"], seed=data["seed"])
        for data in found
        if data["status"] == "done"
    ]
    if not runs:
        return
    final = [run for run in runs if run.data["purpose"] != "tune"]
    for comparison in compare(join_tasks(agreed(final)) if final else runs):
        _print(comparison, console, tuning=not final)
    folder = str(store.folder)
    told(f"the whole report: {command('report', folder, '-o', f'{folder}-report')}", console)


def _print(comparison: Comparison, console: Console, *, tuning: bool) -> None:
    tasks = list(comparison.tasks)
    what = "mean score of " + (f"{len(tasks)} tasks" if len(tasks) > 1 else tasks[0])
    name = f"{what}; {comparison.title}" if comparison.title else what
    table = Table(title=escape(name + ("; tuning runs, validation only" if tuning else "")))
    for column in ("method", "parameters stored", "seeds", "validation", "test", "95 % interval of test"):
        table.add_column(column, justify="left" if column == "method" else "right")
    groups = sorted(comparison.groups, key=lambda group: _rank(group, tasks, tuning=tuning))
    for group in groups:
        table.add_row(*map(escape, _row(group, tasks, tuning=tuning)))
    console.print(table)
    if any(1 < len(group.suites(tasks)) < 5 for group in groups):
        console.print(
            "intervals of fewer than five seeds are too narrow; do not rank by them.", highlight=False
        )
    if any(len(group.suites(tasks)) == 1 for group in groups) and not tuning:
        console.print("one seed says nothing of the spread: a difference may be chance.", highlight=False)


def _rank(group: Group, tasks: Sequence[str], *, tuning: bool) -> float:
    """Small for what is good: by test, then what has no test score, by validation."""
    test = [] if tuning else group.suites(tasks)
    known = test or group.suites(tasks, "validation")
    return (0 if test else 1e3) - (float(np.mean(known)) if known else -1e3)


def _row(group: Group, tasks: Sequence[str], *, tuning: bool) -> list[str]:
    test, stored = [] if tuning else group.suites(tasks), group.mean("parameters.stored")
    validation = group.suites(tasks, "validation")
    interval = interval_of_mean(np.array(test)[:, None]) if len(test) > 1 else None
    none = "validation only" if validation else "not with all tasks"
    return [
        group.title,
        "unknown" if stored is None else f"{stored:,.0f}",
        f"{len(test or validation)} of {len(group.seeds)}",
        f"{np.mean(validation):.3f}" if validation else "none",
        f"{np.mean(test):.3f}" if test else none,
        "none: one seed"
        if len(test) == 1
        else ""
        if interval is None
        else f"{interval.low:.3f} to {interval.high:.3f}",
    ]
