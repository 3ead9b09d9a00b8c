"""Batches that mix requests, and what happens when one of them is bad."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

import graftwork as gw
from graftwork.errors import DataError, ServingError
from graftwork.kinds.answers import Answers
from graftwork.models.all_tasks import ask
from graftwork.serving import engine as engines
from graftwork.serving.backbones import Backbones
from graftwork.serving.batching import Item, Job, choose
from graftwork.serving.engine import BusyError, ClosedError, Engine, Pass
from graftwork.serving.limits import Limits
from graftwork.serving.tasks import TaskSet, load_part
from toy_served import rows_of, write_folders

PATIENCE = 60


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_folders(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def tasks(folders: list[Path]) -> TaskSet:
    backbones = Backbones()
    return TaskSet([load_part(folder, backbones) for folder in folders], backbones)


@pytest.fixture
def passes() -> list[Pass]:
    return []


@pytest.fixture
def engine(passes: list[Pass]) -> Iterator[Engine]:
    engine = Engine(Limits(queue=256, wait=0.05), on_pass=passes.append)
    yield engine
    engine.stop(PATIENCE)


def asked(tasks: TaskSet, names: list[str], rows: list[Any]) -> list[Any]:
    """Questions of all these tasks about each row."""
    group = tasks.tasks[names[0]].group
    texts = [(row,) if isinstance(row, str) else tuple(row) for row in rows]
    questions = ask(group.tokenizer, [(text, tasks.heads(names)) for text in texts], group.model.max_length)
    return [(group, question) for question in questions]


def request(engine: Engine, tasks: TaskSet, names: list[str], rows: list[Any]) -> Any:
    job = engine.admit(len(rows))
    engine.put(job, asked(tasks, names, rows))
    return job.future


def test_requests_of_many_tasks_are_one_pass_and_answer_as_offline(
    folders: list[Path], tasks: TaskSet, engine: Engine, passes: list[Pass]
) -> None:
    alone = {name: gw.load(folder) for folder in folders for name in gw.load(folder).heads}
    names = ["mood", "pair", "size", "things", "places"]
    wanted = {name: rows_of(tasks.tasks[name].head, 4, start) for start, name in enumerate(names)}
    futures = {name: request(engine, tasks, [name], rows) for name, rows in wanted.items()}
    both = request(engine, tasks, ["mood", "size"], wanted["mood"])
    engine.start()
    for name, future in futures.items():
        expected = alone[name].predict(wanted[name], name)
        said = future.result(PATIENCE)
        for outputs, answer in zip(said, expected, strict=True):
            found = Answers().describe(tasks.tasks[name].head, outputs[name])
            assert str(found)[:20] == str(answer)[:20]
            check(found, answer)
    for outputs, row in zip(both.result(PATIENCE), wanted["mood"], strict=True):
        for name in ("mood", "size"):
            head = tasks.tasks[name].head
            check(Answers().describe(head, outputs[name]), alone[name].predict([row], name)[0])
    assert max(facts.tasks for facts in passes) == 5
    assert sum(facts.questions for facts in passes) == 24
    assert len(passes) <= 3
    assert engine.rows == 0


def check(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            check(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            check(one, other)
    else:
        assert found == (pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else expected)


def items(tasks: TaskSet, *sizes: int, name: str = "mood") -> list[Item]:
    rows = [" ".join(["red"] * (size - 2)) for size in sizes]
    return [Item(q, group, 1, Job(1), 0) for group, q in asked(tasks, [name], rows)]


def test_a_batch_keeps_to_its_limits_and_takes_the_oldest(tasks: TaskSet) -> None:
    waiting = items(tasks, 4, 4, 5, 4)
    assert choose(waiting, Limits()) == (waiting, False)
    assert choose(waiting, Limits(batch_rows=2)) == (waiting[:2], True)
    assert choose(waiting, Limits(batch_tokens=12)) == ([waiting[0], waiting[1], waiting[3]], True)
    assert choose(waiting, Limits(batch_tokens=1)) == (waiting[:1], True)
    # Other lengths wait for their like, if more than half of the pass would be padding.
    long = items(tasks, 3, 3, 3, 3, 16, 16)
    assert choose(long, Limits()) == (long[:4], True)
    assert choose(long[4:] + long[:4], Limits()) == (long[4:] + long[:3], True)
    # Of two models the one of the oldest question.
    other = items(tasks, 4, name="true")
    assert choose([other[0], *waiting], Limits()) == (other, False)


def test_a_full_queue_refuses_and_forgets_what_is_cancelled(tasks: TaskSet, engine: Engine) -> None:
    first = request(engine, tasks, ["mood"], ["red"] * 200)
    with pytest.raises(BusyError, match="queue is full; try again in 1 s") as busy:
        engine.admit(100)
    assert busy.value.after == 1
    second = request(engine, tasks, ["mood"], ["blue"] * 56)
    assert first.cancel()
    assert engine.rows == 56
    engine.start()
    assert len(second.result(PATIENCE)) == 56
    with pytest.raises(CancelledError):
        first.result(PATIENCE)
    assert engine.rows == 0


def test_a_bad_request_harms_no_other(
    tasks: TaskSet, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row with a token that the backbone has no embedding for fails in every pass that it is in."""
    good = [request(engine, tasks, ["mood"], ["red stone", "blue"]) for _ in range(3)]
    job = engine.admit(1)
    ((group, question),) = asked(tasks, ["mood"], ["red stone"])
    question.tokens["input_ids"][1] = 10**6
    engine.put(job, [(group, question)])
    good += [request(engine, tasks, ["mood"], ["red stone", "blue"]) for _ in range(3)]
    engine.start()
    said = [future.result(PATIENCE) for future in good]
    for one in said:
        check(one, said[0])
    with pytest.raises(DataError, match="cannot be passed through the backbone"):
        job.future.result(PATIENCE)
    assert engine.fault is None


