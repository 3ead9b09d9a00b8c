"""What is answered over HTTP, and what is refused in one line."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import graftwork as gw
from graftwork.serving import engine as engines
from graftwork.serving.engine import Engine
from graftwork.serving.limits import Limits
from graftwork.serving.service import Service, load_tasks
from graftwork.serving.web.app import make_app
from graftwork.serving.web.door import Door
from graftwork.serving.web.metrics import Metrics
from toy_served import MOOD, PAIR, rows_of, write_folders, write_served

testclient = pytest.importorskip("starlette.testclient")
LIMITS = Limits(rows=8, queue=16, characters=200, body=4000, timeout=20)
KEY = {"authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_folders(tmp_path_factory.mktemp("app"))


@pytest.fixture(scope="module")
def alone(folders: list[Path]) -> dict[str, gw.Predictor]:
    predictors = [gw.load(folder) for folder in folders]
    return {name: predictor for predictor in predictors for name in predictor.heads}


def client_of(folders: list[Path], models: Path | None = None, limits: Limits = LIMITS) -> Any:
    tasks, backbones = load_tasks(folders, {})
    metrics = Metrics()
    engine = Engine(limits, on_pass=metrics.count_pass)
    service = Service(tasks, backbones, engine, models)
    metrics.watch(lambda: engine.rows, lambda: len(service.tasks.tasks), lambda: engine.fault is None)
    app = make_app(service, metrics, "secret")
    paths = {route.path for route in app.routes if hasattr(route, "path")}
    door = Door(app, body=limits.body, seconds=limits.timeout, paths=paths, count=metrics.count_request)
    engine.start()
    client = testclient.TestClient(door, raise_server_exceptions=False)
    client.service = service
    return client


@pytest.fixture(scope="module")
def client(folders: list[Path]) -> Iterator[Any]:
    client = client_of(folders)
    yield client
    client.service.close()


def line(answer: Any, status: int) -> str:
    """The one line of a refusal."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == status
    assert "\n" not in error["message"]
    return str(error["message"])


