from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from graftwork.data.classes import check_rows, class_notes
from graftwork.data.task import Task
from graftwork.data.task_data import Split, TaskData
from graftwork.errors import DataError, RecipeError
from graftwork.kinds.classification import class_weights
from graftwork.kinds.heads import TaskHead

TASK = Task("t", "train.jsonl")


def check(names: list[str], texts: list[str] | None = None, **settings: Any) -> None:
    check_rows(Task("t", "train.jsonl", **settings), [texts or ["a text"] * len(names)], names)


INTENTS = [f"card payment number {i} was not recognised" for i in range(150)]


@pytest.mark.parametrize(
    "labels",
    [
        INTENTS * 10,
        INTENTS[:77] * 2,
        [f"class {i}" for i in range(30)] * 2,
        [str(i) for i in range(150)] * 10,
        [str(i / 2) for i in range(10)] * 10,
        [f"{i}" for i in range(19)],
        INTENTS[:19],
        ["yes", "no"] * 10,
    ],
)
def test_many_classes_with_few_rows_are_classes(labels: list[str]) -> None:
    check(labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (INTENTS[:20], "20 of 20 labels in 'label' are different, such as 'card payment number 0"),
        (INTENTS[:20] * 2 + INTENTS[20:50], "50 of 70 labels .* look like sentences"),
        ([str(i) for i in range(15)] + ["1"] * 10, "15 of 25 labels .* are numbers: set kind: regression"),
        ([f"{i / 7:.3f}" for i in range(25)] * 9, "25 of 225 labels .* are numbers: set kind: regression"),
        ([f"a{i}" for i in range(19)] + ["a0"], "19 of 20 labels .* too many for classes"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        check(labels)
    assert "list them as labels:" in str(caught.value)
    check(labels, labels=("x", "y"))
    check(labels, kind="regression")


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("a/b.png", True),
        ("IMG_1.JPEG", True),
        ("my photos\\a b.jpg", True),
        ("https://example.org/x.webp", True),
        ("clip.mp4", True),
        ("look at photo.png", False),
        ("a/b.png is nice", False),
        ("png", False),
        ("x" * 400 + ".png", False),
    ],
)
def test_paths_of_images_are_no_texts(text: str, refused: bool) -> None:
    texts = [text] * 6 + ["a text"] * 4
    if not refused:
        check(["a"] * 10, texts)
        return
    with pytest.raises(DataError, match=r"6 of 10 texts in 'text' are paths of (images|films), such as"):
        check(["a"] * 10, texts)
    check(["a"] * 10, [text] * 5 + ["a text"] * 5)


def data(counts: list[int], **settings: Any) -> TaskData:
    labels = tuple("abcdefgh"[: len(counts)])
    targets = np.repeat(np.arange(len(counts)), counts).astype(np.float64)
    task = dataclasses.replace(TASK, **settings)
    head = task.head(labels, class_weights=class_weights(task, labels, targets))
    return TaskData(head, {"train": Split((["x"] * len(targets),), targets, "")})


def test_uneven_classes_are_named_with_their_rows() -> None:
    (note,) = class_notes(data([1000, 90, 40]))
    assert note.startswith("task 't': of the 1,130 train rows 1,000 are 'a' and 40 'c'; metric: macro_f1")
    assert "class_weights: balanced" in note
    (note,) = class_notes(data([1000, 40], metric="macro_f1"))
    assert "macro_f1" not in note
    assert class_notes(data([1000, 40], metric="macro_f1", class_weights="balanced")) == []
    assert class_notes(data([390, 40])) == []


def test_classes_with_hardly_a_row_are_named() -> None:
    (note,) = class_notes(data([20, 4, 20, 3]))
    assert "fewer than 5 belong to each of 2 classes ('b' 4, 'd' 3)" in note
    assert len(class_notes(data([60, 0]))) == 2
    assert class_notes(TaskData(TaskHead("n", ("text",), "label", "regression", "spearman"), {})) == []


@pytest.mark.parametrize("setting", ["balanced", {"b": 5.0}, {"a": 2.0, "b": 2.0, "c": 2.0}])
def test_weights_leave_the_mean_over_the_train_rows_at_one(setting: str | Mapping[str, float]) -> None:
    counts = np.array([60, 30, 10])
    weights = np.array(data(list(counts), class_weights=setting).head.class_weights)
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    if setting == "balanced":
        assert weights == pytest.approx(100 / (3 * counts))
    elif len(setting) == 1:
        assert weights[1] / weights[0] == pytest.approx(5)
    else:
        assert weights == pytest.approx(1)


def test_a_class_without_rows_has_a_finite_weight() -> None:
    assert data([10, 0, 5], class_weights="balanced").head.class_weights == pytest.approx((0.75, 1.5, 1.5))


@pytest.mark.parametrize(
    "settings",
    [
        {"class_weights": "even"},
        {"class_weights": {}},
        {"class_weights": {"a": 0}},
        {"class_weights": {"a": float("nan")}},
        {"class_weights": {"a": 1e9}},
        {"class_weights": "balanced", "kind": "regression"},
    ],
)
def test_weights_that_weigh_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="class_weights"):
        Task("t", **settings)


def test_a_weight_of_an_unknown_class_is_refused() -> None:
    with pytest.raises(DataError, match="class_weights of task 't' has 'z'; its classes are a, b"):
        data([5, 5], class_weights={"z": 2.0})