def test_a_model_that_answers_no_more_is_the_end(
    tasks: TaskSet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    died = threading.Event()
    engine = Engine(Limits(), on_death=lambda error: died.set())
    monkeypatch.setattr(engines, "routed_pass", lambda *given: (_ for _ in ()).throw(RuntimeError("broken")))
    futures = [request(engine, tasks, ["mood"], ["red"]) for _ in range(3)]
    engine.start()
    assert died.wait(PATIENCE)
    assert isinstance(engine.fault, ServingError)
    for future in futures:
        with pytest.raises((RuntimeError, ClosedError)):
            future.result(PATIENCE)
    with pytest.raises(ClosedError, match="the engine is dead: a row that it could answer fails"):
        engine.admit(1)
    assert "broken" in capsys.readouterr().err


def test_numbers_that_are_not_finite_after_a_fault_are_the_end(tasks: TaskSet) -> None:
    group = tasks.tasks["true"].group
    weight = group.model.heads.weight
    kept = weight.detach().clone()
    try:
        weight.fill_(float("nan"))
        with pytest.raises(ServingError, match="no finite outputs"):
            engines._probe(group)
    finally:
        weight.copy_(kept)
    engines._probe(group)


def test_stopping_answers_what_is_in_and_lets_nothing_in(tasks: TaskSet) -> None:
    engine = Engine(Limits(wait=0.01))
    engine.start()
    read = engine.admit(1)  # let in, still being read
    future = request(engine, tasks, ["mood"], ["red"])
    stopper = threading.Thread(target=engine.stop)
    stopper.start()
    while not engine._closing:
        time.sleep(0.01)
    with pytest.raises(ClosedError, match="the server is ending"):
        engine.admit(1)
    assert future.result(PATIENCE)
    assert stopper.is_alive()
    engine.put(read, asked(tasks, ["mood"], ["blue"]))
    assert read.future.result(PATIENCE)
    stopper.join(PATIENCE)
    assert not stopper.is_alive()
    assert engine.fault is None
