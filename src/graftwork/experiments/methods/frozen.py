"""The frozen language model as a method of a comparison: its own answers to the prompts, without training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.errors import ConfigError
from graftwork.experiments.methods.method import Adapted, Setup, described
from graftwork.training.answering.frozen import frozen_answers
from graftwork.training.answering.trained import with_precision
from graftwork.training.preparation import Prepared, cache_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from graftwork.data.task_data import TaskData
    from graftwork.models.causal.scoring import TextScore
    from graftwork.recipe.settings import TrainingSettings

__all__ = ["Frozen", "FrozenFloor"]


@described("frozen", "frozen backbone", trained=False, writes=True)
@dataclass(frozen=True)
class Frozen:
    """The floor of tasks that a language model answers: its answers before any training."""

    shots: int = 0
    """Train rows that every prompt shows first, with their answers; 0: the prompt alone."""

    def __post_init__(self) -> None:
        """Check the range.

        Raises:
            ConfigError: there cannot be so many rows.
        """
        if self.shots < 0:
            raise ConfigError(f"shots={self.shots} must be at least 0.")

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """The backbone as it is."""
        return Adapted(backbone.requires_grad_(False))


class FrozenFloor:
    """What the frozen backbone answers.

    Args:
        method: how it is asked.
        training: with what precision.
        prepared: the tasks, and the backbone.
    """

    def __init__(self, method: Frozen, training: TrainingSettings, prepared: Prepared) -> None:
        self.method, self.training, self.prepared = method, training, prepared
        self.texts: dict[str, dict[str, TextScore]] = {}
        """Split -> task -> what was answered."""

    def validation_scores(self) -> dict[str, float]:
        """Score of every task on validation."""
        return self._scores(self.prepared.datas, "validation", cache_folder())

    def test_scores(
        self, datas: Sequence[TaskData], noisy: Callable[[], AbstractContextManager[Any]]
    ) -> dict[str, float]:
        """Score of every task on its test split.

        Args:
            datas: the tasks, with noise in their texts if any is asked for.
            noisy: context in which the test rows are answered; it gives the noises in the backbone.
        """
        with noisy() as measured:
            # What a backbone with noise answers is not what the frozen one does.
            return self._scores(datas, "test", None if measured else cache_folder())

    def size(self) -> int:
        """Nothing is trained."""
        return 0

    def _scores(self, datas: Sequence[TaskData], split: str, folder: Path | None) -> dict[str, float]:
        prepared = self.prepared
        with with_precision(prepared.backbone, self.training.bf16):
            found = frozen_answers(
                prepared.backbone,
                prepared.tokenizer,
                datas,
                split,
                shots=self.method.shots,
                most=prepared.most_written,
                folder=folder,
            )
        self.texts[split] = found
        return {data.head.name: found[data.head.name].score for data in datas}
