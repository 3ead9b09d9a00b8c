"""`tokens`: spans of a text have a type, as in named entities, or every word has a tag."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from graftwork.errors import DataError
from graftwork.kinds.kind import Column, Head, Kind, Metric, TaskSettings
from graftwork.kinds.labels import label_name, sort_labels
from graftwork.kinds.scoring.tags import (
    OUTSIDE,
    Tagged,
    check_nervaluate,
    described,
    entity_figures,
    inside_types,
    is_iob,
    tags_of_types,
    word_spans,
)
from graftwork.messages import listed, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Tokens"]

STRENGTHS = (0.01, 0.1, 1.0)
"""Inverse regularisation C of logistic regression on token vectors; the best on validation is used."""
ENDS = ("E-", "S-", "L-", "U-")
"""How tags begin in schemes other than IOB2."""
FEW = 5
"""Train spans below which a type can hardly be learned."""


class Tokens(Kind):
    """Targets are the spans of a row, `(start, end, index of the tag)`; a head has one output per tag.

    Models learn the tags of words, as the tokenizer splits a text, at the first piece of each.
    """

    name = "tokens"
    metrics: tuple[Metric, ...] = ("entity_f1", "token_accuracy")
    several = "rows with spans"
    answers = ("spans", "read_to")
    dtype = "object"
    per = "token"

    def faults(self, task: TaskSettings) -> list[str]:
        """Weights; a pair of texts; labels that are not different names."""
        faults, labels = [], task.labels
        if task.class_weights is not None:
            faults.append("a task of kind tokens has no class_weights; remove them")
        if len(task.text_fields) > 1:
            faults.append("a task of kind tokens reads one text, not a pair")
        if labels is not None and not isinstance(labels, tuple):
            faults.append(f"labels is {shown(labels)}, not a list of names")
        elif labels is not None and (len(set(labels)) < len(labels) or not labels):
            faults.append(f"labels has {listed(labels) or 'none'}; give one or more, each once")
        return faults

    def read(self, values: Sequence[Any], column: Column) -> list[Any]:
        """Of every row, `("tags" or "spans", [(start, end, name), ...])` in its text."""
        return [_read(value, column, i) for i, value in enumerate(values)]

    def check(self, task: TaskSettings, values: Sequence[Any]) -> None:
        """Whether spans can be scored."""
        check_nervaluate()

    def classes(self, task: TaskSettings, values: Sequence[Any]) -> tuple[str, ...]:
        """The tags: of the types or tags of the task, or of those in the train rows."""
        found = {name for _, parts in values for _, _, name in parts}
        iob = not _plain(values)
        if task.labels is not None and (not iob or (task.labels[0] == OUTSIDE and is_iob(task.labels))):
            return task.labels
        if not iob:
            other = sorted(name for name in found if name[:2] in ENDS)
            if other and any(name.startswith("B-") for name in found):
                raise DataError(
                    f"train of task {task.name!r}: {task.label!r} has the tag {other[0]!r} beside B- and I-; "
                    "give IOB2 (only O, B-TYPE and I-TYPE), or spans"
                )
            return sort_labels(found)
        types = task.labels or sort_labels(set(_types(values)))
        if not types:
            raise DataError(
                f"train of task {task.name!r}: no row has a span in {task.label!r}; there is nothing to learn"
            )
        return tags_of_types(types)

    def targets(
        self, values: Sequence[Any], labels: Sequence[str], column: Column, origin: str
    ) -> NDArray[Any]:
        """The spans of every row as tuples, shape [N], of objects."""
        iob = is_iob(labels)
        index = {(tag[2:] if iob else tag): i for i, tag in enumerate(labels) if not iob or tag[0] == "B"}
        rows = []
        for i, (form, parts) in enumerate(values):
            spans = _joined(parts) if form == "tags" and iob else parts
            for _, _, name in spans:
                if name not in index:
                    raise DataError(
                        f"{column.what}: {column.place(i)} has the label {shown(name)} in {column.field!r}; "
                        f"allowed ({origin}): {listed(index, 20)}"
                    )
            rows.append(tuple((start, end, index[name]) for start, end, name in spans))
        return self.column(rows)

    def column(self, rows: Sequence[Any]) -> NDArray[Any]:
        """One object per row."""
        import numpy as np

        found = np.empty(len(rows), dtype=object)
        for i, row in enumerate(rows):
            found[i] = row
        return found

    def fit(self, task: TaskSettings, labels: Sequence[str], targets: NDArray[Any]) -> dict[str, Any]:
        """The tags."""
        return {"labels": labels}

    def scale(self, targets: NDArray[Any]) -> tuple[float, float]:
        """Indices are learned as they are."""
        return 0.0, 1.0

    def guessed_loss(self, targets: NDArray[Any]) -> float:
        """The entropy of the tags, in nats."""
        import numpy as np

        shares = np.unique(targets[targets >= 0], return_counts=True)[1]
        shares = shares / max(1, shares.sum())
        return float(-(shares * np.log(shares)).sum())

    def outputs(self, labels: Sequence[str]) -> int:
        """One per tag."""
        return len(labels)

    def named(self, targets: NDArray[Any], labels: Sequence[str]) -> list[Any]:
        """Lists of spans with their tags."""
        return [[[start, end, labels[tag]] for start, end, tag in row] for row in targets]

    def value(self, target: Any, labels: Sequence[str]) -> str:
        """The tags, or that there is none."""
        found = listed(dict.fromkeys(labels[tag] for _, _, tag in target))
        return f"the tags {found}" if found else "no span"

    def notes(self, head: Head, targets: NDArray[Any]) -> list[str]:
        """Of types with few spans."""
        import numpy as np

        counts = np.bincount([tag for row in targets for _, _, tag in row], minlength=len(head.labels))
        iob = is_iob(head.labels)
        rare = [
            f"{shown(tag[2:] if iob else tag)} {counts[i]}"
            for i, tag in enumerate(head.labels)
            if counts[i] < FEW and (not iob or tag[0] == "B")
        ]
        if not rare:
            return []
        which = "a type" if len(rare) == 1 else f"each of {len(rare)} types"
        return [
            f"task {head.name!r}: of the train spans fewer than {FEW} are of {which} ({listed(rare, 6)}); "
            "give more rows, for so few teach little."
        ]

    def predicted(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """The tags with the largest logits."""
        found: NDArray[Any] = outputs.argmax(axis=-1).astype(self.dtype)
        return found

    def expected(self, targets: NDArray[Any]) -> NDArray[Any]:
        """As they are."""
        return targets

    def in_units(self, head: Head, values: NDArray[Any]) -> NDArray[Any]:
        """As they are."""
        return values

    def scored(
        self, head: Head, outputs: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The names of the tags of every row's words, of first pieces alone."""
        told, true = [], []
        width = min(outputs.shape[1], targets.shape[1])
        best = outputs.argmax(axis=-1)
        for row, tags in zip(best[:, :width], targets[:, :width], strict=True):
            own = tags >= 0
            told.append(tuple(head.labels[int(tag)] for tag in row[own]))
            true.append(tuple(head.labels[int(tag)] for tag in tags[own]))
        return self.column(told), self.column(true)

    def pooled(self, outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
        """The outputs of every row's first word."""
        import numpy as np

        first = (targets[:, : outputs.shape[1]] >= 0).argmax(axis=1)
        found: NDArray[Any] = outputs[np.arange(len(outputs)), first]
        return found

    def varied(self, targets: NDArray[Any]) -> bool:
        """Whether any row has a span."""
        return any(len(row) for row in targets)

    def order(self, targets: NDArray[Any]) -> NDArray[Any]:
        """How many spans a row has."""
        import numpy as np

        return np.array([len(row) for row in targets])

    def keys(self, targets: NDArray[Any]) -> list[Any]:
        """The spans as texts."""
        return [json.dumps(row) for row in targets]

    def says_little(self, head: Head, predicted: NDArray[Any], expected: NDArray[Any]) -> str | None:
        """Of rows without any span."""
        if any(word_spans(row) for row in expected):
            return None
        return f"none of the {len(expected):,} rows of task {head.name!r} has a span; entity_f1 is then 0"

    def majority(self, head: Head, train: NDArray[Any], test: NDArray[Any]) -> float:
        """The most frequent tag of the train words, for all words; of spans that is mostly none, so 0.

        Both are the tags of the words of every row, as indices.
        """
        import numpy as np

        from graftwork.kinds.scoring.metrics import score

        counts = np.bincount([tag for row in train for tag in row], minlength=len(head.labels))
        guess = head.labels[int(counts.argmax())]
        true = self.column([tuple(head.labels[tag] for tag in row) for row in test])
        return score(head.metric, self.column([(guess,) * len(row) for row in true]), true)

    def figures(self, head: Head, predicted: NDArray[Any], expected: NDArray[Any]) -> dict[str, Any]:
        """`entity_figures`."""
        from graftwork.kinds.scoring.metrics import score

        accuracy = score("token_accuracy", predicted, expected)
        return entity_figures(inside_types(head.labels), predicted, expected, accuracy)

    def answer(self, head: Head, outputs: Any, top: int | None, digits: int | None) -> Mapping[str, Any]:
        """The spans with their places in the text; how far it was read if it was cut."""
        assert isinstance(outputs, Tagged)
        end = outputs.words[-1][2] if outputs.words else 0
        cut = {"read_to": end} if outputs.text[end:].strip() else {}
        return {"spans": list(described(outputs, head.labels, digits)), **cut}

    def damaged(
        self, head: Head, targets: NDArray[Any], rows: NDArray[Any], draw: Callable[[int], int]
    ) -> NDArray[Any]:
        """All spans of a row get another type, each equally likely; of one type there are none then."""
        types = [i for i, tag in enumerate(head.labels) if tag[0] == "B" or not is_iob(head.labels)]
        changed = targets.copy()
        for row in rows:
            step = 1 + draw(row) % (len(types) - 1) if len(types) > 1 else 0
            changed[row] = tuple(
                (start, end, types[(types.index(tag) + step) % len(types)])
                for start, end, tag in changed[row]
                if step
            )
        return changed

    def probes(self, features: NDArray[Any], targets: NDArray[Any]) -> list[Any]:
        """Logistic regressions on the vectors of words."""
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        with warnings.catch_warnings():
            # A fit cut short is one more regularised candidate; validation judges it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            models = [LogisticRegression(C=strength, max_iter=200) for strength in STRENGTHS]
            return [model.fit(features, targets) for model in models]


def _plain(values: Sequence[Any]) -> bool:
    """Whether some rows have tags that are not IOB."""
    return any(form == "tags" and not is_iob(name for _, _, name in parts) for form, parts in values)


def _types(values: Sequence[Any]) -> list[str]:
    return [
        name[2:] if form == "tags" else name
        for form, parts in values
        for _, _, name in parts
        if form == "spans" or name != OUTSIDE
    ]


def _joined(words: Sequence[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Spans of characters from words with IOB tags."""
    if not is_iob(tag for _, _, tag in words):
        return [(start, end, tag) for start, end, tag in words if tag != OUTSIDE]
    spans = word_spans([tag for _, _, tag in words])
    return [(words[first][0], words[end - 1][1], name) for first, end, name in spans]


def _read(value: Any, column: Column, row: int) -> tuple[str, list[tuple[int, int, str]]]:
    text = column.texts[row]
    where = f"{column.what}: {column.place(row)}: {column.field!r}"
    if isinstance(text, list | tuple):
        return "tags", _tags(value, text, where)
    if not isinstance(value, list | tuple):
        raise DataError(f"{where} is {shown(value)}, not a list of spans; [] stands for none")
    spans = sorted(_span(part, text, where) for part in value)
    for before, after in pairwise(spans):
        if after[0] < before[1]:
            raise DataError(f"{where} has spans that overlap, {before} and {after}; a word has one tag")
    return "spans", spans


def _tags(value: Any, words: Sequence[str], where: str) -> list[tuple[int, int, str]]:
    if not isinstance(value, list | tuple) or len(value) != len(words):
        given = f"{len(value)} tags" if isinstance(value, list | tuple) else shown(value)
        raise DataError(f"{where} is {given} for {len(words)} words; give a list of one tag per word")
    found, start = [], 0
    for word, tag in zip(words, value, strict=True):
        try:
            found.append((start, start + len(word), label_name(tag)))
        except ValueError as error:
            raise DataError(f"{where} has {error}") from None
        start += len(word) + 1
    return found


def _span(part: Any, text: str, where: str) -> tuple[int, int, str]:
    if isinstance(part, Mapping):
        part = [part.get(key) for key in ("start", "end", "label")]
    whole = isinstance(part, list | tuple) and len(part) == 3
    if not whole or not all(type(place) is int for place in part[:2]):
        raise DataError(
            f"{where} has the span {shown(part)}; give {{start, end, label}}, with places of characters"
        )
    start, end, label = part
    if not 0 <= start < end <= len(text):
        raise DataError(
            f"{where} has a span from {start} to {end}, which is not within the {len(text)} characters of "
            "the text (the first is 0, and end is the one after the last)"
        )
    try:
        return start, end, label_name(label)
    except ValueError as error:
        raise DataError(f"{where} has {error}") from None
