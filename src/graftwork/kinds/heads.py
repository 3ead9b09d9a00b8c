"""`TaskHead`: what a saved model knows of a task, and the names of its classes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from graftwork.errors import CheckpointError
from graftwork.files.later import LATER, settled
from graftwork.files.reading import is_finite
from graftwork.messages import listed, mended, shown

__all__ = ["METRICS", "Kind", "Metric", "TaskHead", "label_name", "plain_fields", "sort_labels"]

Kind = Literal["classification", "regression"]
Metric = Literal["accuracy", "macro_f1", "matthews", "pearson", "spearman"]

METRICS: dict[str, tuple[Metric, ...]] = {
    "classification": ("accuracy", "macro_f1", "matthews"),
    "regression": ("spearman", "pearson"),
}
"""The metrics of each kind of task, the default first."""


def label_name(value: object) -> str:
    """Name a class label: strings are stripped, booleans are `true`/`false`, `1` and `1.0` are `"1"`.

    Raises:
        ValueError: The value is empty, not a number, a fraction, or not a scalar.
    """
    if isinstance(value, str):
        name = value.strip()
        if not name:
            raise ValueError("an empty label")
        return mended(name)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isfinite(value) and value.is_integer():
            return str(int(value))
        raise ValueError(
            f"the label {shown(value)}: classes are strings, integers or booleans; for scores set kind: "
            "regression"
        )
    if value is None:
        raise ValueError("no label (null)")
    raise ValueError(f"a label of type {type(value).__name__}: classes are strings, integers or booleans")


def sort_labels(names: Sequence[str] | set[str]) -> tuple[str, ...]:
    """Sort distinct label names: by value if all are integers, else alphabetically.

    The order is that of the names alone, never that of a set: of integers that are equal, such as `07` and
    `7`, the one that comes first as text is first.
    """
    if all(re.fullmatch(r"-?[0-9]{1,4000}", name) for name in names):  # Python converts up to 4,300 digits
        return tuple(sorted(set(names), key=lambda name: (int(name), name)))
    return tuple(sorted(set(names)))


@dataclass(frozen=True)
class TaskHead:
    """What a saved model knows of a task: its fields, its classes or its scale, its metric."""

    name: str
    text: tuple[str, ...]
    label: str
    kind: Kind
    metric: Metric
    labels: tuple[str, ...] = ()
    mean: float = 0.0
    """Mean of the training scores: a regression head learns `(score - mean) / std`."""
    std: float = 1.0
    """Deviation of the training scores."""
    class_weights: tuple[float, ...] = field(default=(), metadata=LATER)
    """What a row counts in the training loss, by its class, in the order of `labels`; empty: 1 each."""

    @property
    def size(self) -> int:
        """Number of outputs: one per class, or one."""
        return len(self.labels) or 1

    def as_dict(self) -> dict[str, Any]:
        """Return the head as JSON types."""
        return plain_fields(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a head from `as_dict` output, of which JSON has made lists.

        Raises:
            CheckpointError: A key is unknown or missing.
        """
        known = {item.name for item in fields(cls)}
        needed = {item.name for item in fields(cls) if not item.metadata.get("later")}
        if not isinstance(values, Mapping):
            raise CheckpointError(f"a saved head is {shown(values)}, not a mapping")
        name = shown(values.get("name", "?"))
        if not needed <= set(values) <= known:
            odd = listed(sorted(map(str, (set(values) - known) | (needed - set(values)))))
            raise CheckpointError(f"the saved head of task {name} does not fit ({odd})")
        faults = [key for key, right in _RIGHT.items() if key in values and not right(values[key])]
        if not faults and values["metric"] not in METRICS[values["kind"]]:
            faults = ["metric"]
        if not faults and len(values.get("class_weights", ())) not in (0, len(values["labels"])):
            faults = ["class_weights"]
        if faults:
            given = ", ".join(f"{key}={shown(values[key])}" for key in faults)
            raise CheckpointError(f"the saved head of task {name} has {given}")
        lists = {key: tuple(values[key]) for key in ("text", "labels", "class_weights") if key in values}
        return cls(**{**values, **lists})


def _distinct(value: object) -> bool:
    """Whether a value is a list of different strings."""
    strings = isinstance(value, list | tuple) and all(isinstance(part, str) and part for part in value)
    return strings and len(set(value)) == len(value)  # type: ignore[call-overload, arg-type]


_RIGHT: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: isinstance(value, str) and value != "",
    "text": lambda value: _distinct(value) and 1 <= len(value) <= 2,
    "label": lambda value: isinstance(value, str),
    "kind": lambda value: isinstance(value, str) and value in METRICS,
    "labels": _distinct,
    "mean": is_finite,
    "std": lambda value: is_finite(value) and value > 0,
    "class_weights": lambda value: (
        isinstance(value, list | tuple) and all(is_finite(weight) and weight > 0 for weight in value)
    ),
}
"""What the fields of a saved head may be."""


def plain_fields(item: Any) -> dict[str, Any]:
    """The fields of a task or a head as JSON types."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settled(item).items()}