def close(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            close(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            close(one, other)
    else:
        assert found == (pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else expected)


@pytest.mark.parametrize("path", ["/classify", "/v1/classify"])
def test_classes_are_answered_as_vllm_does(client: Any, alone: dict[str, gw.Predictor], path: str) -> None:
    texts = ["stone river", "a bird red blue"]
    found = client.post(path, json={"model": "mood", "input": texts}).json()
    expected = alone["mood"].predict(texts, "mood")
    assert found["object"] == "list"
    assert found["model"] == "mood"
    assert found["usage"] == {
        "prompt_tokens": 10,
        "total_tokens": 10,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
    }
    for index, (row, answer) in enumerate(zip(found["data"], expected, strict=True)):
        assert row["index"] == index
        assert row["label"] == answer["label"]
        assert row["num_classes"] == 2
        close(row["probs"], list(answer["probabilities"].values()))
    (one,) = client.post(path, json={"model": "mood", "input": "stone river", "user": "me"}).json()["data"]
    close(one, found["data"][0])
    pairs = [["stone", "bird"], {"first": "red", "second": "lamp"}]
    found = client.post(path, json={"model": "pair", "input": pairs}).json()["data"]
    assert [row["label"] for row in found] == [row["label"] for row in alone["pair"].predict(pairs, "pair")]


def test_every_kind_of_task_is_predicted(client: Any, alone: dict[str, gw.Predictor]) -> None:
    for name, predictor in alone.items():
        rows = rows_of(predictor.heads[name], 5)
        found = client.post("/v1/predict", json={"rows": rows, "task": name, "top": 1, "digits": 4}).json()
        expected = predictor.predict(rows, name, top=1, digits=4)
        assert found["usage"]["prompt_tokens"] > 5
        for one, other in zip(found["answers"], expected, strict=True):
            assert one.keys() == other.keys()
            assert one.get("label") == other.get("label")
            assert one.get("labels") == other.get("labels")
    mixed = [{"text": "red bird", "task": "true"}, {"text": "red bird", "task": "size"}]
    found = client.post("/v1/predict", json={"rows": mixed}).json()["answers"]
    close(found, [alone["true"].predict(mixed[:1])[0], alone["size"].predict(mixed[1:])[0]])


def test_all_tasks_of_all_models_answer_a_row(client: Any, alone: dict[str, gw.Predictor]) -> None:
    row = {"text": "stone bird road", "first": "red", "second": "blue"}
    (found,) = client.post("/v1/predict_all", json={"rows": [row]}).json()["answers"]
    assert list(found["answers"]) == list(alone)
    for name, answer in found["answers"].items():
        close(answer, alone[name].predict([row], name)[0])
    (some,) = client.post("/v1/predict_all", json={"rows": ["red"], "tasks": ["pair", "true"]}).json()[
        "answers"
    ]
    assert list(some["answers"]) == ["true"]
    assert some["skipped"] == {"pair": "1 texts, but the task reads 2 (first, second)"}


def test_typed_questions_about_one_state(client: Any, alone: dict[str, gw.Predictor]) -> None:
    questions = {
        "mood": {"type": "choice", "instructions": "?", "criteria": {"pushy": "presses", "calm": None}},
        "true": {"type": "noul"},
        "level": {"type": "score", "criteria": ["low", "middle", "high"]},
    }
    asked = {"model": "graftwork", "state": "stone bird", "questions": questions}
    found = client.post("/v1/systemone", json=asked).json()
    assert found["model"] == "graftwork"
    assert found["usage"]["output_tokens"] == 0
    mood = alone["mood"].predict(["stone bird"], "mood")[0]
    assert found["answers"]["mood"]["choice"] == mood["label"]
    close(found["answers"]["mood"]["probabilities"], mood["probabilities"])
    true = alone["true"].predict(["stone bird"], "true")[0]["probabilities"]["true"]
    close(found["answers"]["true"], {"type": "noul", "noul": true})
    levels = alone["level"].predict(["stone bird"], "level")[0]["probabilities"]
    close(found["answers"]["level"]["score"], levels["1"] + 2 * levels["2"])
    for name, question, message in (
        (
            "mood",
            {"type": "choice", "criteria": {"calm": None, "angry": None}},
            "but the task has the labels calm, pushy",
        ),
        ("level", {"type": "score", "criteria": ["a", "b"]}, "has the labels 0, 1, 2"),
        ("mood", {"type": "riddle"}, "`type` must be one of"),
        ("size", {"type": "choice", "criteria": {"a": None}}, "kind regression"),
        ("pair", {"type": "choice", "criteria": {"no": 0, "so": 0, "yes": 0}}, "Question 'pair'"),
        ("pair", {"type": "choice", "criteria": {"no": "", "so": "", "yes": ""}}, "the state has 1 texts"),
    ):
        bad = {**asked, "questions": {name: question}}
        assert message in line(client.post("/v1/systemone", json=bad), 422)
    line(client.post("/v1/systemone", json={**asked, "model": "gpt"}), 404)
    assert "texts alone" in line(client.post("/v1/systemone", json={**asked, "assets": {"a": {}}}), 422)
    line(client.post("/v1/systemone", json={**asked, "questions": {"moon": {"type": "noul"}}}), 404)


def test_what_is_served_can_be_asked(client: Any) -> None:
    models = client.get("/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["mood", "pair", "size", "things", "places", "true", "level"]
    assert models[1]["text"] == ["first", "second"]
    assert models[1]["folder"] == "one"
    first, second = client.get("/v1/structure").json()["groups"]
    assert first["tasks"] == ["mood", "pair", "size", "things", "places"]
    assert second["tasks"] == ["true", "level"]
    assert first["sites"][0]["stored"] >= max(
        max(open, default=0) for open in first["sites"][0]["open"].values()
    )
    assert first["price"] >= 1
    assert client.get("/health").json() == {"status": "ok", "tasks": 7}
    page = client.get("/")
    assert "<script" in page.text
    assert "http" not in page.text.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert "default-src 'none'" in page.headers["content-security-policy"]


BAD: dict[str, tuple[str, Any, int, str]] = {
    "no json": ("/v1/classify", b"{", 400, "the body is no JSON"),
    "deep json": ("/v1/classify", b"[" * 3900, 400, ""),
    "no object": ("/v1/classify", [], 400, ""),
    "no model": ("/v1/classify", {"input": "a"}, 400, "model: Field required"),
    "unknown model": ("/v1/classify", {"model": "moon", "input": "a"}, 404, "unknown model 'moon'"),
    "unknown field": ("/v1/classify", {"model": "mood", "input": "a", "activation": 1}, 400, "activation"),
    "no rows": ("/v1/classify", {"model": "mood", "input": []}, 400, "no rows"),
    "token ids": ("/v1/classify", {"model": "mood", "input": [1, 2]}, 400, "row 1 is 1, not a text"),
    "other kind": ("/v1/classify", {"model": "size", "input": "a"}, 400, "ask /v1/predict"),
    "many rows": ("/v1/predict", {"rows": ["a"] * 9, "task": "mood"}, 413, "9 rows; give at most 8"),
    "long row": ("/v1/predict", {"rows": ["a" * 201], "task": "mood"}, 413, "201 characters"),
    "large body": ("/v1/predict", {"rows": ["a" * 5000], "task": "mood"}, 413, "more than 4,000 bytes"),
    "no task": ("/v1/predict", {"rows": ["a"]}, 400, "row 1 names no task"),
    "unknown task": ("/v1/predict", {"rows": ["a"], "task": "mod"}, 404, "did you mean 'mood'"),
    "task no name": ("/v1/predict", {"rows": [{"text": "a", "task": [1]}]}, 404, "unknown task"),
    "pair for one": ("/v1/predict", {"rows": [["a", "b"]], "task": "mood"}, 400, "has 2 texts"),
    "field no text": ("/v1/predict", {"rows": [{"text": 3}], "task": "mood"}, 400, "not a text"),
    "top": ("/v1/predict", {"rows": ["a"], "task": "mood", "top": 0}, 400, "top is 0"),
    "digits": ("/v1/predict", {"rows": ["a"], "task": "mood", "digits": -1}, 400, "digits"),
    "nobody reads": ("/v1/predict_all", {"rows": [{"other": "a"}]}, 400, "read by none of the tasks"),
    "no path": ("/v1/nothing", {}, 404, "/v1/nothing"),
    "no loading": ("/v1/load_task", {"folder": "x"}, 404, "/v1/load_task"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_in_one_line(client: Any, case: str) -> None:
    path, content, status, message = BAD[case]
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert message in line(answer, status)
    assert client.get("/health").status_code == 200


def test_halves_of_characters_and_empty_texts_are_rows(client: Any, alone: dict[str, gw.Predictor]) -> None:
    body = b'{"model": "mood", "input": ["\\ud800", ""]}'
    answer = client.post("/classify", content=body, headers={"content-type": "application/json"})
    assert [row["label"] for row in answer.json()["data"]] == [
        row["label"] for row in alone["mood"].predict(["\ud800", ""], "mood")
    ]
    body = b'{"model": "\\ud800", "input": ["a"]}'
    line(client.post("/classify", content=body, headers={"content-type": "application/json"}), 404)


def test_bad_requests_among_good_ones_harm_none(client: Any, alone: dict[str, gw.Predictor]) -> None:
    names = list(alone)
    jobs = [
        (names[index % 7], rows_of(alone[names[index % 7]].heads[names[index % 7]], 1, index))
        for index in range(60)
    ]

    def ask(job: tuple[int, tuple[str, list[Any]]]) -> Any:
        index, (name, rows) = job
        if index % 5 == 4:
            return client.post("/v1/predict", json={"rows": [rows[0], 3], "task": name}).status_code
        while (answer := client.post("/v1/predict", json={"rows": rows, "task": name})).status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
        return answer.json()["answers"]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, enumerate(jobs)))
    for index, (name, rows) in enumerate(jobs):
        if index % 5 == 4:
            assert found[index] == 400
        else:
            close(found[index], alone[name].predict(rows, name))
    assert client.service.engine.rows == 0


def test_a_full_queue_and_a_slow_pass(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(folders[2:], limits=Limits(rows=8, queue=8, timeout=0.5))
    begun, go, whole = threading.Event(), threading.Event(), engines._pass

    def held(*given: Any) -> Any:
        begun.set()
        assert go.wait(60)
        return whole(*given)

    monkeypatch.setattr(engines, "_pass", held)
    rows = {"rows": ["red"] * 8, "task": "true"}
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.post, "/v1/predict", json=rows)
        assert begun.wait(60)
        full = client.post("/v1/predict", json={"rows": ["red"], "task": "true"})
        assert "queue is full" in line(full, 429)
        assert full.headers["retry-after"] == "1"
        assert "not answered within 0.5 s" in line(slow.result(60), 504)
    # What timed out is no longer in the way, though its pass still runs.
    assert client.service.engine.rows == 0
    go.set()
    assert client.post("/v1/predict", json=rows).status_code == 200
    client.service.close()
    assert "the server is ending" in line(client.post("/v1/predict", json=rows), 503)


def test_a_dead_engine_is_unwell(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(folders[2:])

    def broken(*given: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(engines, "_pass", broken)
    answer = client.post("/v1/predict", json={"rows": ["red"], "task": "true"})
    assert answer.status_code in (500, 503)
    client.service.engine._thread.join(60)
    assert "dead" in line(client.get("/health"), 503)
    assert "dead" in line(client.post("/v1/predict", json={"rows": ["red"], "task": "true"}), 503)
    assert "graftwork_up 0.0" in client.get("/metrics").text


def test_what_is_measured(client: Any) -> None:
    client.post("/classify", json={"model": "mood", "input": ["red", "blue"]})
    client.get("/made/up")
    text = client.get("/metrics").text
    assert 'graftwork_requests_total{path="/classify",status="200"}' in text
    assert 'graftwork_requests_total{path="other",status="404"}' in text
    assert "made" not in text
    assert 'graftwork_answers_total{task="mood"}' in text
    assert "graftwork_tasks 7.0" in text
    assert "graftwork_up 1.0" in text


def test_tasks_come_and_go_for_who_has_the_key(
    folders: list[Path], tmp_path: Path, alone: dict[str, gw.Predictor]
) -> None:
    models = tmp_path / "models"
    shutil.copytree(folders[0], models / "one")
    write_served(tmp_path / "outside", folders[0].parent / "backbone", [PAIR], 9)
    write_served(models / "mood", folders[0].parent / "backbone", [MOOD], 9)
    (models / "link").symlink_to(tmp_path / "outside")
    (models / "empty").mkdir()
    client = client_of(folders[2:], models)

    def change(path: str, **content: Any) -> Any:
        return client.post(path, json=content, headers=KEY)

    for headers in ({}, {"authorization": "Bearer other"}, {"authorization": "Bearer sécret".encode()}):
        answer = client.post("/v1/load_task", json={"folder": "one"}, headers=headers)
        assert "Authorization: Bearer KEY" in line(answer, 401)
    for folder in ("../outside", str(tmp_path / "outside"), "link", "none", "a\0b", "x" * 5000):
        if len(folder) < 4000:
            assert "no folder" in line(change("/v1/load_task", folder=folder), 404)
    assert "is not a model saved by" in line(change("/v1/load_task", folder="empty"), 400)
    assert change("/v1/load_task", folder="one").json() == {"folder": "one", "loaded": ["mood", "pair"]}
    found = client.post("/classify", json={"model": "mood", "input": ["stone red"]}).json()["data"][0]
    assert found["label"] == alone["mood"].predict(["stone red"], "mood")[0]["label"]
    assert "both have a task 'mood'" in line(change("/v1/load_task", folder="mood"), 409)
    assert len(client.get("/v1/models").json()["data"]) == 4
    assert change("/v1/unload_task", task="mood").json() == {"unloaded": "mood"}
    assert "no task 'mood' is served" in line(change("/v1/unload_task", task="mood"), 404)
    line(client.post("/classify", json={"model": "mood", "input": ["stone red"]}), 404)
    assert change("/v1/load_task", folder="mood").status_code == 200
    found = client.post("/v1/predict", json={"task": "mood", "rows": ["stone red"]}).json()["answers"]
    close(found, gw.load(models / "mood").predict(["stone red"], "mood"))
    client.service.close()


def test_requests_that_are_in_end_on_the_old_set(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch, alone: dict[str, gw.Predictor]
) -> None:
    client = client_of(folders[2:], folders[2].parent)
    begun, go, whole = threading.Event(), threading.Event(), engines._pass

    def held(*given: Any) -> Any:
        begun.set()
        assert go.wait(60)
        return whole(*given)

    monkeypatch.setattr(engines, "_pass", held)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.post, "/v1/predict", json={"rows": ["red"], "task": "true"})
        assert begun.wait(60)
        assert client.post("/v1/unload_task", json={"task": "true"}, headers=KEY).status_code == 200
        assert client.post("/v1/load_task", json={"folder": "one"}, headers=KEY).status_code == 200
        go.set()
        close(slow.result(60).json()["answers"], alone["true"].predict(["red"], "true"))
    line(client.post("/v1/predict", json={"rows": ["red"], "task": "true"}), 404)
    client.service.close()
