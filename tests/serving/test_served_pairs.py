"""Pairs that are read separately, beside texts and pairs that are one sequence, asked of a server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import graftwork as gw
from graftwork.kinds.answers import Answers
from graftwork.kinds.heads import TaskHead
from graftwork.serving.asking import read_all, read_tasks
from graftwork.serving.backbones import Backbones
from graftwork.serving.engine import Engine
from graftwork.serving.limits import Limits
from graftwork.serving.tasks import TaskSet, load_part
from toy_served import MOOD, PAIR, PLACES, SIZE, TRUE, rows_of, write_served
from toyrun import WORDS, write_backbone

ALONE = replace(PAIR, name="alone", pairs="separate")
NEAR = TaskHead(
    "near", ("first", "second"), "score", "regression", "spearman", (), 2.0, 3.0, pairs="separate"
)
BOTH = TaskHead("both", ("first", "second"), "label", "multilabel", "micro_f1", ("a", "b"), pairs="separate")

FOUND = TaskHead("found", ("first", "second"), "label", "retrieval", "mrr", pairs="separate")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pairs")
    backbone = write_backbone(folder / "backbone")
    return [
        write_served(folder / "one", backbone, [MOOD, ALONE, PAIR, NEAR, PLACES]),
        write_served(folder / "two", backbone, [BOTH, TRUE, FOUND, SIZE], seed=1),
    ]


def asked() -> list[dict[str, str]]:
    """Rows that every task can read, of different length."""
    return [
        {
            "text": " ".join(WORDS[: 1 + i % 6]),
            "first": " ".join(WORDS[i % 3 : i % 3 + 1 + i % 4]),
            "second": " ".join(WORDS[(2 * i) % 5 : (2 * i) % 5 + 1 + (3 * i) % 5]),
        }
        for i in range(9)
    ]


def close(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            close(found[key], value)
        else:
            assert found[key] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value)


@pytest.mark.parametrize("batch_size", [64, 3])
def test_one_pass_for_all_tasks_says_what_each_says_alone(folders: list[Path], batch_size: int) -> None:
    predictor = gw.load(folders[0], batch_size=batch_size)
    for row, answer in zip(asked(), predictor.predict_all(asked()), strict=True):
        assert set(answer["answers"]) == set(predictor.heads)
        for name, found in answer["answers"].items():
            (alone,) = predictor.predict([row], task=name)
            if "spans" not in found:
                close(found, alone)
    mixed = [{"task": name, **row} for row in asked() for name in predictor.heads]
    for row, found in zip(mixed, predictor.predict(mixed), strict=True):
        (alone,) = predictor.predict([row])
        if "spans" not in found:
            close(found, alone)


def test_a_server_answers_as_the_models_do(folders: list[Path]) -> None:
    backbones = Backbones()
    tasks = TaskSet([load_part(folder, backbones) for folder in folders], backbones)
    assert len(tasks.groups) == 1
    alone = {name: gw.load(folder) for folder in folders for name in gw.load(folder).heads}
    engine = Engine(Limits())
    engine.start()
    try:
        every = read_all(tasks, asked(), None, Answers())
        one = read_tasks(tasks, rows_of(ALONE, 5), "alone", Answers())
        for reading, name in ((every, None), (one, "alone")):
            job = engine.admit(len(reading.rows))
            engine.put(job, reading.questions)
            rows = asked() if name is None else rows_of(ALONE, 5)
            said = reading.described(job.future.result(timeout=60))
            for row, answers in zip(rows, said, strict=True):
                for task, found in answers.items():
                    if "spans" not in found:
                        close(found, alone[task].predict([row], task=task)[0])
    finally:
        engine.stop(10)
    both = [ids for row in rows_of(ALONE, 5) for ids in _tokens(tasks, row)]
    assert one.tokens == sum(map(len, both))


def _tokens(tasks: TaskSet, row: Any) -> list[list[int]]:
    tokenizer = tasks.tasks["alone"].group.tokenizer
    return [tokenizer(text)["input_ids"] for text in row]
