"""The second text of a row that is read separately: its tokens stand beside those of the first.

Its columns have the names of the tokenizer's with `second_` before them; they are empty in rows that are one
sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork.data.encoding.windows import PLACES, WINDOWS

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray
    from torch import Tensor

    from graftwork.kinds.heads import TaskHead

__all__ = [
    "SECOND",
    "SECOND_IDS",
    "add_empty_",
    "both",
    "pad_both",
    "separate_modes",
    "sequences",
    "texts_as_tokens",
    "two_lengths",
    "with_itself",
]

SECOND = "second_"
"""What the names of the columns of a second text begin with."""
SECOND_IDS = f"{SECOND}input_ids"
"""Column of its tokens."""


def both(first: Mapping[str, list[Any]], second: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The columns of first texts, and those of second texts under their names."""
    return {**first, **{f"{SECOND}{name}": values for name, values in second.items()}}


def add_empty_(columns: dict[str, list[Any]]) -> None:
    """Give rows of one sequence the columns of second texts, in place."""
    if SECOND_IDS not in columns:
        own = {name: values for name, values in columns.items() if name not in (WINDOWS, PLACES)}
        columns |= both({}, {name: [[] for _ in values] for name, values in own.items()})


def sequences(row: Mapping[str, Any]) -> int:
    """How many sequences a row is."""
    return 2 if len(row.get(SECOND_IDS, ())) else 1


def texts_as_tokens(row: Mapping[str, Any]) -> tuple[Sequence[int], ...]:
    """The tokens of each sequence of a row."""
    return (row["input_ids"], row[SECOND_IDS]) if sequences(row) == 2 else (row["input_ids"],)


def two_lengths(dataset: Dataset, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of every row the tokens of its longer text, given those of the first."""
    import pyarrow.compute  # type: ignore[import-untyped]

    if SECOND_IDS not in dataset.column_names:
        return lengths
    second = pyarrow.compute.list_value_length(dataset.data.column(SECOND_IDS))
    return np.maximum(lengths, np.asarray(second.to_numpy(), dtype=np.int64))


def pad_both(
    features: Sequence[Mapping[str, Any]],
    pad: Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Pad first and second texts to one length, so that they can be rows of one batch.

    A row of one sequence gets a second one of its first token alone, which nobody reads: attention over
    padding alone has no finite values.

    Args:
        features: rows, some of which are two sequences.
        pad: pads rows of one sequence.
    """
    names = [name for name in features[0] if f"{SECOND}{name}" in {key for row in features for key in row}]
    second = [
        {name: row[f"{SECOND}{name}"] if sequences(row) == 2 else row[name][:1] for name in names}
        for row in features
    ]
    padded = pad([*({name: row[name] for name in names} for row in features), *second])
    rows = len(features)
    return {name: values[:rows] for name, values in padded.items()} | {
        f"{SECOND}{name}": values[rows:] for name, values in padded.items()
    }


def with_itself(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Padded rows of one sequence, each as its own second text, for passes that need some text there."""
    return {**batch, **{f"{SECOND}{name}": values for name, values in batch.items()}}


def separate_modes(heads: Sequence[TaskHead]) -> list[list[str]]:
    """How the pairs of every task are read, for the key of a cache; nothing if all are one sequence."""
    return [[head.pairs for head in heads]] if any(head.separate for head in heads) else []
