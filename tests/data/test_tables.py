"""Rows of Python programs become the rows that a file would give."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import datasets
import numpy as np
import pandas
import pytest

from graftwork.data.splits import load_task
from graftwork.data.tables import given_rows, is_table, splits_of
from graftwork.data.task import Task
from graftwork.errors import DataError

ROWS = [{"text": f"{word} {i}", "label": word, "n": i} for i in range(20) for word in ("red", "blue")]


def test_all_forms_give_the_same_rows() -> None:
    forms = [ROWS, tuple(ROWS), pandas.DataFrame(ROWS), datasets.Dataset.from_list(ROWS)]
    assert [given_rows(form, "t", "train").rows for form in forms] == [ROWS] * 4


def test_numbers_of_numpy_become_plain() -> None:
    rows: list[dict[str, Any]] = [{"text": "a", "label": np.int64(1)}, {"text": "b", "label": np.bool_(True)}]
    assert [type(row["label"]) for row in given_rows(rows, "t", "train").rows] == [int, bool]
    frame = pandas.DataFrame({"label": np.array([1, 2], dtype=np.int32), "x": np.array([0.5, np.nan])})
    assert given_rows(frame, "t", "train").rows == [{"label": 1, "x": 0.5}, {"label": 2, "x": None}]


def test_what_is_missing_in_a_frame_is_null() -> None:
    frame = pandas.DataFrame({"text": ["a", None], "label": pandas.array([1, pandas.NA], dtype="Int64")})
    assert given_rows(frame, "t", "train").rows[1] == {"text": None, "label": None}


def test_a_selected_and_shuffled_data_set_has_the_rows_it_shows() -> None:
    data = datasets.Dataset.from_list(ROWS).shuffle(seed=1).select(range(5))
    assert given_rows(data, "t", "train").rows == list(data)


def test_class_labels_are_named() -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    data.set_format("numpy")
    assert [row["label"] for row in given_rows(data, "t", "train").rows] == ["yes", "no"]


def test_what_is_a_table() -> None:
    assert all(map(is_table, (ROWS, pandas.DataFrame(ROWS), datasets.Dataset.from_list(ROWS))))
    assert not any(map(is_table, ("data.csv", {"train": ROWS}, 3, None)))
    parts = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})
    assert list(splits_of(parts) or ()) == ["train"]
    assert splits_of({"train": ROWS}) is None


STREAM = datasets.IterableDataset.from_generator(lambda: iter(ROWS))
BAD = {
    "a text": (["a red stone"], "train of task 't': row 1 is 'a red stone', not a mapping of fields"),
    "a later row": ([ROWS[0], 3], "row 2 is 3, not a mapping"),
    "a set": ({1, 2}, r"\{1, 2\} is no rows; give a path, a list of mappings"),
    "columns twice": (pandas.DataFrame([[1, 2]], columns=["a", "a"]), "has the column 'a' twice"),
    "columns without names": (pandas.DataFrame([[1, 2]]), "has the column 0; names of columns are strings"),
    "a stream": (STREAM, r"a stream; give its rows as a list \(list\(stream\)\)"),
    "no columns": (datasets.Dataset.from_dict({}), "the Dataset has no columns"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_rows_is_refused(case: str) -> None:
    value, message = BAD[case]
    with pytest.raises(DataError, match=message):
        given_rows(value, "t", "train")


def test_faults_in_rows_name_the_row() -> None:
    rows = [*ROWS, {"text": 4, "label": "red"}]
    with pytest.raises(
        DataError, match=r"train of task 't': the list row 41: the text in 'text' is 4 \(int\)"
    ):
        load_task(Task("t", given_rows(rows, "t", "train")))
    with pytest.raises(DataError, match="the DataFrame row 1 has no field 'label'; its fields: text"):
        load_task(Task("t", given_rows(pandas.DataFrame({"text": ["a"]}), "t", "train")))
    with pytest.raises(DataError, match="test of task 't': the tuple has no rows"):
        load_task(Task("t", given_rows(ROWS, "t", "train"), test=given_rows((), "t", "test")))


def test_the_rows_stay_with_a_task() -> None:
    task = Task("t", given_rows(ROWS, "t", "train"))
    for same in (copy.deepcopy(task), dataclasses.replace(task, max_train=30)):
        assert same.train == "memory:t/train"
        assert len(load_task(same).splits["train"]) in (30, 32)


def test_their_name_alone_is_not_enough() -> None:
    with pytest.raises(
        DataError, match="memory:t/train are rows that were given in Python, which are not kept"
    ):
        load_task(Task("t", "memory:t/train"))
