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
from graftwork.messages import listed, mended, shown

__all__ = ["FIELDS", "Answers", "to_json"]

FIELDS = ("task", "label", "probabilities", "score")
"""The fields of answers."""
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

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.top is not None and (
            not isinstance(self.top, int) or isinstance(self.top, bool) or self.top < 1
        ):
            raise DataError(f"top is {shown(self.top)}; give how many labels, at least 1.")
        if isinstance(self.keep, str) or not all(isinstance(field, str) and field for field in self.keep):
            raise DataError(f"keep is {shown(self.keep)}, not names of fields.")
        hidden = [field for field in self.keep if field in FIELDS]
        if hidden:
            raise DataError(
                f"keep has {hidden[0]!r}, but answers have a field of that name; rename the input's "
                f"(not {', '.join(FIELDS)})."
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

    def describe(self, head: TaskHead, outputs: Sequence[float]) -> dict[str, Any]:
        """The answer of a head with the given outputs: the logits of its classes, or its one number.

        Raises:
            DataError: they are not finite.
        """
        if not all(map(math.isfinite, outputs)):
            raise DataError(
                f"the model gives no finite outputs for task {head.name!r}; its weights are damaged."
            )
        if head.kind == "regression":
            return {"task": head.name, "score": self._score(outputs[0] * head.std + head.mean, head.std)}
        order: Sequence[int] = range(head.size)
        probabilities = _softmax(outputs)
        best = max(order, key=outputs.__getitem__)
        if self.top is not None:
            order = sorted(order, key=lambda index: -outputs[index])[: self.top]
        if self.digits is not None:
            probabilities = [round(value, self.digits) for value in probabilities]
        return {
            "task": head.name,
            "label": head.labels[best],
            "probabilities": {head.labels[index]: probabilities[index] for index in order},
        }

    def _score(self, score: float, std: float) -> float:
        return score if self.digits is None else round(score, self.digits - math.floor(math.log10(std)))


def _softmax(logits: Sequence[float]) -> list[float]:
    largest = max(logits)
    powers = [math.exp(value - largest) for value in logits]
    total = sum(powers)
    return [power / total for power in powers]


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
