"""`TaskHead`: what a saved model knows of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, get_args

from graftwork.errors import CheckpointError
from graftwork.files.later import LATER, settled
from graftwork.files.reading import is_finite
from graftwork.kinds.kind import Metric, Reads
from graftwork.kinds.pairs.setting import Pairs
from graftwork.kinds.registry import KINDS, KindName
from graftwork.messages import listed, shown
from graftwork.texts.template import fields_read, text_faults
from graftwork.texts.writing import Writing

__all__ = ["TaskHead", "plain_fields"]


@dataclass(frozen=True)
class TaskHead:
    """What a saved model knows of a task: its fields, its classes or its scale, its metric."""

    name: str
    text: tuple[str, ...]
    """Fields or templates (`graftwork.texts.template`), one or two."""
    label: str
    kind: KindName
    metric: Metric
    labels: tuple[str, ...] = ()
    mean: float = 0.0
    """Mean of the training scores: a regression head learns `(score - mean) / std`."""
    std: float = 1.0
    """Deviation of the training scores."""
    class_weights: tuple[float, ...] = field(default=(), metadata=LATER)
    """What a row counts in the training loss, by its class, in the order of `labels`; empty: 1 each."""
    thresholds: tuple[float, ...] = field(default=(), metadata=LATER)
    """Probability from which a row has a label, in the order of `labels`, chosen on validation rows; empty: a
    half each."""
    reads: Reads = field(default="text", metadata=LATER)
    """What the fields of `text` hold."""
    writing: Writing | None = field(default=None, metadata=LATER)
    """How rows become prompts and answers, if the language model itself answers."""
    pairs: Pairs = field(default="joint", metadata=LATER)
    """How two texts are read: as one sequence, or each alone, the head seeing their vectors."""

    @property
    def separate(self) -> bool:
        """Whether a row is two sequences, one for each of its texts."""
        return self.pairs == "separate"

    stride: int | None = field(default=None, metadata=LATER)
    """Tokens that neighbouring windows of a long text share; None: it is cut."""
    windows: Literal["mean", "max"] = field(default="mean", metadata=LATER)
    """How the logits of windows are pooled."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a row that texts or templates name, or that of the image."""
        return fields_read(self.text) if self.reads == "text" else self.text

    @property
    def written(self) -> bool:
        """Whether the language model itself answers, without weights of the head's own."""
        return KINDS[self.kind].written

    @property
    def compared(self) -> bool:
        """Whether its two texts are compared with those of other rows, without weights of the head's own."""
        return KINDS[self.kind].per == "pair"

    @property
    def bare(self) -> bool:
        """Whether it has no weights of its own."""
        return self.written or self.compared

    @property
    def size(self) -> int:
        """Number of outputs."""
        return KINDS[self.kind].outputs(self.labels)

    def as_dict(self) -> dict[str, Any]:
        """Return the head as JSON types."""
        values = plain_fields(self)
        return values if self.writing is None else {**values, "writing": self.writing.as_dict()}

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
        if not faults and values["metric"] not in KINDS[values["kind"]].metrics:
            faults = ["metric"]
        if not faults and len(values.get("class_weights", ())) not in (0, len(values["labels"])):
            faults = ["class_weights"]
        if not faults and len(values.get("thresholds", ())) not in (0, len(values["labels"])):
            faults = ["thresholds"]
        if not faults and values.get("pairs") == "separate" and not _can_separate(values):
            faults = ["pairs", "text"]
        if not faults and KINDS[values["kind"]].per == "pair" and values.get("pairs") != "separate":
            values = {"pairs": None, **values}
            faults = ["pairs", "kind"]
        if faults:
            given = ", ".join(f"{key}={shown(values[key])}" for key in faults)
            raise CheckpointError(f"the saved head of task {name} has {given}")
        if KINDS[values["kind"]].written != (values.get("writing") is not None):
            raise CheckpointError(
                f"the saved head of task {name} has kind={values['kind']} and "
                f"writing={shown(values.get('writing'))}"
            )
        if values.get("writing") is not None:
            values = {**values, "writing": Writing.from_dict(values["writing"])}
        lists = {
            key: tuple(values[key])
            for key in ("text", "labels", "class_weights", "thresholds")
            if key in values
        }
        return cls(**{**values, **lists})


def _can_separate(values: Mapping[str, Any]) -> bool:
    """Whether the texts of a task can be read separately."""
    kind = KINDS[values["kind"]]
    texts = len(values["text"]) == 2 and values.get("reads", "text") == "text"
    return texts and kind.per != "token" and not kind.written


def _distinct(value: object) -> bool:
    """Whether a value is a list of different strings."""
    strings = isinstance(value, list | tuple) and all(isinstance(part, str) and part for part in value)
    return strings and len(set(value)) == len(value)  # type: ignore[call-overload, arg-type]


_RIGHT: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: isinstance(value, str) and value != "",
    "text": lambda value: _distinct(value) and 1 <= len(value) <= 2 and not text_faults(value, None),
    "label": lambda value: isinstance(value, str),
    "kind": lambda value: isinstance(value, str) and value in KINDS,
    "labels": _distinct,
    "mean": is_finite,
    "std": lambda value: is_finite(value) and value > 0,
    "class_weights": lambda value: (
        isinstance(value, list | tuple) and all(is_finite(weight) and weight > 0 for weight in value)
    ),
    "thresholds": lambda value: (
        isinstance(value, list | tuple) and all(is_finite(part) and 0 < part < 1 for part in value)
    ),
    "reads": lambda value: value in get_args(Reads),
    "pairs": lambda value: value in get_args(Pairs),
    "stride": lambda value: type(value) is int and value >= 0,
    "windows": lambda value: value in ("mean", "max"),
}
"""What the fields of a saved head may be."""


def plain_fields(item: Any) -> dict[str, Any]:
    """The fields of a task or a head as JSON types."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settled(item).items()}
