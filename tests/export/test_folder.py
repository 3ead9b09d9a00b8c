"""`graftwork export`: a folder of `fit` as files that need no graftwork."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

import graftwork as gw
from commands import fails
from graftwork.cli import main
from graftwork.export import onnx as onnx_file
from graftwork.models.pooling import pool
from toyrun import write_run

ROWS = [
    {"task": "same", "first": "stone road", "second": "stone lamp"},
    {"task": "colour", "text": "river tree red stone"},
    {"task": "length", "text": "river tree bird"},
    {"task": "colour", "text": "bird blue"},
]
BESIDE = ["export.json", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    short = ["--set", "training.epochs=1"]
    main(["fit", str(write_run(folder)), *short])
    bottleneck = ["--set", "graft.activation=gelu", "--set", "graft.position=sequential"]
    main(["fit", str(folder / "recipe.yaml"), *bottleneck, *short, "--output", str(folder / "bottleneck")])
    return folder


def batch(folder: Path, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The rows as tensors, with what lies in an exported folder alone."""
    described = json.loads((folder / "export.json").read_text())
    tasks = {task["name"]: index for index, task in enumerate(described["tasks"])}
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    encoded = [
        tokenizer(
            *(row[field] for field in described["tasks"][tasks[row["task"]]]["text"]),
            truncation=True,
            max_length=described["max_length"],
        )
        for row in rows
    ]
    inputs = dict(tokenizer.pad(encoded, return_tensors="pt"))
    inputs["graft_rows"] = torch.tensor([tasks[row["task"]] for row in rows])
    return {name: inputs[name] for name in described["inputs"]}


def check(logits: torch.Tensor, folder: Path, model: Path, rows: list[dict[str, Any]]) -> None:
    """The logits are what `graftwork predict` reports."""
    tasks = {task["name"]: task for task in json.loads((folder / "export.json").read_text())["tasks"]}
    for row, own, result in zip(rows, logits.detach(), gw.Predictor.load(model).predict(rows), strict=True):
        task = tasks[row["task"]]
        if task["labels"]:
            found = dict(zip(task["labels"], own[: len(task["labels"])].softmax(0).tolist(), strict=True))
            assert found == pytest.approx(result["probabilities"], abs=1e-4)
        else:
            assert float(own[0]) * task["std"] + task["mean"] == pytest.approx(result["score"], abs=1e-4)


def test_onnx(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install graftwork[onnx]")
    out = tmp_path / "onnx"
    main(["export", str(trained / "out"), str(out)])
    assert (
        f"{out}: onnx of colour, same, length; largest difference from the model " in capsys.readouterr().out
    )
    assert sorted(part.name for part in out.iterdir()) == [*BESIDE[:1], "model.onnx", *BESIDE[1:]]
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    inputs = {name: value.numpy() for name, value in batch(out, ROWS).items()}
    assert {value.name for value in session.get_inputs()} == set(inputs)
    check(torch.from_numpy(session.run(["logits"], inputs)[0]), out, trained / "out", ROWS)
    described = json.loads((out / "export.json").read_text())
    assert described.pop("largest_difference") < 1e-4
    assert json.loads(session.get_modelmeta().custom_metadata_map["graftwork"]) == described
    assert described["max_length"] == 16
    assert described["pooling"] == "mean"
    assert described["tasks"][0]["labels"] == ["blue", "red"]


def test_one_task(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "colour"
    main(["export", str(trained / "out"), str(out), "--task", "colour", "--format", "pt2"])
    rows = [row for row in ROWS if row["task"] == "colour"]
    inputs = batch(out, rows)
    assert "graft_rows" not in inputs
    logits = torch.export.load(out / "model.pt2").module()(**inputs)
    assert logits.shape == (2, 2)
    check(logits, out, trained / "out", rows)


def test_pt2(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "pt2"
    main(["export", str(trained / "out"), str(out), "--format", "pt2"])
    assert sorted(part.name for part in out.iterdir()) == [*BESIDE[:1], "model.pt2", *BESIDE[1:]]
    inside = {"graftwork.json": ""}
    program = torch.export.load(out / "model.pt2", extra_files=inside)
    check(program.module()(**batch(out, ROWS)), out, trained / "out", ROWS)
    described = json.loads((out / "export.json").read_text())
    assert described.pop("largest_difference") < 1e-5
    assert json.loads(inside["graftwork.json"]) == described


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed but the targeted layer")
def test_lora_with_its_head(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "lora"
    main(["export", str(trained / "out"), str(out), "--format", "lora", "--task", "colour"])
    names = ["adapter_config.json", "adapter_model.safetensors", "heads.safetensors", *BESIDE]
    assert sorted(part.name for part in out.iterdir()) == sorted(names)
    rows = [row for row in ROWS if row["task"] == "colour"]
    inputs = batch(out, rows)
    lora = PeftModel.from_pretrained(AutoModel.from_pretrained(str(trained / "backbone")), str(out)).eval()
    with torch.no_grad():
        pooled = pool(lora(**inputs).last_hidden_state, inputs["attention_mask"], "mean")
    head = load_file(out / "heads.safetensors")
    check(pooled @ head["colour.weight"].T + head["colour.bias"], out, trained / "out", rows)


def test_faults_are_one_line_and_leave_nothing(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = str(trained / "out"), str(tmp_path / "x")
    assert "unknown format 'onx'; did you mean 'onnx'? Allowed: onnx, pt2, lora, merged, gguf." in fails(
        capsys, "export", model, out, "--format", "onx"
    )
    lora = ("--format", "lora")
    assert "a LoRA holds one task; pass --task with one of colour, same, length" in fails(
        capsys, "export", model, out, *lora
    )
    nonlinear = str(trained / "bottleneck")
    assert "are nonlinear" in fails(capsys, "export", nonlinear, out, *lora, "--task", "colour")
    assert "unknown task 'color'" in fails(capsys, "export", model, out, "--task", "color")
    assert "is not a model saved by" in fails(capsys, "export", str(tmp_path), out)
    with monkeypatch.context() as patched:
        patched.setattr(onnx_file, "find_spec", lambda name: None)
        assert "run `pip install 'graftwork[onnx]'`" in fails(capsys, "export", model, out)
    assert not list(tmp_path.iterdir())
    (tmp_path / "x").mkdir()
    assert "pass --overwrite" in fails(capsys, "export", model, out)
