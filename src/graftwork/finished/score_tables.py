"""How the scores of a saved model are printed: a row per task, and the figures of every class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

__all__ = ["confusions", "print_scores"]

MOST = 30
"""Largest number of classes with which a confusion matrix is printed whole."""
LARGEST = 20
"""Number of confusions that are listed if the matrix is too large to print."""
WIDEST = 40
"""Longest name of a class in a table, in characters."""


def print_scores(scores: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Print what `graftwork.finished.evaluate.rescore` returns, except its notes."""
    title = f"{scores['split']} scores of {folder}"
    if scores["data"] is not None:
        title = f"scores of {folder} on {scores['data']}"
    rows = [
        (name, task["metric"], f"{task['score']:.3f}", f"{task['rows']:,}")
        for name, task in scores["tasks"].items()
    ]
    console.print(_table(title, ("task", "metric", "score", "rows"), rows, texts=2))
    for name, task in scores["tasks"].items():
        if "details" in task:
            for table in _details(name, task["details"], console):
                console.print(table)


def _details(name: str, details: Mapping[str, Any], console: Console) -> Iterator[Table]:
    if "classes" not in details:
        values = [(figure, f"{value:.4g}") for figure, value in details.items()]
        yield _table(f"{name}: figures", ("figure", "value"), values)
        return
    figures = ("precision", "recall", "f1")
    classes = details["classes"]
    rows: list[tuple[str, ...]] = [
        (label, *(f"{found[figure]:.3f}" for figure in figures), f"{found['support']:,}")
        for label, found in classes.items()
    ]
    total = f"{sum(found['support'] for found in classes.values()):,}"
    rows += [
        (f"({mean} mean)", *(f"{details[mean][figure]:.3f}" for figure in figures), total)
        for mean in ("macro", "weighted", "micro")
        if mean in details
    ]
    plain = [
        (figure, f"{details[figure]:.3f}") for figure in ("exact", "token_accuracy") if figure in details
    ]
    yield _table(f"{name}: every class", ("class", *figures, "support"), rows)
    if plain:
        yield _table(f"{name}: figures", ("figure", "value"), plain)
    if "confusion" not in details:
        return
    labels, matrix = details["confusion"]["labels"], details["confusion"]["matrix"]
    whole = _matrix(name, labels, matrix)
    # A column that does not fit would be cut, and a number that is cut is another number.
    if len(labels) <= MOST and _width(whole, console) <= console.width:
        yield whole
        return
    found = confusions(labels, matrix)
    shown = [(true, taken, f"{count:,}", f"{share:.0%}") for true, taken, count, share in found[:LARGEST]]
    title = (
        f"{name}: the largest {len(shown)} of {len(found):,} confusions" if found else f"{name}: no confusion"
    )
    yield _table(title, ("class", "taken for", "rows", "of the class"), shown, texts=2)


def confusions(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> list[tuple[str, str, int, float]]:
    """The confusions of a matrix: expected class, predicted class, rows, and their share of the class.

    The largest come first, and of equal ones those of the smaller class.
    """
    found = [
        (true, taken, count, count / sum(row))
        for true, row in zip(labels, matrix, strict=True)
        for taken, count in zip(labels, row, strict=True)
        if count and taken != true
    ]
    return sorted(found, key=lambda entry: (-entry[2], -entry[3]))


def _matrix(name: str, labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> Table:
    """The matrix: rows are the expected classes, columns the predicted ones, both numbered."""
    numbers = [str(number) for number in range(1, len(labels) + 1)]
    rows = [
        (f"{number} {_short(label)}", *(f"{count:,}" if count else "." for count in row))
        for number, label, row in zip(numbers, labels, matrix, strict=True)
    ]
    return _table(f"{name}: confusion matrix", ("class, taken for:", *numbers), rows)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> Table:
    """A table whose first columns are texts and the others numbers, which are never cut."""
    table = Table(title=escape(title))
    for index, column in enumerate(columns):
        if index < texts:
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(_short(cell) if i < texts else cell) for i, cell in enumerate(row)))
    return table


def _width(table: Table, console: Console) -> int:
    """Characters that a table needs if it is not cut."""
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def _short(text: str) -> str:
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"
