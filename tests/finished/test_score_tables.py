from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from graftwork.finished.score_tables import confusions, print_scores
from graftwork.kinds.scoring.figures import class_figures


def printed(labels: tuple[str, ...], predicted: Any, expected: Any, width: int = 80) -> str:
    sink = io.StringIO()
    details = class_figures(labels, np.asarray(predicted), np.asarray(expected))
    task = {"metric": "accuracy", "score": 0.5, "rows": len(expected), "details": details}
    scores = {"split": "test", "data": None, "tasks": {"topic": task}, "notes": []}
    print_scores(scores, Path("out"), Console(file=sink, width=width))
    return sink.getvalue()


def test_a_small_matrix_is_printed_whole() -> None:
    out = printed(("cat", "dog"), [0, 1, 1, 1], [0, 0, 1, 1])
    assert "topic: confusion matrix" in out
    assert "1 cat" in out
    assert "2 dog" in out


@pytest.mark.parametrize(("classes", "width"), [(150, 400), (25, 80)])
def test_of_a_wide_matrix_the_largest_confusions_are_listed(classes: int, width: int) -> None:
    """Of many classes, or where a column would be cut: a number that is cut is another number."""
    labels = tuple(f"intent {i}" for i in range(classes))
    expected = np.repeat(np.arange(classes), 4)
    predicted = expected.copy()
    predicted[:3] = 7
    predicted[4] = 9
    out = printed(labels, predicted, expected, width)
    assert "confusion matrix" not in out
    assert "the largest 2 of 2 confusions" in out
    lines = [line for line in out.splitlines() if "75%" in line or "25%" in line]
    assert len(lines) == 2
    assert "intent 0" in lines[0]
    assert "intent 7" in lines[0]
    assert "intent 1" in lines[1]
    assert len([line for line in out.splitlines() if "intent" in line]) == classes + 2


def test_25_classes_fit_a_wide_terminal() -> None:
    labels = tuple(f"intent {i}" for i in range(25))
    assert "confusion matrix" in printed(labels, np.arange(25), np.arange(25), width=200)


def test_labels_are_no_markup() -> None:
    assert "[red]" in printed(("[red]", "b"), [0, 1], [0, 0])


def test_confusions_are_in_order_of_their_size() -> None:
    found = confusions(("a", "b", "c"), [[5, 2, 0], [2, 0, 3], [0, 0, 9]])
    assert found == [("b", "c", 3, 0.6), ("b", "a", 2, 0.4), ("a", "b", 2, 2 / 7)]
