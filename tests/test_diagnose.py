"""Diagnosis of a search: figures that can be checked by hand, and a sentence for everything that is off."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import graftwork as gw
from graftwork.ablation import ablate
from graftwork.data import collate, load_task, tokenise
from graftwork.diagnose import DiagnosisCallback, gate_statistics, soft_gates
from graftwork.findings import find, print_diagnosis
from graftwork.fit import fit
from graftwork.forward import RowSample, forward_rows
from graftwork.multitask import MultiTaskModel
from graftwork.persist import load_backbone
from graftwork.recipe import load_recipe
from toyrun import write_run
from toys import grafted, random_structure, spread_gates

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("diagnose")
    return folder, fit(load_recipe(write_run(folder)), console=QUIET)


@pytest.fixture(scope="module")
def parts(run: tuple[Path, dict[str, Any]]) -> tuple[Any, Any, Any]:
    """Tokens, tokenizer and heads of the toy tasks."""
    recipe = load_recipe(run[0] / "recipe.yaml")
    _, tokenizer = load_backbone(recipe.model)
    datas = [load_task(task) for task in recipe.tasks]
    return tokenise(datas, tokenizer, 16, None), tokenizer, [data.head for data in datas]


def model_of(run: tuple[Path, dict[str, Any]], heads: Any) -> MultiTaskModel:
    backbone, _ = load_backbone(str(run[0] / "backbone"))
    adapted = grafted(backbone, tasks=[head.name for head in heads])
    return MultiTaskModel(adapted, heads).eval()


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
    assert size["pool"] == 4 * 4 * 2 * 65
    assert diagnosis["gates"]["decided"]["gates"] == 3 * 4 * 4
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
    from graftwork.fit import Interrupted
    from graftwork.interrupt import InterruptCallback

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
    model = model_of(run, heads)
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
    model = model_of(run, heads)
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


def test_ablation_is_the_loss_with_one_adapter_closed(run: Any, parts: Any) -> None:
    tokens, tokenizer, heads = parts
    model = model_of(run, heads)
    gw.set_structure_(model, random_structure(model, 0.6))
    structure = gw.structure_of(model)
    sample = RowSample(tokens["validation"], tokenizer, most=60)
    result = ablate(model, sample)
    assert gw.structure_of(model) == structure
    stored = {place for task in structure.tasks for place in structure.paths(task)}
    assert {(entry["site"], entry["adapter"]) for entry in result["adapters"]} == stored
    losses = []
    places = [(entry["site"], entry["adapter"]) for entry in result["adapters"]]
    small = 1e-3 * result["loss"]
    idle = [(entry["site"], entry["adapter"]) for entry in result["adapters"] if entry["increase"] <= small]
    assert result["idle"]["adapters"] == len(idle) > 1
    for away in ([], *([place] for place in places), idle):
        closed = structure.to_dict()
        for site, k in away:
            for row in closed["sites"][site]["open"]:
                row[k] = 0
        gw.set_structure_(model, gw.Structure.from_dict(closed))
        outputs = sample.run(model)
        assert outputs is not None
        by_task = [
            model.heads.loss(outputs.logits[mine], outputs.labels[mine], outputs.rows[mine])
            for mine in (outputs.rows == task for task in range(3))
        ]
        losses.append(float(torch.stack(by_task).mean()))
    assert result["loss"] == pytest.approx(losses[0])
    increases = [*(entry["increase"] for entry in result["adapters"]), result["idle"]["increase"]]
    assert increases == pytest.approx([loss - losses[0] for loss in losses[1:]], abs=1e-6)


def test_ablation_is_bounded_and_seeded(run: Any, parts: Any) -> None:
    tokens, tokenizer, heads = parts
    model = model_of(run, heads)
    gw.set_structure_(model, random_structure(model, 0.6))
    sample = RowSample(tokens["validation"], tokenizer, most=12)
    few = ablate(model, sample, adapters=3, seed=1)
    assert len(few["adapters"]) == 3 < few["stored"]
    assert few == ablate(model, sample, adapters=3, seed=1)
    assert few["adapters"] != ablate(model, sample, adapters=3, seed=2)["adapters"]


WELL: dict[str, Any] = {
    "of": "structure",
    "gap": {"rows": 100, "soft": 0.81, "hard": 0.809, "points": -0.1},
    "size": {"unit": "parameters", "target": 1000, "realised": 990, "expected": 1010.0, "pool": 4000},
    "gates": {
        "early": {"gates": 40, "open": 0.7, "closed": 0.1, "undecided": 0.2},
        "decided": {"gates": 40, "open": 0.2, "closed": 0.7, "undecided": 0.1},
    },
    "ablation": {
        "rows": 100,
        "loss": 0.5,
        "stored": 10,
        "adapters": [
            {"site": "s", "adapter": k, "increase": 0.01 * k, "gate": 0.9, "strength": 1.0}
            for k in range(1, 11)
        ],
        "idle": {"adapters": 0, "increase": 0.0},
        "rank_correlation_gate": 0.4,
        "rank_correlation_strength": None,
    },
    "open_paths": {"cats": 3, "dogs": 2},
}


def changed(*path: Any, value: Any) -> dict[str, Any]:
    diagnosis = copy.deepcopy(WELL)
    target: Any = diagnosis
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return diagnosis


def test_no_sentence_if_nothing_is_off() -> None:
    assert find(WELL) == []
    nothing = {**WELL, "gap": None, "ablation": None, "gates": {"early": None, "decided": None}}
    assert find(nothing) == []


@pytest.mark.parametrize(
    ("diagnosis", "sentence"),
    [
        (
            changed("gap", value={"rows": 9, "soft": 0.8, "hard": 0.75, "points": -5.0}),
            "Deciding the gates cost 5.0 points of the mean validation score (0.800 with soft gates, 0.750",
        ),
        (
            changed("size", "target", value=5000),
            "The budget of 5,000 parameters cannot be reached: the whole pool has 4,000",
        ),
        (
            changed("size", "expected", value=1900.0),
            "did not come down to the budget: 1,900 parameters were expected open when the structure",
        ),
        (
            changed("gates", "early", "closed", value=0.95),
            "The gates saturated early: 95 % were closed after a quarter of the search",
        ),
        (
            changed("gates", "decided", "open", value=0.95),
            "95 % of the gates were open when the structure was decided",
        ),
        (
            changed("gates", "decided", "undecided", value=0.6),
            "60 % of the gates were undecided (P(open) between 0.1 and 0.9)",
        ),
        (
            changed("open_paths", "dogs", value=0),
            "Task 'dogs' has no path: it uses no adapter and gets the bare backbone",
        ),
        (
            changed("ablation", "idle", value={"adapters": 6, "increase": 0.0004}),
            "6 of 10 open adapters do nothing: without them, one by one or all at once, the validation",
        ),
        (
            changed("ablation", "rank_correlation_gate", value=-0.3),
            "rank the open adapters no better than chance: the rank correlation",
        ),
    ],
)
def test_a_plain_sentence_for_what_is_off(diagnosis: dict[str, Any], sentence: str) -> None:
    (found,) = find(diagnosis)
    assert sentence in found
    assert found.endswith(".")


def test_adapters_that_stand_in_for_each_other_are_not_said_to_do_nothing() -> None:
    diagnosis = changed("ablation", "idle", value={"adapters": 6, "increase": 0.02})
    assert find(diagnosis) == []
    diagnosis["ablation"]["rank_correlation_gate"] = -0.3
    assert find(diagnosis) == []


def test_a_path_through_a_stored_pool_may_be_as_large_as_it_likes() -> None:
    diagnosis = {**changed("size", "target", value=5000), "of": "path"}
    assert find(diagnosis) == []
    free = {**changed("gates", "decided", "open", value=1.0), "of": "path"}
    free["size"] = {**free["size"], "target": None}
    assert find(free) == []


def test_print(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=120)
    print_diagnosis({**WELL, "findings": []}, console, "search")
    out = capsys.readouterr().out
    assert "search: nothing is off" in out
    assert "0.810 -> 0.809 mean validation score (-0.10 points, 100 rows)" in out
    print_diagnosis({**WELL, "findings": ["Broken."]}, console, "search")
    assert "search: 1 finding(s)\n  - Broken." in capsys.readouterr().out


def test_the_callback_watches_nothing_if_nothing_is_searched(parts: Any) -> None:
    tokens, tokenizer, _ = parts
    watch = DiagnosisCallback(gw.StructureCallback(), tokens["validation"], tokenizer)
    watch.on_step_end(None, None, None)  # type: ignore[arg-type]
    assert watch.state()["attributes"] == {"early": None, "gap": None}
