"""Outputs of a saved model for the rows of one task, in bounded memory, and their score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork.data.encoding.notes import Long
from graftwork.data.encoding.windows import WINDOWS
from graftwork.data.tokens import CHUNK, collate, learned, row_length
from graftwork.errors import DataError
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.registry import KINDS
from graftwork.kinds.scores import of_task
from graftwork.kinds.scoring.metrics import score
from graftwork.models.outputs import BATCH, forward_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from graftwork.data.images.reader import InputReader
    from graftwork.data.task_data import Split
    from graftwork.models.multitask import MultiTaskModel

__all__ = ["Predictions", "predictions"]

STEP = 8 * BATCH
"""Rows between two steps of the progress bar."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions for the rows of one task: class indices, or the standardised scores that a head gives."""

    head: TaskHead
    predicted: NDArray[Any]
    expected: NDArray[Any]
    long: Long = field(default_factory=lambda: Long("given", 0, 0))
    """How many rows were longer than the model reads at once."""

    def score(self) -> float:
        """The score under the metric of the task."""
        return score(self.head.metric, self.predicted, self.expected)

    def in_units(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Predicted and expected, scores in the unit that they were given in."""
        kind = KINDS[self.head.kind]
        return kind.in_units(self.head, self.predicted), kind.in_units(self.head, self.expected)

    def one_value(self) -> str | None:
        """A note if all rows are alike, over which a score means little."""
        return KINDS[self.head.kind].says_little(self.head, self.predicted, self.expected)


def predictions(
    model: MultiTaskModel,
    tokenizer: InputReader,
    head: TaskHead,
    rows: Split,
    max_length: int,
    advance: Callable[[int], object] = lambda count: None,
    split: str = "given",
) -> Predictions:
    """Run rows of one task through a model: `CHUNK` rows are tokenised at a time, the longest go first.

    Memory is bounded, but for texts that are compared with those of other rows: the vectors of all are held.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        head: the task, one of the model's.
        rows: with the classes of the head.
        max_length: tokens of a row; longer ones are cut.
        advance: is told how many rows were done since the last time.
        split: what the rows are called.

    Raises:
        DataError: an output is not finite.
    """
    route = [known.name for known in model.heads.heads].index(head.name)
    make_batch = collate(tokenizer)
    kind = KINDS[head.kind]
    compared: list[Any] = [None] * len(rows)
    """Outputs of rows that are scored together."""
    predicted: list[Any] = [None] * len(rows)
    expected: list[Any] = [None] * len(rows)
    long = windows = 0
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        tokens, targets = learned(tokenizer, head, rows, part, max_length)
        made = [{name: values[i] for name, values in tokens.items()} for i in range(len(targets))]
        lengths = [row_length(row) for row in made]
        several = [len(own) for own in tokens.get(WINDOWS, ()) if len(own) > 1]
        windows += sum(several)
        long += len(several) if head.stride is not None else sum(length >= max_length for length in lengths)
        order = np.argsort([-length for length in lengths], kind="stable")
        for first in range(0, len(order), STEP):
            picked = order[first : first + STEP]
            batch = [made[i] | {"labels": targets[i], "graft_rows": route} for i in picked]
            given = forward_rows(model, batch, make_batch)
            outputs, own = of_task(head, given.logits.numpy(), given.labels.numpy())
            if not np.isfinite(outputs).all():
                raise DataError(
                    f"the model gives no finite outputs for task {head.name!r}; its weights are damaged."
                )
            if head.compared:
                for i, row in zip(start + picked, outputs, strict=True):
                    compared[i] = row
            else:
                for i, told, true in zip(start + picked, *kind.scored(head, outputs, own), strict=True):
                    predicted[i], expected[i] = told, true
            advance(len(picked))
    if head.compared:
        predicted, expected = map(list, kind.scored(head, np.stack(compared), rows.targets))
    # Targets were standardised in single precision, as in training: ties, and so the score, are the same.
    counts = Long(split, len(rows), long, windows)
    return Predictions(head, kind.column(predicted), kind.column(expected), counts)
