"""Diagnosis of a search: figures that can be checked by hand, and a sentence for everything that is off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import graftwork as gw
from graftwork.data.tokens import collate
from graftwork.diagnosis.diagnosis import DiagnosisCallback, gate_statistics, soft_gates
from graftwork.fitting.fit import fit
from graftwork.models.outputs import RowSample, forward_rows
from graftwork.recipe.loading import load_recipe
from toyrun import run_model, run_parts, write_run
from toys import spread_gates

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("diagnose")
    return folder, fit(load_recipe(write_run(folder)), console=QUIET)


@pytest.fixture(scope="module")
def parts(run: tuple[Path, dict[str, Any]]) -> tuple[Any, Any, Any]:
    return run_parts(run[0])


def test_the_report_has_every_figure(run: tuple[Path, dict[str, Any]]) -> None:
    folder, report = run
    diagnosis = report["diagnosis"]
    assert json.loads((folder / "out/report.json").read_text())["diagnosis"] == diagnosis
    gap = diagnosis["gap"]
    assert gap["rows"] == 3 * 48
    assert gap["points"] == pytest.approx(100 * (gap["hard"] - gap["soft"]))
    size, parameters = diagnosis["size"], report["parameters"]
    assert size["target"] == parameters["budget"]
    assert size["realised"] == parameters["stored"]
    assert size["expected"] == pytest.approx(report["soft_size_at_discretise"])
    assert size["pool"] == 2 * 4 * 2 * (4 * (32 + 32) + 2 * (32 + 64))
    assert diagnosis["gates"]["decided"]["gates"] == 3 * 12 * 4
    assert diagnosis["gates"]["early"]["open"] >= diagnosis["gates"]["decided"]["open"]
    assert diagnosis["open_paths"] == {name: task["open_paths"] for name, task in report["tasks"].items()}
    ablation = diagnosis["ablation"]
    structure = gw.Structure.from_dict(report["structure"])
    stored = [(name, k) for name, site in structure.sites.items() for k, used in enumerate(site.used) if used]
    assert [(entry["site"], entry["adapter"]) for entry in ablation["adapters"]] == stored
    assert ablation["stored"] == len(stored)
    assert all(0 <= entry["gate"] <= 1 for entry in ablation["adapters"])
    assert report["phases"]["diagnosis"]["seconds"] > 0


def test_the_same_after_a_resume(run: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    from graftwork.errors import Interrupted
    from graftwork.training.interrupt import InterruptCallback

    folder, report = run
    recipe = load_recipe(folder / "recipe.yaml", {"output": str(folder / "stopped")})
    original = InterruptCallback.on_step_end

    def stop(self: InterruptCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.requested = self.requested or state.global_step == 40
        original(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(InterruptCallback, "on_step_end", stop)
        with pytest.raises(Interrupted):
            fit(recipe, console=QUIET)
    assert fit(recipe, resume=True, console=QUIET)["diagnosis"] == report["diagnosis"]


def test_gate_statistics() -> None:
    found = gate_statistics([[[0.99, 0.95, 0.5]], [[0.04, 0.05, 0.12]], [[0.92, 0.07, 0.9]]])
    assert found == {"gates": 9, "open": 2 / 9, "closed": 2 / 9, "undecided": 2 / 9}
    assert gate_statistics([])["gates"] == 0


def test_soft_gates_are_those_of_before(run: Any, parts: Any) -> None:
    tokens, tokenizer, heads = parts
    model = run_model(run[0], heads)
    spread_gates(model)
    batch = tokens["validation"]

    def outputs() -> torch.Tensor:
        return forward_rows(model, batch, collate(tokenizer)).logits

    soft = outputs()
    structure = gw.discretise_(model)
    hard = outputs()
    assert not torch.equal(soft, hard)
    with soft_gates(model):
        assert torch.equal(outputs(), soft)
    assert torch.equal(outputs(), hard)
    assert gw.structure_of(model) == structure


def test_outputs_do_not_depend_on_the_mode_and_leave_no_trace(run: Any, parts: Any) -> None:
    tokens, tokenizer, heads = parts
    model = run_model(run[0], heads)
    expected = forward_rows(model, tokens["validation"], collate(tokenizer))
    assert len(expected.logits) == len(tokens["validation"])
    model.train()
    state = torch.get_rng_state()
    again = forward_rows(model, tokens["validation"], collate(tokenizer))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again.logits, expected.logits)
    assert model.training
    (only,) = set(forward_rows(model, tokens["validation"], collate(tokenizer), row=2).rows.tolist())
    assert only == 2


def test_a_sample_of_rows_is_seeded_and_fair(parts: Any) -> None:
    tokens, tokenizer, _ = parts
    first, again, other = (
        RowSample(tokens["validation"], tokenizer, most=30, seed=seed).rows for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert [sum(row["graft_rows"] == task for row in first) for task in range(3)] == [10, 10, 10]
    lengths = [len(row["input_ids"]) for row in first]
    assert lengths == sorted(lengths, reverse=True)
    assert len(RowSample(tokens["validation"], tokenizer, most=10**6)) == len(tokens["validation"])


def test_the_callback_watches_nothing_if_nothing_is_searched(parts: Any) -> None:
    tokens, tokenizer, _ = parts
    watch = DiagnosisCallback(gw.StructureCallback(), tokens["validation"], tokenizer)
    watch.on_step_end(None, None, None)  # type: ignore[arg-type]
    assert watch.state()["attributes"] == {"early": None, "gap": None}
