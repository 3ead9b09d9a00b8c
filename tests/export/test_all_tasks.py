"""One exported graph that answers all tasks, branching where their paths part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import graftwork as gw
from commands import fails
from graftwork.cli import main
from graftwork.errors import ExportError
from graftwork.export.all_tasks import AllTasks
from graftwork.models.multitask import MultiTaskModel
from toy_heads import HEADS
from toy_programs import SIZES, compacted, example
from toyrun import recipe_dict, write_recipe, write_run
from toys import grafted, random_structure, tiny

onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install graftwork[onnx]")


def model_of(kind: str, pooling: str = "mean", **settings) -> MultiTaskModel:
    """Two layers, in which the tasks differ: in both, or in the second alone."""
    adapted = grafted(tiny(kind), **settings)
    data = random_structure(adapted).to_dict()
    for site, table in data["sites"].items():
        if ".0." in site and kind != "bert":
            table["open"] = [[1, 0, 1]] * 3
    gw.set_structure_(adapted, gw.Structure.from_dict(data))
    gw.compact_(adapted)
    return MultiTaskModel(adapted, HEADS, pooling=pooling).eval()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bert", {}),
        pytest.param("llama", {"position": "parallel", "activation": "identity"}, marks=pytest.mark.slow),
        pytest.param("modernbert", {}, marks=pytest.mark.slow),
        pytest.param("gpt2", {"pooling": "last"}, marks=pytest.mark.slow),
    ],
)
def test_the_file_answers_as_one_routed_pass_a_task(tmp_path: Path, kind: str, settings) -> None:
    model = model_of(kind, **settings)
    inputs = {name: value for name, value in example(3, 6).items() if name != "graft_rows"}
    described = gw.export_onnx(model, tmp_path / "model.onnx", inputs, all_tasks=True)
    assert described["largest_difference"] < 1e-5
    assert not any(module.training for module in model.modules())
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["input_ids", "attention_mask"]
    names = ["logits.cats", "logits.dogs", "logits.birds"]
    assert [(value.name, value.shape) for value in session.get_outputs()] == [
        (name, ["batch", size]) for name, size in zip(names, (2, 1, 3), strict=True)
    ]
    about = json.loads(session.get_modelmeta().custom_metadata_map["graftwork"])
    assert about["outputs"] == names
    assert [task["output"] for task in about["tasks"]] == names
    assert [task["labels"] for task in about["tasks"]] == [list(head.labels) for head in HEADS]
    for seed, (rows, length) in enumerate(SIZES):
        given = example(rows, length, 3, seed)
        tokens = {name: given[name] for name in ("input_ids", "attention_mask")}
        found = session.run(names, {name: value.numpy() for name, value in tokens.items()})
        for task, (head, mine) in enumerate(zip(HEADS, found, strict=True)):
            with torch.no_grad():
                right = model(**tokens, graft_rows=torch.full((rows,), task)).logits[:, : head.size]
            torch.testing.assert_close(torch.from_numpy(mine), right, atol=1e-5, rtol=1e-5)


def test_a_graph_with_other_answers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared is one routed pass a task, not the pass that was traced."""
    model = model_of("bert")
    forward = AllTasks.forward

    def wrong(self: AllTasks, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(logits + 0.01 for logits in forward(self, **inputs))

    monkeypatch.setattr(AllTasks, "forward", wrong)
    inputs = {name: value for name, value in example(3, 6).items() if name != "graft_rows"}
    with pytest.raises(ExportError, match="gives other outputs than the model"):
        gw.export_onnx(model, tmp_path / "model.onnx", inputs, all_tasks=True)
    assert not list(tmp_path.iterdir())


def test_a_model_without_heads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="all tasks at once need heads"):
        gw.export_onnx(compacted(small=True), tmp_path / "model.onnx", example(), all_tasks=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export-all")
    write_run(folder)
    recipe = recipe_dict(folder)
    recipe["training"]["epochs"] = 1
    main(["fit", str(write_recipe(folder, recipe))])
    return folder / "out"


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", str(folder), str(tmp_path / "onnx"), "--all-tasks"])
    assert "onnx of colour, same, length; largest difference" in capsys.readouterr().out
    about = json.loads((tmp_path / "onnx/export.json").read_text())
    assert about["outputs"] == ["logits.colour", "logits.same", "logits.length"]
    assert "graft_rows" not in about["inputs"]
    session = onnxruntime.InferenceSession(
        str(tmp_path / "onnx/model.onnx"), providers=["CPUExecutionProvider"]
    )
    predictor = gw.load(folder)
    tokens = predictor.tokenizer(["stone river red", "blue"], padding=True, return_tensors="np")
    given = {name: tokens[name].astype("int64") for name in about["inputs"]}
    (colours,) = session.run(["logits.colour"], given)
    found = nn.functional.softmax(torch.from_numpy(colours), dim=1).tolist()
    for mine, right in zip(found, predictor.predict_all(["stone river red", "blue"]), strict=True):
        assert mine == pytest.approx(list(right["answers"]["colour"]["probabilities"].values()), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "colour"], "--task colour is one task and --all-tasks all of them"),
        (["--format", "lora"], "a LoRA holds one task; --all-tasks goes with --format onnx or pt2"),
    ],
)
def test_what_does_not_go_together(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert message in fails(capsys, "export", str(folder), str(tmp_path / "x"), "--all-tasks", *options)
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_as_a_program(folder: Path, tmp_path: Path) -> None:
    main(["export", str(folder), str(tmp_path / "pt2"), "--all-tasks", "--format", "pt2"])
    program = torch.export.load(tmp_path / "pt2/model.pt2").module()
    tokens = gw.load(folder).tokenizer(["stone red", "blue bird"], padding=True, return_tensors="pt")
    about = json.loads((tmp_path / "pt2/export.json").read_text())
    assert len(program(**{name: tokens[name] for name in about["inputs"]})) == 3
