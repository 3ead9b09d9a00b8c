from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from graftwork.data.splits import load_task
from graftwork.data.task import Task
from graftwork.data.tokens import collate
from graftwork.errors import DataError
from graftwork.finished import scoring
from graftwork.finished.scoring import Predictions, predictions
from graftwork.models.outputs import forward_rows
from graftwork.recipe.loading import load_recipe
from toyrun import run_model, run_parts, write_run


def test_rows_in_pieces_are_those_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes, pairs and numbers, each routed by its place in the model: the scores are those of training."""
    recipe = load_recipe(write_run(tmp_path))
    tokens, tokenizer, heads = run_parts(tmp_path)
    model = run_model(tmp_path, heads)
    expected = forward_rows(model, tokens["test"], collate(tokenizer)).scores(model)
    monkeypatch.setattr(scoring, "CHUNK", 20)
    monkeypatch.setattr(scoring, "STEP", 7)
    for task, head in list(zip(recipe.tasks, heads, strict=True))[::-1]:
        rows = load_task(task).splits["test"]
        steps: list[int] = []
        found = predictions(model, tokenizer, head, rows, 16, steps.append)
        assert found.score() == pytest.approx(expected[head.name], abs=1e-6)
        assert steps == [7, 7, 6, 7, 7, 6, 7, 1]
        if head.kind == "regression":
            np.testing.assert_allclose(found.in_units()[1], rows.targets, rtol=1e-6)
        else:
            assert found.expected.tolist() == rows.targets.tolist()


def test_outputs_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    recipe = load_recipe(write_run(tmp_path))
    _, tokenizer, heads = run_parts(tmp_path)
    model = run_model(tmp_path, heads)
    with torch.no_grad():
        model.heads.bias[0, 1] = float("nan")
    rows = load_task(recipe.tasks[0]).splits["test"]
    with pytest.raises(DataError, match="no finite outputs for task 'colour'; its weights are damaged"):
        predictions(model, tokenizer, heads[0], rows, 16)


def test_rows_that_are_all_alike_are_said() -> None:
    classes = Task("t", metric="matthews").head(("a", "b"))
    ones, both = np.array([1, 1]), np.array([0, 1])
    assert Predictions(classes, both, both).one_value() is None
    assert Predictions(classes, ones, both).one_value() is None
    alike = Predictions(classes, ones, ones)
    assert alike.score() == 0
    assert alike.one_value() == (
        "all 2 rows of task 't' have the class 'b'; matthews is then 0 whatever the model says"
    )
    numbers = Task("t", kind="regression").head(mean=2.0, std=0.5)
    said = Predictions(numbers, np.array([0.0, 1.0]), np.array([1.0, 1.0])).one_value()
    assert (
        said == "all 2 rows of task 't' have the score 2.5; correlations are then 0 whatever the model says"
    )
    said = Predictions(numbers, np.array([1.0, 1.0]), np.array([0.0, 1.0])).one_value()
    assert said == "the model gives all rows of task 't' the same score; correlations are then 0"
