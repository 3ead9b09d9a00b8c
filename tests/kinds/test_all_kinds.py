"""All kinds of text in one model and one batch: resumed to the bit, and as one ONNX file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from graftwork.data.tokens import collate
from graftwork.errors import Interrupted
from graftwork.export.folder import export_folder
from graftwork.fitting.fit import fit
from graftwork.models.folder import load_model
from graftwork.models.outputs import forward_rows
from graftwork.recipe.loading import load_recipe
from graftwork.training.interrupt import InterruptCallback
from toy_kinds import spans_task, things, write_spans, write_things
from toyrun import recipe_dict, run_parts, write_recipe, write_run

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    write_run(folder)
    write_things(folder / "data")
    write_spans(folder / "data")
    recipe = recipe_dict(folder)
    recipe["tasks"] += [things(folder), spans_task(folder)]
    recipe["training"]["epochs"] = 1
    fit(load_recipe(write_recipe(folder, recipe)), console=QUIET)
    return folder


def test_a_run_of_all_kinds_is_resumed_to_the_bit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(folder / "recipe.yaml", {"output": str(folder / "stopped")})
    original = InterruptCallback.on_step_end

    def on_step_end(self: InterruptCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.requested = self.requested or state.global_step == 20
        original(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(InterruptCallback, "on_step_end", on_step_end)
        with pytest.raises(Interrupted, match="step 20 of"):
            fit(recipe, console=QUIET)
    report = fit(recipe, resume=True, console=QUIET)
    assert report["resumed"] == [{"step": 20, "changes": {}}]
    for name in ("adapter_model.safetensors", "heads.safetensors"):
        assert (folder / "stopped" / name).read_bytes() == (folder / "out" / name).read_bytes()
    one, other = (json.loads((folder / name / "tasks.json").read_text()) for name in ("stopped", "out"))
    assert one["tasks"] == other["tasks"]
    assert report["structure"] == json.loads((folder / "out/report.json").read_text())["structure"]
    assert len(one["tasks"][3]["thresholds"]) == 3
    whole = json.loads((folder / "out/report.json").read_text())
    assert report["tasks"] == whole["tasks"]


def test_rows_of_all_kinds_in_one_batch_are_as_if_alone(folder: Path) -> None:
    model, tokenizer = load_model(folder / "out")
    tokens = run_parts(folder)[0]["test"]
    owner = np.asarray(tokens["graft_rows"])
    rows = [tokens[int(np.flatnonzero(owner == task)[i])] for i in range(3) for task in range(5)]
    assert len({head.kind for head in model.heads.heads}) == 4
    mixed = forward_rows(model, rows, collate(tokenizer)).logits
    for row, together in zip(rows, mixed, strict=True):
        alone = forward_rows(model, [row], collate(tokenizer)).logits[0]
        torch.testing.assert_close(together[: len(alone)], alone, atol=1e-5, rtol=1e-5)


def test_an_onnx_file_gives_the_same_outputs(folder: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    described = export_folder(folder / "out", folder / "onnx", format="onnx")
    model, tokenizer = load_model(folder / "out")
    batch = tokenizer(["red river stone", "tree lamp", "road", "bird tree", "lamp"], padding=True)
    inputs = {name: np.array(batch[name]) for name in described["inputs"] if name != "graft_rows"}
    inputs["graft_rows"] = np.arange(5)
    session = runtime.InferenceSession(str(folder / "onnx/model.onnx"))
    (found,) = session.run(["logits"], inputs)
    with torch.no_grad():
        expected = model(**{name: torch.tensor(value) for name, value in inputs.items()}).logits
    torch.testing.assert_close(torch.tensor(found), expected, atol=1e-4, rtol=1e-4)
