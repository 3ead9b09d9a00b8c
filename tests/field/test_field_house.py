"""That the toy model of these tests is one, and that a refusal is one line."""

from __future__ import annotations

import json
from pathlib import Path

from commands import Command


def test_the_fitted_model_predicts(fitted: Path, command: Command) -> None:
    ended = command("predict", fitted / "out", "--task", "colour", stdin=b'{"text": "tree red"}\n')
    assert ended.code == 0
    assert json.loads(ended.out)["label"] == "red"


def test_a_refusal_is_one_line(tmp_path: Path, command: Command) -> None:
    assert "is not a model saved by" in command("show", tmp_path).message
