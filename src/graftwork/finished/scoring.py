"""Outputs of a saved model for the rows of one task, in bounded memory, and their score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork.data.tokens import CHUNK, collate, encode
from graftwork.errors import DataError
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.scores import score
from graftwork.models.outputs import BATCH, forward_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

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

    def score(self) -> float:
        """The score under the metric of the task."""
        return score(self.head.metric, self.predicted, self.expected)

    def in_units(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Predicted and expected, scores in the unit that they were given in."""
        if self.head.labels:
            return self.predicted, self.expected
        both = (self.predicted, self.expected)
        predicted, expected = (values.astype(np.float64) * self.head.std + self.head.mean for values in both)
        return predicted, expected

    def one_value(self) -> str | None:
        """A note if all rows have one class, over which a score means little."""
        head, what = self.head, f"all {len(self.expected):,} rows of task {self.head.name!r} have the"
        if np.ptp(self.expected) == 0:
            if head.labels:
                zero = "; matthews is then 0 whatever the model says" * (head.metric == "matthews")
                return f"{what} class {head.labels[int(self.expected[0])]!r}{zero}"
            value = float(self.in_units()[1][0])
            return f"{what} score {value:g}; correlations are then 0 whatever the model says"
        if not head.labels and np.ptp(self.predicted) == 0:
            return f"the model gives all rows of task {head.name!r} the same score; correlations are then 0"
        return None


def predictions(
    model: MultiTaskModel,
    tokenizer: PreTrainedTokenizerBase,
    head: TaskHead,
    rows: Split,
    max_length: int,
    advance: Callable[[int], object] = lambda count: None,
) -> Predictions:
    """Run rows of one task through a model: `CHUNK` rows are tokenised at a time, the longest go first.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        head: the task, one of the model's.
        rows: with the classes of the head.
        max_length: tokens of a row; longer ones are cut.
        advance: is told how many rows were done since the last time.

    Raises:
        DataError: an output is not finite.
    """
    route = [known.name for known in model.heads.heads].index(head.name)
    make_batch = collate(tokenizer)
    kind = np.int64 if head.labels else np.float32
    predicted = np.empty(len(rows), dtype=kind)
    for start in range(0, len(rows), CHUNK):
        tokens = encode(tokenizer, [column[start : start + CHUNK] for column in rows.texts], max_length)
        order = np.argsort([-len(ids) for ids in tokens["input_ids"]], kind="stable")
        for first in range(0, len(order), STEP):
            picked = order[first : first + STEP]
            batch = [
                {**{name: values[i] for name, values in tokens.items()}, "labels": 0.0, "graft_rows": route}
                for i in picked
            ]
            outputs = forward_rows(model, batch, make_batch).logits[:, : head.size].numpy()
            if not np.isfinite(outputs).all():
                raise DataError(
                    f"the model gives no finite outputs for task {head.name!r}; its weights are damaged."
                )
            predicted[start + picked] = outputs.argmax(axis=1) if head.labels else outputs[:, 0]
            advance(len(picked))
    # Standardised in single precision, as in training, so that ties and with them the score are the same.
    expected = ((rows.targets - head.mean) / head.std).astype(kind)
    return Predictions(head, predicted, expected)
