"""Pieces of Markdown. Whatever stands in a name or a label, it stays what it is there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["code", "codes", "table"]

LONGEST = 60
"""Longest name or label that is shown whole, in characters."""


def code(text: str) -> str:
    """A text as code, on one line: nothing in it is read as Markdown or HTML."""
    line = " ".join(text.split())
    line = line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if "`" in line or not line else ""
    # In tables a bar ends the cell, even inside of code.
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|")


def codes(texts: Sequence[str], most: int = 12) -> str:
    """Several of them, the first ones of a long list."""
    shown = ", ".join(map(code, texts[:most]))
    left = len(texts) - most
    return f"{shown} and {left:,} more" if left > 0 else shown


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0) -> str:
    """A table.

    Args:
        header: names of the columns.
        rows: their cells.
        numbers: how many columns, the last ones, hold numbers.
    """
    words = len(header) - numbers
    lines = [header, ["---"] * words + ["---:"] * numbers, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
