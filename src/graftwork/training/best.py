"""`KeepBest`: the best weights of a training, without a checkpoint on disk per evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from graftwork.search.callback import StructureCallback

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

__all__ = ["KeepBest"]


class KeepBest(TrainerCallback):
    """Holds the trained weights of the best evaluation in memory, and restores them when training ends.

    What Trainer's `load_best_model_at_end` does. Evaluations of gates that are still being learned are not
    comparable with those of the structure that is decided later, so that the best is sought anew then.

    Args:
        era: when its value changes, earlier evaluations are not comparable any more.

    Attributes:
        best: the best mean score of the tasks in this era; minus infinity before the first.
        weights: the trained parameters at that evaluation, by name.
    """

    # Its weights fit the model before the structure is compacted.
    precedes = (StructureCallback,)

    def __init__(self, era: Callable[[TrainerState], object] = lambda state: None) -> None:
        self.era = era
        self.current: object = None
        self.best = -float("inf")
        self.weights: dict[str, Tensor] = {}

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the weights if they are the best of their era."""
        self._enter(state)
        score = (metrics or {}).get("eval_mean", float("nan"))
        if score > self.best:
            self.best = score
            self.weights = {
                name: parameter.detach().clone()
                for name, parameter in kwargs["model"].named_parameters()
                if parameter.requires_grad
            }

    @torch.no_grad()
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the best weights."""
        self._enter(state)
        parameters = dict(kwargs["model"].named_parameters())
        for name, weight in self.weights.items():
            parameters[name].copy_(weight)

    def _enter(self, state: TrainerState) -> None:
        era = self.era(state)
        if era != self.current:
            self.current, self.best, self.weights = era, -float("inf"), {}
