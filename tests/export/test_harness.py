"""The Language Model Evaluation Harness asks a model of graftwork."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from graftwork.errors import ExportError
from graftwork.export import harness
from graftwork.models.causal.choosing import Question, log_likelihoods
from graftwork.models.folder import load_model
from graftwork.models.multitask import select_tasks_
from toy_bytes import write_model

needs_harness = pytest.mark.skipif(find_spec("lm_eval") is None, reason="pip install 'graftwork[lm-eval]'")
ROWS = [
    {"question": f"Write {word} number", "choices": ["one", "two", "capital"], "answer": index % 3}
    for index, word in enumerate(["one", "the", "What", "France", "sentence", "and"])
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("harness"))


@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_a_task_on_local_rows_is_scored(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    task = {
        "task": "local",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    }
    (tmp_path / "local.yaml").write_text(yaml.safe_dump(task))
    words = [
        "lm_eval",
        "--model",
        "graftwork",
        "--model_args",
        f"path={folder},task=plain",
        "--device",
        "cpu",
    ]
    words += ["--tasks", "local", "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    harness.main()
    (result,) = (tmp_path / "out").rglob("results*.json")
    found = json.loads(result.read_text())["results"]["local"]["acc,none"]

    model, tokenizer = load_model(folder)
    model, _ = select_tasks_(model, ["plain"])
    reader: Any = tokenizer
    questions = [
        Question(
            reader(row["question"])["input_ids"],
            0,
            [reader(f" {choice}")["input_ids"] for choice in row["choices"]],
        )
        for row in ROWS
    ]
    sums = log_likelihoods(model.backbone, questions)
    right = [int(torch.tensor(own).argmax()) == row["answer"] for own, row in zip(sums, ROWS, strict=True)]
    assert found == pytest.approx(sum(right) / len(right))


def test_which_task_must_be_said(folder: Path) -> None:
    with pytest.raises(ExportError, match="has several tasks; add task= with one of plain, talk"):
        harness.served_model(str(folder))
    with pytest.raises(ExportError, match="has no task 'plian'; did you mean 'plain'"):
        harness.served_model(str(folder), "plian")
    model, _ = harness.served_model(str(folder), "talk")
    assert not any("graft" in name for name, _ in model.named_parameters())


def test_without_the_harness_its_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as left:
        harness.main()
    assert left.value.code == 2
    assert (
        capsys.readouterr().err == "graftwork: lm-eval is not installed: pip install 'graftwork[lm-eval]'.\n"
    )
