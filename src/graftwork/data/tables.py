"""Rows from what Python programs hold them in: lists of mappings, DataFrames, data sets of `datasets`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from graftwork.data.memory import GivenRows
from graftwork.data.sources import dataset_rows
from graftwork.edges import library_errors
from graftwork.errors import DataError
from graftwork.messages import listed, shown

__all__ = ["given_rows", "is_table", "splits_of"]

FORMS = "a path, a list of mappings such as {'text': ..., 'label': ...}, a DataFrame, or a datasets.Dataset"
"""What the rows of a split may be given as, for messages."""


def is_table(value: object) -> bool:
    """Whether a value is rows: a list, a DataFrame or a data set, not a mapping of settings."""
    return isinstance(value, list | tuple) or _of(value, "pandas", "DataFrame") or _is_dataset(value)


def splits_of(value: object) -> Mapping[str, Any] | None:
    """The data sets of a `datasets.DatasetDict` by split; None for anything else.

    Raises:
        DataError: it is one of streams.
    """
    if _of(value, "datasets", "IterableDatasetDict"):
        raise DataError(f"{_streamed('IterableDatasetDict')}")
    return dict(value) if isinstance(value, Mapping) and _of(value, "datasets", "DatasetDict") else None


def given_rows(value: object, task: str, split: str) -> GivenRows:
    """The rows of one split of a task.

    Values of NumPy and pandas become plain ones; what is missing in a DataFrame becomes None, class labels of
    a data set become their names. What the rows must have is checked where files are, too.

    Args:
        value: a list of mappings, a DataFrame or a data set.
        task: name of the task.
        split: train, validation or test.

    Raises:
        DataError: it is none of these, or a row is no mapping.
    """
    try:
        if _of(value, "pandas", "DataFrame"):
            rows, what = _frame_rows(value), "the DataFrame"
        elif _is_dataset(value):
            rows, what = _dataset_rows(value), "the Dataset"
        elif isinstance(value, list | tuple):
            rows, what = _list_rows(value), f"the {type(value).__name__}"
        else:
            raise DataError(f"{shown(value)} is no rows; give {FORMS}")
    except DataError as error:
        raise DataError(f"{split} of task {shown(task)}: {error}") from None
    return GivenRows(task, split, rows, what)


def _of(value: object, package: str, name: str) -> bool:
    """Whether a value is of a class of a package, which is never imported for that."""
    found = getattr(sys.modules.get(package), name, None)
    return isinstance(found, type) and isinstance(value, found)


def _is_dataset(value: object) -> bool:
    return _of(value, "datasets", "Dataset") or _of(value, "datasets", "IterableDataset")


def _streamed(name: str) -> str:
    return f"an {name} is a stream; give its rows as a list (list(stream)), or load it without streaming"


def _list_rows(rows: Iterable[Any]) -> list[dict[str, Any]]:
    found = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise DataError(
                f"row {number} is {shown(row)}, not a mapping of fields such as {{'text': ..., 'label': ...}}"
            )
        found.append({key: _plain(value) for key, value in row.items()})
    return found


def _plain(value: Any) -> Any:
    """A scalar or an array of NumPy as Python has it; anything else as it is."""
    import numpy as np

    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value


def _frame_rows(frame: Any) -> list[dict[str, Any]]:
    names = list(frame.columns)
    odd = [name for name in names if not isinstance(name, str)]
    if odd:
        raise DataError(f"the DataFrame has the column {shown(odd[0])}; names of columns are strings")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"the DataFrame has the column {shown(twice[0])} twice; give each a name of its own")
    columns = {}
    for name in names:
        missing = frame[name].isna().tolist()
        values = zip(frame[name].tolist(), missing, strict=True)
        columns[name] = [None if absent else _plain(value) for value, absent in values]
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _dataset_rows(dataset: Any) -> list[dict[str, Any]]:
    if _of(dataset, "datasets", "IterableDataset"):
        raise DataError(_streamed("IterableDataset"))
    if not dataset.column_names:
        raise DataError("the Dataset has no columns")
    what = f"the Dataset cannot be read (its columns: {listed(dataset.column_names)})"
    with library_errors(what, DataError):
        return dataset_rows(dataset, "the Dataset").rows
