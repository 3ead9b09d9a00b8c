"""Rows as people have them: texts, pairs of texts, or mappings, and never the letters of a text."""

from __future__ import annotations

from pathlib import Path

import pytest

import graftwork as gw
from graftwork.errors import CheckpointError, DataError
from graftwork.fitting.fit import fit
from graftwork.recipe.loading import load_recipe
from toyrun import write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predictor")
    fit(load_recipe(write_run(folder)))
    return folder / "out"


def test_texts_and_pairs_are_rows(folder: Path) -> None:
    predictor = gw.load(folder)
    texts = ["stone river red", "cloud blue"]
    assert predictor.predict(texts, task="colour") == predictor.predict(
        [{"text": text} for text in texts], task="colour"
    )
    pairs = [("stone river", "stone lamp"), ["bird", "road lamp"]]
    named = [{"first": first, "second": second} for first, second in pairs]
    assert predictor.predict(pairs, task="same") == predictor.predict(named, task="same")
    mixed = [{"text": "stone red", "task": "colour"}, {"first": "a", "second": "b", "task": "same"}]
    assert [answer["task"] for answer in predictor.predict(mixed)] == ["colour", "same"]
    assert list(predictor.stream(iter(texts), "colour")) == predictor.predict(texts, "colour")


def test_what_is_no_row_of_the_task_is_refused(folder: Path) -> None:
    predictor = gw.load(folder)
    for rows, task, message in (
        ("stone red", "colour", r"rows is 'stone red', a single row; give a list of rows"),
        ({"text": "red"}, "colour", "a single row; give a list"),
        (["red"], "same", r"row 1 has 1 texts, but task 'same' reads 2 \(first, second\)"),
        ([("red", "blue")], "colour", r"row 1 has 2 texts, but task 'colour' reads 1 \(text\)"),
        (["red"], None, r"row 1 names no task; pass --task \(in Python task=\)"),
        (["red"], "color", "unknown task 'color'"),
        ([3], "colour", "row 1 is 3, not a text, a pair of texts or an object of fields"),
        ([None], "colour", "row 1 is None"),
        ([(1, 2)], "same", "row 1"),
    ):
        with pytest.raises(DataError, match=message):
            predictor.predict(rows, task)


def test_load_is_that_of_the_predictor(folder: Path, tmp_path: Path) -> None:
    assert gw.load(folder, batch_size=3).batch_size == 3
    with pytest.raises(CheckpointError, match="is not a model saved by"):
        gw.load(tmp_path)
