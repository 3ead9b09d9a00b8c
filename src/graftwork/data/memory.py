"""`GivenRows`: rows that were given in Python, where a recipe otherwise names a file."""

from __future__ import annotations

from typing import Any

from graftwork.files.places import MEMORY

__all__ = ["GivenRows"]


class GivenRows(str):
    """The name of rows in memory, `memory:TASK/SPLIT`, with the rows.

    It stands in a recipe like any other source. What is written to a file is the name alone.

    Attributes:
        rows: plain values by field, as a JSON file would give them.
        what: what they were given as, for messages.
    """

    rows: list[dict[str, Any]]
    what: str

    def __new__(cls, task: str, split: str, rows: list[dict[str, Any]], what: str) -> GivenRows:
        """A string with two attributes."""
        name = super().__new__(cls, f"{MEMORY}{task}/{split}")
        name.rows, name.what = rows, what
        return name

    def __deepcopy__(self, memo: object) -> GivenRows:
        """Itself: nobody changes the rows, and there may be many."""
        return self
