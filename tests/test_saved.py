"""What an earlier version has written (`tests/saved`) is still read: a model, a checkpoint, a recipe.

The folder was written at commit 775ba7a, before the modules were put into packages. `finished` and the run
that `unfinished.partial` goes on with were trained alike, and ended with the same bits.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from graftwork.cli import main

SAVED = Path(__file__).parent / "saved"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, with the current folder in it."""
    shutil.copytree(SAVED, tmp_path / "saved")
    monkeypatch.chdir(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("task", ["colour", "same", "length"])
def test_a_saved_model_predicts_what_it_did(folder: Path, task: str) -> None:
    main(
        ["predict", "finished", "--input", f"data/{task}/test.jsonl", "--task", task, "--output", "now.jsonl"]
    )
    before, now = (
        [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for name in (f"{task}.predicted.jsonl", "now.jsonl")
    )
    assert [row.get("label") for row in now] == [row.get("label") for row in before]
    for old, new in zip(before, now, strict=True):
        assert new.get("score") == pytest.approx(old.get("score"), abs=1e-5)
        assert new.get("probabilities") == pytest.approx(old.get("probabilities"), abs=1e-5)


def test_an_unfinished_run_goes_on_to_the_same_model(folder: Path) -> None:
    main(["fit", "unfinished.yaml", "--resume"])
    assert (folder / "unfinished/structure.json").read_text() == (
        folder / "resumed_structure.json"
    ).read_text()
    for name in ("adapter_model.safetensors", "heads.safetensors"):
        before, now = load_file(folder / "finished" / name), load_file(folder / "unfinished" / name)
        assert now.keys() == before.keys()
        for key, value in now.items():
            assert (value - before[key]).abs().max() < 1e-4


def test_the_recipe_of_a_saved_model_is_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", "finished"])
    assert "colour" in capsys.readouterr().out
