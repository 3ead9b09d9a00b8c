"""`Patience`: ends a training whose score has stopped rising."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from graftwork.search.callback import StructureCallback

__all__ = ["Patience"]


class Patience(TrainerCallback, ExportableState):
    """Ends a training after some evaluations without a better mean score of the tasks.

    They are counted from the decision of the structure: before, scores are of gates that will be closed.

    Args:
        evaluations: how many; 0: the training goes on to its end.
        searches: the callbacks that decide the structure; none: it is counted from the start.
    """

    def __init__(self, evaluations: int, searches: Sequence[StructureCallback] = ()) -> None:
        self.evaluations, self.searches = evaluations, searches
        self.best = -float("inf")
        self.waited = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over what a checkpoint has."""
        stateful: Any = state.stateful_callbacks
        saved = stateful.get(type(self).__name__)
        if state.global_step > 0 and isinstance(saved, dict):
            self.best, self.waited = float(saved["attributes"]["best"]), int(saved["attributes"]["waited"])

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Count."""
        if any(item.search is not None and item.search.control is not None for item in self.searches):
            return
        score = (metrics or {}).get("eval_mean", float("nan"))
        if score > self.best:
            self.best, self.waited = score, 0
        else:
            self.waited += 1
        control.should_training_stop |= self.over

    @property
    def over(self) -> bool:
        """The training is to end."""
        return 0 < self.evaluations <= self.waited

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End a run that goes on from the very checkpoint at which it was to end."""
        if self.over:
            control.should_training_stop = True
            control.should_evaluate = control.should_save = False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave its last evaluation the last."""
        if self.over:
            control.should_evaluate = control.should_save = False

    def state(self) -> dict[str, Any]:
        """For checkpoints."""
        return {
            "args": {"evaluations": self.evaluations},
            "attributes": {"best": self.best, "waited": self.waited},
        }
