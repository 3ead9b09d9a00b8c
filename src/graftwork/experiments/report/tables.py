"""The tables of the report, as data: HTML and Markdown are two views of the same cells."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graftwork.experiments.results.collect import Comparison, Group
from graftwork.experiments.results.statistics import Difference, Interval, deviation

__all__ = [
    "FEW",
    "Cell",
    "Column",
    "Doubts",
    "Table",
    "difference_table",
    "gap",
    "markdown",
    "points",
    "score_table",
    "seed_list",
    "span",
]

MINUS, TIMES, DASH = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
NONE = DASH
"""What a missing number looks like."""
FEW = 5
"""Pairs of seeds from which a difference is called one, and is coloured."""
Doubts = Mapping[tuple[str, str], Sequence[str]]
"""(group, task) -> why a figure may not be what it looks like; the empty task is all of them together."""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        note: smaller print below the text, such as a spread.
        tone: "best", "good", "bad", "quiet", "missing" or nothing.
        doubts: why the figure may not be what it looks like.
    """

    text: str
    note: str = ""
    tone: str = ""
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """The head of a column; `unit` is smaller print below the name."""

    name: str
    unit: str = ""
    text: bool = False
    """Whether it holds words rather than numbers."""
    title: str = ""
    """In plain words, where the name is one that only programs know; it then stands before the name."""


