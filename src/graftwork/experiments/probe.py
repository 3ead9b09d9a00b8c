"""The linear probe as a method of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from graftwork.data import Split
from graftwork.evaluate import embed, linear_probe
from graftwork.experiments.grid import Run
from graftwork.training import Prepared

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["probe"]


def probe(
    run: Run, prepared: Prepared, noisy: Callable[[], AbstractContextManager[Any]]
) -> tuple[dict[str, dict[str, float | None]], int]:
    """Score a linear model on frozen embeddings for every task.

    Args:
        run: the run.
        prepared: its data and backbone.
        noisy: context in which the test rows are embedded.

    Returns:
        Scores per task and split, and the number of weights of all linear models.
    """
    scores: dict[str, dict[str, float | None]] = {}
    size = 0
    for data in prepared.datas:
        train, validation, test = (data.splits[name] for name in ("train", "validation", "test"))
        embedder = _Embedder(run, prepared)
        found: dict[str, float | None] = {
            "validation": linear_probe(data.head, train, validation, validation, embedder),
            "test": None,
        }
        if run.purpose == "final":
            embedder.noisy, embedder.tested = noisy, test
            found["test"] = linear_probe(data.head, train, validation, test, embedder)
        scores[data.head.name] = found
        width = embedder.width * (4 if len(train.texts) == 2 else 1)
        size += (data.head.size if data.head.size > 2 else 1) * (width + 1)
    return scores, size


class _Embedder:
    """Texts to vectors; equal columns of texts are embedded once, and those of the test split with noise."""

    def __init__(self, run: Run, prepared: Prepared) -> None:
        self.run, self.prepared = run, prepared
        self.noisy: Callable[[], AbstractContextManager[Any]] | None = None
        self.tested: Split | None = None
        self.known: dict[tuple[str, ...], NDArray[np.float32]] = {}
        self.width = 0

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        key = tuple(texts)
        split = self.tested
        if split is not None and self.noisy is not None and key == _column(split):
            with self.noisy():
                return self._embed(key)
        if key not in self.known:
            self.known[key] = self._embed(key)
        return self.known[key]

    def _embed(self, texts: tuple[str, ...]) -> NDArray[np.float32]:
        training = self.run.training
        vectors = embed(
            self.prepared.backbone,
            self.prepared.tokenizer,
            texts,
            training.max_length,
            pooling=training.pooling,
        )
        self.width = vectors.shape[1]
        return vectors


def _column(split: Split) -> tuple[str, ...]:
    """The texts of a split in the order in which `linear_probe` has them embedded."""
    return tuple(text for column in split.texts for text in column)
