"""The linear probe: what a task reaches on the frozen backbone's vectors alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork.data.task_data import Split
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.pairs.features import pair_parts
from graftwork.kinds.pairs.ranking import with_cosine
from graftwork.kinds.registry import KINDS
from graftwork.kinds.scoring.metrics import score
from graftwork.kinds.scoring.tags import tag_words
from graftwork.models.pooling import Embedder

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fit_probe", "linear_probe"]

MOST_WORDS = 10_000
"""Train words on which a probe of tags is fitted; more make it slow and hardly better."""


def linear_probe(head: TaskHead, train: Split, validation: Split, test: Split, embed_fn: Embedder) -> float:
    """Score a linear model on frozen embeddings: what the backbone knows without any fine-tuning.

    Logistic regression, or ridge for scores, on standardised features; a pair has the features
    `[u, v, |u - v|, u * v]`. The regularisation is chosen on validation, and test is scored once. Of
    tokens the model is fitted on the frozen vectors of at most `MOST_WORDS` words. Of texts that are compared
    with those of other rows nothing is fitted: the cosines of their frozen vectors are scored.

    Args:
        head: The task.
        train: Rows to fit.
        validation: Rows to choose the regularisation on.
        test: Rows to score.
        embed_fn: Texts to vectors, e.g. `functools.partial(embed, ...)`.

    Returns:
        The test score under the task's metric.
    """
    return fit_probe(head, train, validation, embed_fn)(test, embed_fn)


def fit_probe(
    head: TaskHead, train: Split, validation: Split, embed_fn: Embedder
) -> Callable[[Split, Embedder], float]:
    """Fit the model of `linear_probe`.

    Returns:
        A function that scores the rows of a split, embedded as its second argument says.
    """
    from sklearn.preprocessing import StandardScaler

    if KINDS[head.kind].per == "token":
        return _fit_tag_probe(head, train, validation, embed_fn)
    if head.compared:
        return partial(_cosine_score, head)
    embed_fn = _in_windows(head, embed_fn)
    features = [_features(split.texts, embed_fn) for split in (train, validation)]
    scaler = StandardScaler().fit(features[0])
    fitted, chosen = (scaler.transform(block) for block in features)
    kind = KINDS[head.kind]
    models = kind.probes(fitted, train.targets)
    for model in models:
        kind.settle_probe_(model, chosen, validation.targets)
    # Of equals the first, that is the most regularised.
    best = max(models, key=lambda model: score(head.metric, model.predict(chosen), validation.targets))

    def test(split: Split, embed_fn: Embedder) -> float:
        tested = scaler.transform(_features(split.texts, _in_windows(head, embed_fn)))
        return score(head.metric, best.predict(tested), split.targets)

    return test


def _cosine_score(head: TaskHead, split: Split, embed_fn: Embedder) -> float:
    """The score of the cosines of frozen vectors."""
    queries, passages = split.texts
    outputs = with_cosine(*np.split(embed_fn([*queries, *passages]), 2))
    return score(head.metric, *KINDS[head.kind].scored(head, outputs, split.targets))


def _fit_tag_probe(
    head: TaskHead, train: Split, validation: Split, embed_fn: Embedder
) -> Callable[[Split, Embedder], float]:
    """The same on the vectors of words, on at most `MOST_WORDS` of the train rows."""
    from sklearn.preprocessing import StandardScaler

    order = np.random.default_rng(0).permutation(len(train)).tolist()
    rows, words = [], 0
    for row in order:
        if words < MOST_WORDS:
            rows.append(row)
            words += len(train.texts[0][row].split())
    texts, spans = [train.texts[0][row] for row in rows], [train.targets[row] for row in rows]
    vectors, tags = _words(head, texts, spans, embed_fn)
    every, own = np.concatenate(vectors), np.concatenate(tags)
    scaler = StandardScaler().fit(every[own >= 0])
    kind = KINDS[head.kind]
    models = kind.probes(scaler.transform(every[own >= 0]), own[own >= 0])

    def scored(model: Any, vectors: list[NDArray[Any]], tags: list[NDArray[Any]]) -> float:
        told, true = [], []
        for block, row in zip(vectors, tags, strict=True):
            found = model.predict(scaler.transform(block)) if len(block) else row
            told.append(tuple(head.labels[int(tag)] for tag in found[row >= 0]))
            true.append(tuple(head.labels[int(tag)] for tag in row[row >= 0]))
        return score(head.metric, kind.column(told), kind.column(true))

    chosen = _words(head, validation.texts[0], validation.targets, embed_fn)
    best = max(models, key=lambda model: scored(model, *chosen))

    def test(split: Split, embed_fn: Embedder) -> float:
        return scored(best, *_words(head, split.texts[0], split.targets, embed_fn))

    return test


def _words(
    head: TaskHead, texts: Sequence[str], spans: Iterable[Any], embed_fn: Embedder
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """The vectors and the tags of the words of every text."""
    found = _in_windows(head, embed_fn)(texts, words=True)
    tags = [
        np.array(tag_words(row, words, head.labels), dtype=np.int64)
        for row, (_, words) in zip(spans, found, strict=True)
    ]
    return [vectors for vectors, _ in found], tags


def _in_windows(head: TaskHead, embed_fn: Embedder) -> Embedder:
    """The same for long texts that a task reads in windows."""
    return embed_fn if head.stride is None else partial(embed_fn, stride=head.stride)


def _features(texts: tuple[list[str], ...], embed_fn: Embedder) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = embed_fn([text for column in texts for text in column])
    if len(texts) == 1:
        return vectors
    return np.concatenate(pair_parts(*np.split(vectors, 2)), axis=1)
