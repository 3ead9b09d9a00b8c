"""What a prediction says: label and probabilities, or a score, and fields of its row that are passed on."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.errors import DataError
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.registry import KINDS
from graftwork.kinds.scoring.tags import Tagged
from graftwork.messages import listed, mended, shown

__all__ = ["FIELDS", "Answers", "to_json"]

FIELDS = tuple(
    dict.fromkeys(("task", *(field for kind in KINDS.values() if not kind.written for field in kind.answers)))
)
"""The fields of answers; that of written tasks may be kept where no task of the model is written."""
ALL_FIELDS = ("answers", "skipped")
"""The fields of a row of answers of all tasks."""
_AS_TEXT = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID)
"""Values of Parquet files that JSON can only have as a text."""


@dataclass(frozen=True)
class Answers:
    """How predictions are given.

    Raises:
        DataError: a setting is wrong.
    """

    keep: Sequence[str] = ()
    """Fields of each row that its answer begins with."""
    top: int | None = None
    """Number of probabilities, the largest first; null: those of all classes, in the order of the head."""
    digits: int | None = None
    """Decimals of probabilities, and of scores divided by their deviation in training; else all there are."""
    all_tasks: bool = False
    """Answers of all tasks to a row stand in its field `answers`, and those without one in `skipped`."""

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.top is not None and (
            not isinstance(self.top, int) or isinstance(self.top, bool) or self.top < 1
        ):
            raise DataError(f"top is {shown(self.top)}; give how many labels, at least 1.")
        if isinstance(self.keep, str) or not all(isinstance(field, str) and field for field in self.keep):
            raise DataError(f"keep is {shown(self.keep)}, not names of fields.")
        taken = ALL_FIELDS if self.all_tasks else FIELDS
        hidden = [field for field in self.keep if field in taken]
        if hidden:
            raise DataError(
                f"keep has {hidden[0]!r}, but answers have a field of that name; rename the input's "
                f"(not {', '.join(taken)})."
            )

    def kept(self, row: Mapping[str, Any], number: int) -> dict[str, Any]:
        """The fields of a row that are passed on.

        Raises:
            DataError: it lacks one.
        """
        missing = [field for field in self.keep if field not in row]
        if missing:
            raise DataError(
                f"row {number} has no field {missing[0]!r}, which is to be kept; its fields: "
                f"{listed(row) or 'none'}."
            )
        return {field: row[field] for field in self.keep}

    def written(self, head: TaskHead, text: str) -> dict[str, Any]:
        """The answer that a language model has written.

        Raises:
            DataError: a field of its name is to be kept.
        """
        if "text" in self.keep:
            raise DataError(
                f"keep has 'text', but the answers of task {head.name!r} have a field of that name; rename "
                "the input's."
            )
        return {"task": head.name, "text": text}

    def describe(self, head: TaskHead, outputs: Sequence[float] | Tagged) -> dict[str, Any]:
        """The answer of a head with the given outputs: the logits of its classes, or its one number.

        Of tokens: the text, its words and their logits.

        Raises:
            DataError: they are not finite.
        """
        rows = outputs.logits if isinstance(outputs, Tagged) else [outputs]
        if not all(math.isfinite(value) for row in rows for value in row):
            raise DataError(
                f"the model gives no finite outputs for task {head.name!r}; its weights are damaged."
            )
        answer: Any = KINDS[head.kind].answer
        return {"task": head.name, **answer(head, outputs, self.top, self.digits)}


def to_json(answer: Mapping[str, Any], *, ascii_only: bool = False) -> str:
    """An answer as a line of JSON.

    Raises:
        DataError: a field that is kept has a value that JSON cannot hold.
    """
    try:
        line = json.dumps(answer, ensure_ascii=ascii_only, default=_text)
    except (TypeError, ValueError) as error:
        raise DataError(f"a field that is kept cannot be written as JSON ({error}).") from None
    # Half of a surrogate pair may come in from JSON, but no file can hold it.
    return (line if line.isascii() else mended(line)) + "\n"


def _text(value: object) -> str:
    if isinstance(value, _AS_TEXT):
        return str(value)
    raise TypeError(f"a value of type {type(value).__name__}")