@dataclass(frozen=True)
class Table:
    """Columns, rows of as many cells, and remarks below."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    ranked: int | None = None
    """The column whose numbers fall from row to row, if there is one."""


def points(score: float) -> str:
    """A score in points (x 100)."""
    return f"{100 * score:.1f}".replace("-", MINUS)


def gap(value: float) -> str:
    """A difference of scores in points, with its sign."""
    text = f"{100 * value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", MINUS)


def span(interval: Interval | None) -> str:
    """An interval of differences."""
    return NONE if interval is None else f"[{gap(interval.low)}, {gap(interval.high)}]"


def seed_list(seeds: Sequence[int]) -> str:
    """Seeds in words: a range of three or more with a dash, others one by one."""
    ordered = sorted(seeds)
    if len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]}{DASH}{ordered[-1]}"
    return ", ".join(map(str, ordered)) or "none"


def seeds_cell(group: Group) -> Cell:
    """How many of the expected seeds are done, and which."""
    done = [run.seed for run in group.runs]
    note = f"seed{'s' * (len(done) != 1)} {seed_list(done)}" if done else "no result"
    if group.failed:
        note += f"; {len(group.failed)} failed"
    return Cell(f"{len(done)}/{len(group.seeds)}", note, "bad" if group.missing else "")


def score_table(comparison: Comparison, doubts: Doubts | None = None) -> Table:
    """Test scores per group and task: mean over seeds, spread, number of seeds and which.

    Args:
        comparison: methods on the same tasks.
        doubts: of what stands in the cells.
    """
    doubts = doubts or {}
    tasks = list(comparison.tasks)
    columns = [Column("method", text=True)]
    columns += [Column("suite mean", f"{len(tasks)} tasks")] if len(tasks) > 1 else []
    columns.append(Column("seeds", "done / expected", text=True))
    columns += [Column(task, metric) for task, metric in comparison.tasks.items()]
    groups = ranked(comparison)
    best = {task: _best(groups, [task]) for task in tasks}
    best_suite = _best(groups, tasks)
    rows = []
    for group in groups:
        whole = tuple(doubts.get((group.id, ""), ()))
        cells = [Cell(group.title, _method(group))]
        if len(tasks) > 1:
            cells.append(replace(_score(group, tasks, group is best_suite), doubts=whole))
        cells.append(seeds_cell(group))
        for task in tasks:
            own = (*(whole if len(tasks) == 1 else ()), *doubts.get((group.id, task), ()))
            cells.append(replace(_score(group, [task], group is best[task]), doubts=own))
        rows.append(tuple(cells))
    notes = [
        f"Scores {TIMES} 100 on the test split; mean over seeds ± sample standard deviation (n {MINUS} 1)."
    ]
    if len(tasks) > 1:
        notes[0] += " The suite mean weighs every task alike and is given only for runs that have all tasks."
    if any(group.missing for group in groups):
        notes.append(
            "Bold: the best among methods with every expected seed; a mean over fewer says how many."
        )
    if comparison.absent:
        notes.append(f"No run here, though there is one elsewhere: {', '.join(comparison.absent)}.")
    return Table(tuple(columns), tuple(rows), tuple(notes), ranked=1 if len(tasks) > 1 else 2)


def _method(group: Group) -> str:
    """The name of the method in a grid, unless the title says it."""
    name = group.method.replace("_", " ")
    return "" if name.casefold() in group.title.casefold().replace("_", " ") else group.method


def ranked(comparison: Comparison) -> list[Group]:
    """Groups by suite mean, the best first, those without one last."""
    tasks = list(comparison.tasks)

    def rank(group: Group) -> float:
        suites = group.suites(tasks)
        return -float(np.mean(suites)) if suites else 1e9

    return sorted(comparison.groups, key=rank)


def _best(groups: Sequence[Group], tasks: Sequence[str]) -> Group | None:
    complete = [group for group in groups if group.complete(tasks)]
    return max(complete, key=lambda group: float(np.mean(group.suites(tasks))), default=None)


def _score(group: Group, tasks: Sequence[str], best: bool) -> Cell:
    scores = group.suites(tasks)
    if not scores:
        return Cell(NONE, "missing", "missing")
    spread = deviation(scores)
    note = "" if spread is None else f"± {points(spread)}"
    if len(scores) < len(group.seeds):
        count = f"{len(scores)}/{len(group.seeds)} seeds"
        return Cell(points(float(np.mean(scores))), f"{note}, {count}" if note else count, "quiet")
    return Cell(points(float(np.mean(scores))), note, "best" if best else "")


def difference_table(
    comparison: Comparison, differences: Sequence[Difference], doubts: Doubts | None = None
) -> Table:
    """Paired differences with their intervals and the number of pairs.

    Args:
        comparison: methods on the same tasks.
        differences: in the order of the rows.
        doubts: of the groups and of what they are compared with.
    """
    doubts = doubts or {}
    tasks = list(comparison.tasks)
    several = len(tasks) > 1
    columns = [
        Column("method", text=True),
        Column("difference", "points"),
        Column("95 % interval", f"seeds {TIMES} tasks" if several else "seeds"),
    ]
    columns += [Column("95 % interval", "seeds only")] if several else []
    words = (("verdict", ""), ("pairs", "seeds"), ("minus", ""))
    columns += [Column(name, unit, text=True) for name, unit in words]
    columns += [Column(task, "seeds only") for task in tasks] if several else []
    rows = []
    for each in differences:
        tone = {"better": "good", "worse": "bad"}.get(each.verdict, "quiet")
        tone = tone if len(each.seeds) >= FEW else "quiet"
        count = Cell(str(len(each.seeds)), seed_list(each.seeds) if each.seeds else "no common seed")
        mean = Cell(NONE, tone="missing") if each.mean is None else Cell(gap(each.mean), tone=tone)
        own = doubts.get((each.group.id, ""), ())
        others = [f"{each.reference.title}: {doubt}" for doubt in doubts.get((each.reference.id, ""), ())]
        mean = replace(mean, doubts=(*own, *others))
        cells = [Cell(each.group.title), mean, Cell(span(each.interval))]
        cells += [Cell(span(each.interval_seeds))] if several else []
        cells += [Cell(each.verdict, tone=tone), count, Cell(each.reference.title)]
        cells += [_task_difference(each, task) for task in tasks] if several else []
        rows.append(tuple(cells))
    return Table(tuple(columns), tuple(rows), ranked=1)


def _task_difference(each: Difference, task: str) -> Cell:
    if task not in each.tasks:
        return Cell(NONE, "missing", "missing")
    mean, interval, count = each.tasks[task]
    note = span(interval) if interval else "no interval"
    if count != len(each.seeds):
        note += f", {count} pair{'s' * (count != 1)}"
    tone = "" if interval is None else "good" if interval.low > 0 else "bad" if interval.high < 0 else ""
    tone = tone if count >= FEW else ""
    return Cell(gap(mean), note, tone)


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, its remarks below."""
    names = [f"{c.title}: {c.name}" if c.title else c.name for c in table.columns]
    heads = [f"{name} ({c.unit})" if c.unit else name for name, c in zip(names, table.columns, strict=True)]
    lines = ["| " + " | ".join(map(escape, heads)) + " |"]
    lines.append("| " + " | ".join(":--" if c.text else "--:" for c in table.columns) + " |")
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in table.rows]
    return "\n".join(lines + [f"\n{escape(note)}" for note in table.notes])


def _cell(cell: Cell) -> str:
    notes = "; ".join(filter(None, (cell.note, *cell.doubts)))
    text = escape(f"{cell.text} ({notes})" if notes else cell.text)
    return f"**{text}**" if cell.tone == "best" else text


def escape(text: str) -> str:
    """Text as Markdown shows it: neither HTML nor a table's bar nor markup, on one line."""
    plain = html.escape(" ".join(str(text).split()), quote=False)
    for sign in ("\\", "|", "`", "*", "_", "[", "]", "#"):
        plain = plain.replace(sign, f"\\{sign}")
    return plain


def facts(pairs: Mapping[str, str]) -> Table:
    """A table of names and values."""
    columns = (Column("what", text=True), Column("value", text=True))
    return Table(columns, tuple((Cell(name), Cell(value)) for name, value in pairs.items()))
