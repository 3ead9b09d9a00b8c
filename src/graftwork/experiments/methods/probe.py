"""The linear probe as a method of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from graftwork.data.task_data import TaskData
from graftwork.kinds.pairs.features import PARTS
from graftwork.models.probe import fit_probe
from graftwork.training.preparation import Prepared

if TYPE_CHECKING:
    from graftwork.recipe.settings import TrainingSettings

__all__ = ["Probe"]


class Probe:
    """A linear model on frozen embeddings for every task.

    Args:
        training: how rows are cut and pooled.
        prepared: the tasks, and the backbone whose embeddings are used.
    """

    def __init__(self, training: TrainingSettings, prepared: Prepared) -> None:
        self.training, self.prepared = training, prepared
        self.width = 0
        self.models = {
            data.head.name: fit_probe(data.head, data.splits["train"], data.splits["validation"], self._embed)
            for data in prepared.datas
        }

    def validation_scores(self) -> dict[str, float]:
        """Score of every task on validation."""
        return {
            data.head.name: self.models[data.head.name](data.splits["validation"], self._embed)
            for data in self.prepared.datas
        }

    def test_scores(
        self, datas: Sequence[TaskData], noisy: Callable[[], AbstractContextManager[Any]]
    ) -> dict[str, float]:
        """Score of every task on its test split.

        Args:
            datas: the tasks, with noise in their texts if any is asked for.
            noisy: context in which the test rows are embedded.
        """
        found = {}
        for data in datas:
            with noisy():
                found[data.head.name] = self.models[data.head.name](data.splits["test"], self._embed)
        return found

    def size(self) -> int:
        """Weights of all linear models."""
        return sum(
            (data.head.size if data.head.size > 2 else 1)
            * (self.width * (PARTS if len(data.splits["train"].texts) == 2 else 1) + 1)
            for data in self.prepared.datas
            if not data.head.compared
        )

    def _embed(self, texts: Sequence[str], words: bool = False, stride: int | None = None) -> Any:
        found = self.prepared.embedder(self.training.pooling)(texts, words=words, stride=stride)
        self.width = (found[0][0] if words else found).shape[1]
        return found
