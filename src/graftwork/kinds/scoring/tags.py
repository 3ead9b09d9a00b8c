"""Tags of words and the spans they stand for: IOB2 (`O`, `B-TYPE`, `I-TYPE`), or one plain tag per word."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from graftwork.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Tagged",
    "check_nervaluate",
    "entity_figures",
    "entity_score",
    "inside_types",
    "is_iob",
    "of_row",
    "tag_words",
    "tags_of_types",
    "word_spans",
]

OUTSIDE = "O"
"""Tag of a word in no span."""
Word = tuple[int, int, int]
"""Position of its first piece among the tokens of a row, and its first and last but one character."""
Span = tuple[int, int, int]
"""First character, the one after the last, and the index of its (first) tag."""


@dataclass(frozen=True)
class Tagged:
    """A text with the outputs of a head for its words."""

    text: str
    words: Sequence[Word]
    logits: Sequence[Sequence[float]]
    """Of every word, in the order of the tags."""


def of_row(
    outputs: Sequence[Any], size: int, text: str, words: Sequence[Word] | None
) -> list[float] | Tagged:
    """What the heads say of one row, for `graftwork.kinds.answers.Answers.describe`.

    Args:
        outputs: of the row, [C]; or [1 + positions, C], if a task of the model has targets per token.
        size: outputs of the row's head.
        text: what was read.
        words: if the head has targets per token.
    """
    if words is None:
        whole = outputs[0] if isinstance(outputs[0], list) else outputs
        return list(whole[:size])
    return Tagged(text, words, [outputs[1 + word[0]][:size] for word in words])


def is_iob(tags: Iterable[str]) -> bool:
    """Whether tags are `O`, `B-TYPE` and `I-TYPE`."""
    return all(tag == OUTSIDE or (tag[:2] in ("B-", "I-") and len(tag) > 2) for tag in tags)


def tags_of_types(types: Iterable[str]) -> tuple[str, ...]:
    """The tags of a head for spans of these types: `O`, then `B-` and `I-` of each."""
    return (OUTSIDE, *(f"{begin}-{name}" for name in types for begin in "BI"))


def inside_types(tags: Sequence[str]) -> tuple[str, ...]:
    """The types of spans that these tags can say; plain tags are their own."""
    if is_iob(tags):
        return tuple(tag[2:] for tag in tags if tag.startswith("B-"))
    return tuple(tag for tag in tags if tag != OUTSIDE)


def tag_words(spans: Sequence[Span], words: Sequence[Word], tags: Sequence[str]) -> list[int]:
    """The tag of every word: that of the span it overlaps, of the first one if there are several.

    Args:
        spans: sorted, not overlapping; each with the index of its first tag.
        words: sorted.
        tags: of the head.
    """
    iob, found, at, before = is_iob(tags), [], 0, -1
    for _, start, end in words:
        while at < len(spans) and spans[at][1] <= start:
            at += 1
        inside = at < len(spans) and spans[at][0] < end
        if not inside:
            found.append(0 if iob else -1)
        else:
            found.append(spans[at][2] + (1 if iob and before == at else 0))
        before = at if inside else -1
    return found


def word_spans(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Spans as first word, the one after the last, and type; an `I-` with no such tag before begins one."""
    spans: list[tuple[int, int, str]] = []
    if not is_iob(tags):
        return [(i, i + 1, tag) for i, tag in enumerate(tags) if tag != OUTSIDE]
    before = OUTSIDE
    for i, tag in enumerate(tags):
        if tag != OUTSIDE:
            if tag[0] == "I" and before[2:] == tag[2:]:
                spans[-1] = (spans[-1][0], i + 1, tag[2:])
            else:
                spans.append((i, i + 1, tag[2:]))
        before = tag
    return spans


def described(tagged: Tagged, tags: Sequence[str], digits: int | None) -> Iterator[dict[str, Any]]:
    """The spans of a text, each as sure as the least sure of its words."""
    chosen = [max(range(len(tags)), key=row.__getitem__) for row in tagged.logits]
    sure = [_probability(row, best) for row, best in zip(tagged.logits, chosen, strict=True)]
    for first, end, name in word_spans([tags[best] for best in chosen]):
        start, stop = tagged.words[first][1], tagged.words[end - 1][2]
        least = min(sure[first:end])
        yield {
            "start": start,
            "end": stop,
            "label": name,
            "text": tagged.text[start:stop],
            "probability": least if digits is None else round(least, digits),
        }


def _probability(logits: Sequence[float], index: int) -> float:
    largest = max(logits)
    return math.exp(logits[index] - largest) / sum(math.exp(value - largest) for value in logits)


def check_nervaluate() -> None:
    """Refuse to go on without the package that scores spans.

    Raises:
        ConfigError: it is not installed.
    """
    if find_spec("nervaluate") is None:
        raise ConfigError(
            "kind: tokens is scored by nervaluate, which is not installed; pip install 'graftwork[tokens]'"
        )


def _counts(predicted: Sequence[Any], expected: Sequence[Any]) -> dict[str, Counter[str]]:
    """By type: spans that are `right`, `given` and `true`, matched strictly by nervaluate."""
    check_nervaluate()
    from nervaluate.entities import Entity  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from nervaluate.strategies import StrictEvaluation  # type: ignore[import-not-found,import-untyped,unused-ignore]

    strict = StrictEvaluation()
    found: dict[str, Counter[str]] = {}
    for told, true in zip(predicted, expected, strict=True):
        both = [
            [Entity(name, first, end - 1) for first, end, name in word_spans(row)] for row in (told, true)
        ]
        for name in {entity.label for row in both for entity in row}:
            given, own = ([entity for entity in row if entity.label == name] for row in both)
            result, _ = strict.evaluate(own, given, [name])
            counts = Counter(right=result.correct, given=len(given), true=len(own))
            found.setdefault(name, Counter()).update(counts)
    return found


def entity_score(predicted: Sequence[Any], expected: Sequence[Any]) -> float:
    """F1 over all spans: one counts as found if its first word, its last and its type are right.

    Args:
        predicted: the tags of every row.
        expected: the same.
    """
    return _figures(sum(_counts(predicted, expected).values(), Counter()))["f1"]


def _figures(counts: Counter[str]) -> dict[str, float]:
    right, given, true = (counts[name] for name in ("right", "given", "true"))
    return {
        "precision": right / given if given else 0.0,
        "recall": right / true if true else 0.0,
        "f1": 2 * right / (given + true) if given + true else 0.0,
    }


def entity_figures(
    types: Sequence[str], predicted: NDArray[Any], expected: NDArray[Any], accuracy: float
) -> dict[str, Any]:
    """Precision, recall and F1 of the spans of every type, and of all; 0 where a figure is undefined."""
    counts = _counts(list(predicted), list(expected))
    own = {name: counts.get(name, Counter()) for name in types}
    return {
        "classes": {
            name: {**_figures(found), "support": found["true"], "predicted": found["given"]}
            for name, found in own.items()
        },
        "micro": _figures(sum(counts.values(), Counter())),
        "token_accuracy": accuracy,
    }
