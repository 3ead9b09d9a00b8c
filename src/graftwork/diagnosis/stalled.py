"""`StalledCallback`: a run that has learned nothing by the end of its warm-up says so, or ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerCallback

from graftwork.advice import again
from graftwork.distributed.notes import note
from graftwork.errors import TrainingError
from graftwork.kinds.registry import KINDS
from graftwork.models.outputs import RowSample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase, TrainerControl, TrainerState, TrainingArguments

    from graftwork.kinds.heads import TaskHead
    from graftwork.models.outputs import Outputs

__all__ = ["StalledCallback", "guessed_loss", "spreads"]

ROWS = 256
"""Training rows of all tasks together that are looked at."""
ALIKE = 1e-3
"""Spread of a task's outputs below which its rows may count as alike."""
LOST = 0.1
"""Part of the spread before the training below which they do: some backbones tell rows apart little."""


class StalledCallback(TrainerCallback):
    """Looks, at the end of the warm-up, whether the model still tells rows apart as its backbone did.

    At a rate that is too high adapters grow until they drown what the backbone says of a row: every row of a
    task gets the same outputs, the loss stays at that of guessing, and nothing brings it back. Nothing random
    is drawn, so training goes on as it would without.

    Args:
        heads: the tasks.
        tokens: training rows.
        tokenizer: pads them.
        warmup: fraction of the run after which to look (`graftwork.search.schedule.Schedule.warmup`).
        stop: end such a run; else say so and go on.
        seed: of the choice of rows.

    Raises:
        TrainingError: in `on_step_end`, if no task's rows are told apart and `stop`.
    """

    def __init__(
        self,
        heads: Sequence[TaskHead],
        tokens: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        warmup: float,
        stop: bool,
        seed: int = 0,
    ) -> None:
        self.heads = tuple(heads)
        self.tokens = tokens
        self.tokenizer = tokenizer
        self.warmup = warmup
        self.stop = stop
        self.seed = seed
        self._looked = False
        self._before: list[float] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look what the backbone tells apart; a run that goes on after its warm-up has been looked at."""
        self._looked = state.global_step >= self._step(state)
        if not self._looked:
            self._before = spreads(self._outputs(kwargs["model"]), self.heads)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look, after the last step of the warm-up."""
        if self._looked or state.global_step < self._step(state):
            return
        self._looked = True
        outputs = self._outputs(kwargs["model"])
        now = zip(spreads(outputs, self.heads), self._before, strict=True)
        if any(spread > min(ALIKE, LOST * before) for spread, before in now):
            return
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        loss = f"the loss {losses[-1]:.3f}" if losses else "the loss"
        guessing = guessed_loss(outputs, self.heads)
        text = (
            f"nothing is learned: after the warm-up, at step {state.global_step}, all rows of a task get the "
            f"same outputs, and {loss} is no better than that of guessing ({guessing:.3f}); the learning "
            f"rate {args.learning_rate:g} is too high for this model, which does not recover."
        )
        if not self.stop:
            note(text)
            return
        lower = {"training.learning_rate": f"{args.learning_rate / 3:.2g}"}
        raise TrainingError(f"{text} Begin again with: {again('overwrite', changes=lower, resume=False)}")

    def _outputs(self, model: Any) -> Outputs:
        sample = RowSample(self.tokens, self.tokenizer, most=ROWS, seed=self.seed)
        outputs = sample.run(getattr(model, "module", model))
        assert outputs is not None
        return outputs

    def _step(self, state: TrainerState) -> int:
        return max(1, round(self.warmup * state.max_steps))


def spreads(outputs: Outputs, heads: Sequence[TaskHead]) -> list[float]:
    """For every task with two rows or more, how much its outputs differ over them.

    The largest deviation over the rows of any output, divided by 1 plus the mean size of the outputs.

    Args:
        outputs: of rows of several tasks.
        heads: the tasks.
    """
    logits, rows = outputs.logits.numpy(), outputs.rows.numpy()
    found = []
    for index, head in enumerate(heads):
        own = logits[rows == index, : head.size]
        if len(own) > 1:
            found.append(float(own.std(axis=0).max() / (1.0 + np.abs(own).mean())))
    return found


def guessed_loss(outputs: Outputs, heads: Sequence[TaskHead]) -> float:
    """Mean loss over the rows if all rows of a task get the one answer that fits them best.

    Args:
        outputs: of rows of several tasks.
        heads: the tasks.
    """
    labels, rows = outputs.labels.numpy(), outputs.rows.numpy()
    total = 0.0
    for index, head in enumerate(heads):
        own: NDArray[Any] = labels[rows == index]
        if len(own):
            total += len(own) * KINDS[head.kind].guessed_loss(own)
    return total / len(labels)
