"""The files of `deploy/` start the server as it is: what they run is understood, and runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

import graftwork
from graftwork.cli.parser import build_parser
from graftwork.serving.limits import Limits
from toy_served import MOOD, write_served
from toyrun import write_backbone

DEPLOY = Path(__file__).parents[2] / "deploy"
PATIENCE = 120


def said(name: str) -> list[Any]:
    """What a line of the container file says."""
    line = re.search(rf"^{name} (\[.*\])$", (DEPLOY / "Containerfile").read_text(), re.M)
    assert line is not None
    found: list[Any] = json.loads(line[1])
    return found


def commands() -> dict[str, list[str]]:
    """The arguments of `serve` in each file."""
    assert said("ENTRYPOINT") == ["python", "-m", "graftwork", "serve"]
    deployment, _ = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["graftwork"]
    return {
        "Containerfile": said("CMD"),
        "compose.yaml": compose["command"],
        "kubernetes.yaml": container["args"],
    }


@pytest.mark.parametrize("name", ["Containerfile", "compose.yaml", "kubernetes.yaml"])
def test_the_commands_are_understood(name: str) -> None:
    chosen = build_parser("serve").parse_args(["serve", *commands()[name]])["serve"]
    assert chosen["host"] == "0.0.0.0"
    assert chosen["port"] == 8000
    assert all(str(folder).startswith("/models/") for folder in chosen["folders"])


def test_time_to_end_is_longer_than_what_a_request_may_take() -> None:
    least = 2 * Limits().timeout
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["graftwork"]
    deployment, _ = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    assert int(compose["stop_grace_period"].removesuffix("s")) > least
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > least


def test_the_command_runs_with_an_empty_environment(tmp_path: Path) -> None:
    """As in the container: a home that is empty, nothing of the shell, and the address of everybody."""
    folder = write_served(tmp_path / "mood", write_backbone(tmp_path / "backbone"), [MOOD])
    (tmp_path / "home").mkdir()
    words = [str(folder) if word.startswith("/models/") else word for word in commands()["Containerfile"]]
    words[words.index("--port") + 1] = "0"
    process = subprocess.Popen(
        [sys.executable, *said("ENTRYPOINT")[1:], *words],
        cwd=tmp_path / "home",
        stdout=subprocess.PIPE,
        text=True,
        env={
            "PATH": os.defpath,
            "HOME": str(tmp_path / "home"),
            "PYTHONPATH": str(Path(graftwork.__file__).parents[1]),
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
        },
    )
    try:
        found = re.search(r"at http://0\.0\.0\.0:(\d+)\n", process.stdout.readline())
        assert found is not None
        with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/health", timeout=PATIENCE) as answer:
            assert json.load(answer) == {"status": "ok", "tasks": 1}
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()
