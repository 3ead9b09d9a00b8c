"""The training loop of a comparison: Trainer's, with a method's wishes, and the best weights in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from graftwork.experiments.methods.method import Adapted
from graftwork.models.multitask import MultiTaskModel
from graftwork.training.arguments import remove_default_output
from graftwork.training.trainer import MultiTaskTrainer

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

__all__ = ["KeepBest", "Progress", "TrialTrainer"]


class KeepBest(TrainerCallback):
    """Holds the trained weights of the best evaluation in memory, and restores them when training ends.

    What Trainer's `load_best_model_at_end` does, without a checkpoint on disk per evaluation.
    """

    def __init__(self, era: Callable[[TrainerState], object]) -> None:
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

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the best weights."""
        self._enter(state)
        parameters = dict(kwargs["model"].named_parameters())
        with torch.no_grad():
            for name, weight in self.weights.items():
                parameters[name].copy_(weight)

    def _enter(self, state: TrainerState) -> None:
        era = self.era(state)
        if era != self.current:
            self.current, self.best, self.weights = era, -float("inf"), {}


class TrialTrainer(MultiTaskTrainer):
    """`MultiTaskTrainer` with the extra loss and the extra learning rates of a method, and a stopwatch.

    Args:
        model: the model.
        args: Trainer's arguments.
        adapted: the method's wishes.
        **kwargs: for `MultiTaskTrainer`.
    """

    def __init__(
        self, model: MultiTaskModel, args: TrainingArguments, *, adapted: Adapted, **kwargs: Any
    ) -> None:
        self.adapted = adapted
        self.evaluation_seconds = 0.0
        # First of all callbacks: the best weights must be back before the structure is compacted.
        callbacks = [KeepBest(adapted.era), *adapted.callbacks]
        super().__init__(model, args, callbacks=callbacks, **kwargs)
        remove_default_output(self)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of the batch, plus the method's own while training."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        extra = self.adapted.extra_loss()
        if extra is not None and model.training:
            loss = loss + extra
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW; parameters that the method names have their own rate."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(model)
        for part, rate in self.adapted.rates.items() if fresh else ():
            named = {id(p) for name, p in self.model.named_parameters() if part in name}
            mine: list[Tensor] = []
            for group in optimizer.param_groups:
                mine += [p for p in group["params"] if id(p) in named]
                group["params"] = [p for p in group["params"] if id(p) not in named]
            optimizer.add_param_group({"params": mine, "lr": rate, "weight_decay": 0.0})
        return optimizer

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, and note how long it took."""
        start = time.perf_counter()
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self.evaluation_seconds += time.perf_counter() - start


class Progress(TrainerCallback):
    """Tells how far the training is."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self.tell = tell

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell."""
        self.tell(state.global_step / state.max_steps)
