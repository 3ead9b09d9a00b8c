"""Noise in labels and rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from graftwork.data.splits import content_hash
from graftwork.errors import DataError
from graftwork.noise.applying import apply_to_task
from graftwork.noise.kinds import Noise
from noisy import SENTENCES, toy_data


@pytest.mark.parametrize("classes", [2, 5])
def test_label_noise_gives_another_class(classes: int) -> None:
    data = toy_data([f"{i} {text}" for text in SENTENCES for i in range(5)], classes=classes)
    noisy, report = apply_to_task(data, Noise("labels", 0.2))
    before, after = data.splits["train"].targets, noisy.splits["train"].targets
    assert report.realised["train"] == (before != after).mean() == pytest.approx(0.2, abs=1 / len(before))
    assert set(after) == set(range(classes))
    steps = Counter(((after - before) % classes)[before != after].tolist())
    assert min(steps.values()) > 0.7 * max(steps.values())
    assert len(steps) == classes - 1
    assert noisy.splits["train"].texts == data.splits["train"].texts
    head, texts = data.head, data.splits["train"].texts
    assert noisy.splits["train"].sha256 == content_hash(texts, after, head.kind, head.labels)


def test_label_noise_permutes_scores() -> None:
    data = toy_data(scores=True)
    noisy, report = apply_to_task(data, Noise("labels", 0.3))
    before, after = data.splits["train"].targets, noisy.splits["train"].targets
    assert sorted(before) == sorted(after)
    assert report.realised["train"] == (before != after).mean() == pytest.approx(0.3, abs=1 / len(before))
    assert noisy.head == data.head


def test_label_noise_reaches_equal_rows() -> None:
    data = toy_data(["the same"] * 60)
    _, report = apply_to_task(data, Noise("labels", 0.25))
    assert report.realised["train"] == 0.25


@pytest.mark.parametrize("kind", ["labels", "row_drop"])
def test_more_noise_hits_the_rows_that_less_does(kind: Any) -> None:
    data = toy_data()
    little, much = (apply_to_task(data, Noise(kind, ratio))[0].splits["train"] for ratio in (0.1, 0.4))
    if kind == "row_drop":
        assert set(much.texts[0]) < set(little.texts[0])
    else:
        hit = little.targets != data.splits["train"].targets
        assert (much.targets[hit] == little.targets[hit]).all()


def test_row_drop_thins_the_training_rows() -> None:
    data = toy_data(pair=True)
    noisy, report = apply_to_task(data, Noise("row_drop", 0.75))
    rows = len(data.splits["train"])
    left = noisy.splits["train"]
    assert len(left) == rows - round(0.75 * rows)
    assert report.realised["train"] == 1 - len(left) / rows
    everything = list(zip(*data.splits["train"].texts, data.splits["train"].targets, strict=True))
    kept = list(zip(*left.texts, left.targets, strict=True))
    assert kept == [row for row in everything if row in kept], "in their order"
    assert left.sha256 == content_hash(left.texts, left.targets, data.head.kind, data.head.labels)


def test_row_drop_scales_the_scores_that_are_left() -> None:
    noisy, _ = apply_to_task(toy_data(scores=True), Noise("row_drop", 0.5))
    targets = noisy.splits["train"].targets
    assert noisy.head.mean == targets.mean()
    assert noisy.head.std == targets.std()


@pytest.mark.parametrize(("scores", "what"), [(False, "classes"), (True, "different scores")])
def test_row_drop_leaves_something_to_learn(scores: bool, what: str) -> None:
    data = toy_data(scores=scores)
    with pytest.raises(
        DataError, match=rf"'toy': row_drop noise of 1 leaves 0 of \d+ rows, without two {what}"
    ):
        apply_to_task(data, Noise("row_drop", 1.0))
