"""Vectors of rows: what the head of a task sees, whatever its kind and whatever stands beside a row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import graftwork as gw
from graftwork.errors import DataError
from graftwork.kinds.heads import TaskHead
from toy_served import MOOD, PAIR, PLACES, SIZE, THINGS, rows_of, write_served
from toyrun import write_backbone

NEAR = TaskHead(
    "near", ("first", "second"), "score", "regression", "spearman", (), 2.0, 3.0, pairs="separate"
)
FOUND = TaskHead("found", ("first", "second"), "label", "retrieval", "mrr", pairs="separate")
HEADS = [MOOD, PAIR, SIZE, THINGS, PLACES, NEAR, replace(PAIR, name="alone", pairs="separate"), FOUND]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> gw.Predictor:
    folder = tmp_path_factory.mktemp("vectors")
    write_served(folder / "model", write_backbone(folder / "backbone"), HEADS)
    return gw.load(folder / "model", batch_size=4)


@pytest.mark.parametrize("head", [MOOD, PAIR], ids=lambda head: head.name)
def test_the_head_on_a_vector_is_the_answer(predictor: gw.Predictor, head: TaskHead) -> None:
    rows = rows_of(head, 9)
    tensors = {name: value.numpy() for name, value in predictor.model.heads.export().items()}
    logits = (
        predictor.embed(rows, head.name) @ tensors[f"{head.name}.weight"].T + tensors[f"{head.name}.bias"]
    )
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    answers = predictor.predict(rows, task=head.name)
    assert np.allclose(odds, [list(answer["probabilities"].values()) for answer in answers], atol=1e-5)


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
def test_every_kind_has_vectors_that_do_not_depend_on_other_rows(
    predictor: gw.Predictor, head: TaskHead
) -> None:
    rows = rows_of(MOOD if head.separate else head, 9)
    found = predictor.embed(rows, head.name)
    assert found.shape == (9, 32)
    assert found.dtype == np.float32
    assert np.abs(found[1:] - found[:-1]).max() > 0.01
    for row, vector in zip(rows, found, strict=True):
        assert np.allclose(predictor.embed([row], head.name)[0], vector, atol=1e-5)


def test_a_similarity_is_a_function_of_two_vectors(predictor: gw.Predictor) -> None:
    rows = rows_of(NEAR, 9)
    u, v = (predictor.embed([row[side] for row in rows], "near") for side in (0, 1))
    cosine = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    # An untrained head is the cosine, scaled, but for the noise that `write_served` puts into its first part.
    weight = predictor.model.heads.export()["near.weight"].numpy()[0]
    expected = u @ weight[:32] + 12**0.5 * (cosine - 0.5)
    scores = [answer["score"] for answer in predictor.predict(rows, task="near")]
    assert np.allclose(expected * 3.0 + 2.0, scores, atol=1e-4)


def test_what_has_no_vector_is_refused(predictor: gw.Predictor) -> None:
    with pytest.raises(DataError, match=r"there are no rows to embed; give at least one"):
        predictor.embed([], "mood")
    with pytest.raises(DataError, match=r"row 2 has 2 texts, but task 'near' reads 1"):
        predictor.embed(["red stone", ("red", "stone")], "near")
    with pytest.raises(DataError, match=r"names no task"):
        predictor.embed(["red stone"])
    with pytest.raises(DataError, match=r"unknown task 'moods'"):
        predictor.embed(["red stone"], "moods")


def test_the_vector_of_a_task_is_that_of_its_own_path(predictor: gw.Predictor) -> None:
    rows = rows_of(MOOD, 5)
    assert not np.allclose(predictor.embed(rows, "mood"), predictor.embed(rows, "size"), atol=1e-3)
