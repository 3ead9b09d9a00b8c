"""`StalledCallback`: a run that is ruined early says so, or ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerCallback

from graftwork.advice import again
from graftwork.distributed.notes import note
from graftwork.errors import TrainingError
from graftwork.kinds.registry import KINDS
from graftwork.kinds.scores import of_task
from graftwork.models.outputs import RowSample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset
    from numpy.typing import NDArray
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from graftwork.data.images.reader import InputReader
    from graftwork.kinds.heads import TaskHead
    from graftwork.models.outputs import Outputs

__all__ = ["StalledCallback", "guessed_loss", "spreads"]

ROWS = 256
"""Training rows of all tasks together that are looked at."""
LOST = 0.1
"""Part of the spread before training below which a task's rows count as alike. On the suite, after 112 steps,
a run that learned had 1.4 to 9.5 times the spread, one that was ruined .004 to .7, in the median .04."""


class StalledCallback(TrainerCallback):
    """Looks, after the warm-up and once more, whether the model still tells rows apart as its backbone did.

    At a rate that is too high adapters grow until they drown what the backbone says of a row: rows of a task
    get nearly the same outputs, the loss stays at that of guessing, and nothing brings it back. A run is
    ruined if more than half of its tasks have lost nine tenths of the spread of their outputs (`spreads`).
    Nothing random is drawn but by noise in the model, so that training goes on as it would without; under
    such noise `graftwork.training.run.train` leaves the callback out. A run that goes on from a checkpoint is
    compared with that checkpoint, so that one which was ruined before it is not noticed.

    Args:
        heads: the tasks.
        tokens: training rows.
        tokenizer: pads them.
        at: fractions of the run after which to look.
        stop: end such a run; else say so and go on.
        seed: of the choice of rows.

    Raises:
        TrainingError: in `on_step_end`, if the run is ruined and `stop`.
    """

    def __init__(
        self,
        heads: Sequence[TaskHead],
        tokens: Dataset,
        tokenizer: InputReader,
        *,
        at: Sequence[float],
        stop: bool,
        seed: int = 0,
    ) -> None:
        self.heads = tuple(heads)
        self.tokens = tokens
        self.tokenizer = tokenizer
        self.at = tuple(at)
        self.stop = stop
        self.seed = seed
        self._steps: list[int] = []
        self._before: list[float] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look what the backbone tells apart, unless the run goes on behind the last look."""
        steps = {max(1, round(share * state.max_steps)) for share in self.at}
        self._steps = sorted(step for step in steps if step > state.global_step)
        if self._steps:
            self._before = spreads(self._outputs(kwargs["model"]), self.heads)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look, if it is time."""
        if state.global_step not in self._steps:
            return
        outputs = self._outputs(kwargs["model"])
        now = spreads(outputs, self.heads)
        lost = sum(spread <= LOST * before for spread, before in zip(now, self._before, strict=True))
        if 2 * lost <= len(now):  # none, if the language model itself answers all tasks
            return
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        loss = f"the loss {losses[-1]:.3f}" if losses else "the loss"
        guessing = guessed_loss(outputs, self.heads)
        text = (
            f"nothing is learned: at step {state.global_step} the outputs of {lost} of {len(now)} tasks "
            f"hardly differ from row to row, and {loss} compares with {guessing:.3f} of guessing. The "
            f"learning rate {args.learning_rate:g} is too high for this model, which does not recover."
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


def spreads(outputs: Outputs, heads: Sequence[TaskHead]) -> list[float]:
    """For every task with two rows or more, how much its outputs differ over them.

    The largest deviation over the rows of any output, divided by 1 plus the mean size of the outputs.

    Args:
        outputs: of rows of several tasks.
        heads: the tasks.
    """
    logits, labels, rows = (part.numpy() for part in (outputs.logits, outputs.labels, outputs.rows))
    found = []
    for index, head in enumerate(heads):
        mine = rows == index
        if head.written:  # a loss that is learned is alike from row to row
            continue
        if mine.sum() > 1:
            own = KINDS[head.kind].pooled(*of_task(head, logits[mine], labels[mine]))
            found.append(float(own.std(axis=0).max() / (1.0 + np.abs(own).mean())))
    return found


def guessed_loss(outputs: Outputs, heads: Sequence[TaskHead]) -> float:
    """Mean loss over the rows if all rows of a task get the one answer that fits them best.

    Args:
        outputs: of rows of several tasks.
        heads: the tasks.
    """
    logits, labels, rows = (part.numpy() for part in (outputs.logits, outputs.labels, outputs.rows))
    total = 0.0
    for index, head in enumerate(heads):
        mine = rows == index
        if mine.any():
            own: NDArray[Any] = of_task(head, logits[mine], labels[mine])[1]
            total += len(own) * KINDS[head.kind].guessed_loss(own)
    return total / len(labels)
