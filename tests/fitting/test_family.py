"""Several budgets from one search: nested, each a complete model, and not repeated when a run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import graftwork as gw
from graftwork.errors import Interrupted, RecipeError, StructureError, TrainingError
from graftwork.finished.evaluate import rescore
from graftwork.fitting.family import fit_family
from graftwork.fitting.fit import fit
from graftwork.fitting.work_folder import WorkFolder
from graftwork.recipe.loading import load_recipe
from graftwork.search.nested import nested_structures
from graftwork.structure.structure import Structure
from graftwork.training.interrupt import InterruptCallback
from graftwork.training.run import TrainingRun
from toyrun import write_run
from toys import grafted, spread_gates

QUIET = Console(quiet=True)
CHANGES = {"budgets": [0.01, 0.05, 0.02], "training.epochs": 2}
STEPS, SEARCH = 36, 22
ADAPTER = 2 * (32 + 32 + 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[float, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("family")
    recipe = load_recipe(write_run(folder), CHANGES)
    return folder, fit_family(recipe, console=QUIET)


def test_every_budget_is_a_complete_model(run: tuple[Path, dict[float, dict[str, Any]]]) -> None:
    folder, reports = run
    assert list(reports) == [0.05, 0.02, 0.01]
    for budget, report in reports.items():
        out = folder / "out" / f"{budget:g}"
        assert json.loads((out / "report.json").read_text()) == report
        parameters = report["parameters"]
        assert parameters["budget"] == int(budget * parameters["backbone"])
        assert 0 <= parameters["budget"] - parameters["stored"] < ADAPTER
        assert report["family"] == {"budgets": [0.05, 0.02, 0.01], "searched": 0.05}
        assert sum(phase.get("steps", 0) for phase in report["phases"].values()) == STEPS
        again = rescore(out)["tasks"]
        for name, task in report["tasks"].items():
            assert again[name]["score"] == pytest.approx(task["test"], abs=1e-6)
        assert load_recipe(out / "recipe.yaml").graft.budget == budget
    assert not list(folder.glob("*.partial"))


def test_structures_are_nested(run: tuple[Path, dict[float, dict[str, Any]]]) -> None:
    large, middle, small = (Structure.from_dict(report["structure"]) for report in run[1].values())
    for task in large.tasks:
        assert small.paths(task) <= middle.paths(task) <= large.paths(task)
    assert small.parameters() < middle.parameters() < large.parameters()


def test_the_largest_is_what_fit_gives(run: tuple[Path, dict[float, dict[str, Any]]]) -> None:
    folder, reports = run
    changes = {"output": str(folder / "alone"), "graft.budget": 0.05, "training.epochs": 2}
    recipe = load_recipe(folder / "recipe.yaml", changes)
    alone = fit(recipe, console=QUIET)
    assert alone["structure"] == reports[0.05]["structure"]
    assert alone["diagnosis"] == reports[0.05]["diagnosis"]
    for name in ("adapter_model.safetensors", "heads.safetensors"):
        assert (folder / "alone" / name).read_bytes() == (folder / "out/0.05" / name).read_bytes()


def test_the_gap_is_measured_for_every_structure(run: tuple[Path, dict[float, dict[str, Any]]]) -> None:
    gaps = [report["diagnosis"]["gap"] for report in run[1].values()]
    assert len({gap["soft"] for gap in gaps}) == 1
    assert len({gap["hard"] for gap in gaps}) > 1
    assert [report["soft_size_at_discretise"] is None for report in run[1].values()] == [False, True, True]


def stop_after(steps: int, patch: pytest.MonkeyPatch) -> None:
    """Interrupt a run in the given optimizer step, counted over all its phases."""
    original = InterruptCallback.on_step_end
    count = [0]

    def stop(self: InterruptCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if type(self) is InterruptCallback:
            count[0] += 1
            self.requested = self.requested or count[0] == steps
        original(self, args, state, control, **kwargs)

    patch.setattr(InterruptCallback, "on_step_end", stop)


@pytest.mark.parametrize(("steps", "finished"), [(10, 0), (40, 1)])
def test_an_interrupted_run_goes_on_and_repeats_nothing(
    run: tuple[Path, dict[float, dict[str, Any]]], steps: int, finished: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, reports = run
    recipe = load_recipe(folder / "recipe.yaml", {**CHANGES, "output": str(folder / f"stopped{steps}")})
    with monkeypatch.context() as patch:
        stop_after(steps, patch)
        with pytest.raises(Interrupted, match=r"step \d+ of 36; .*: fit_family\(recipe, resume=True\)"):
            fit_family(recipe, console=QUIET)
    assert not Path(recipe.output).exists()
    done = sorted(path.name for path in (WorkFolder(recipe).path / "done").glob("[0-9]*"))
    assert len(done) == finished
    with pytest.raises(TrainingError, match="unfinished run"):
        fit_family(recipe, console=QUIET)
    before = {
        path: path.stat().st_mtime_ns for path in (WorkFolder(recipe).path / "done").glob("*/report.json")
    }
    trained = []
    original = TrainingRun.train

    def count(self: TrainingRun, *args: Any) -> None:
        trained.append(args)
        original(self, *args)

    monkeypatch.setattr(TrainingRun, "train", count)
    again = fit_family(recipe, resume=True, console=QUIET)
    assert len(trained) == 3 - finished + (steps < SEARCH)
    assert list(again) == list(reports)
    for budget in again:
        here, there = (folder / name / f"{budget:g}" for name in (f"stopped{steps}", "out"))
        if budget == 0.05 and finished:
            assert [(here / "report.json").stat().st_mtime_ns] == list(before.values())
        for name in ("adapter_model.safetensors", "heads.safetensors"):
            assert (here / name).read_bytes() == (there / name).read_bytes()


def test_budgets_in_flops_with_a_task_budget(
    run: tuple[Path, dict[float, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = run
    changes = {
        "output": str(folder / "flops"),
        "budgets": [0.05, 0.02],
        "training.epochs": 1,
        "graft.cost": "flops",
        "graft.task_budget": 0.03,
        "graft.rank_by": "product",
    }
    reports = fit_family(load_recipe(folder / "recipe.yaml", changes))
    flops = 2 * (4 * 32 * 32 + 2 * 32 * 64) * 2 + 2 * 32 * 32  # two layers and the pooler
    for budget, report in reports.items():
        cost = report["cost"]
        assert cost["unit"] == "FLOPs per token"
        assert cost["budget"] == int(budget * flops)
        assert cost["stored"] <= cost["budget"]
        assert all(active <= int(0.03 * flops) for active in cost["active"].values())
        assert cost["stored"] == 2 * report["parameters"]["stored"]
        assert report["parameters"]["budget"] is None
    shown = capsys.readouterr().out
    assert "test scores of the models of one search" in shown
    assert f"{reports[0.02]['parameters']['stored']:,}" in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budgets": [0.01, 2]}, "budgets: 2.0 must be above 0 and below 1"),
        ({"budgets": [0.01, 0.01]}, r"budgets=\[0.01, 0.01\] must differ"),
        (
            {"budgets": [0.01, 0.5]},
            r"budgets=0.5 would be 50 %; write 0.5% or 0.005, or 50% if that is meant",
        ),
        ({"budgets": ["1%", "0%"]}, "budgets=.* or a percentage above 0% and below 100%, such as 0.3%"),
        ({"budgets": "many"}, "budgets='many' must be a list of numbers"),
        ({"budgets": [0.01], "graft": {"penalty": 1.0}}, "one search, which graft.penalty=1.0 rules out"),
        ({"budgets": [0.01], "graft": {"gates": "fixed"}}, "one search, which graft.gates='fixed' rules out"),
        (
            {"budgets": [0.01], "graft": {"structure": "random", "budget": 0.01}},
            "one search, which graft.structure='random' rules out",
        ),
    ],
)
def test_bad_budgets(
    run: tuple[Path, dict[float, dict[str, Any]]], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(run[0] / "recipe.yaml", changes)


def test_a_budget_below_one_adapter_fails_before_the_search(
    run: tuple[Path, dict[float, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"output": str(run[0] / "tiny"), "budgets": [0.05, 0.001]}
    monkeypatch.setattr(TrainingRun, "train", lambda *_: pytest.fail("searched"))
    with pytest.raises(StructureError, match=r"budget=0\.001 allows 19 parameters, less than one adapter"):
        fit_family(load_recipe(run[0] / "recipe.yaml", changes), console=QUIET)


def test_fit_and_fit_family_are_not_confused(run: tuple[Path, dict[float, dict[str, Any]]]) -> None:
    folder, _ = run
    with pytest.raises(TrainingError, match=r"several budgets; use graftwork\.fitting\.family\.fit_family"):
        fit(load_recipe(folder / "recipe.yaml", {"output": "x", "budgets": ["10%"]}), console=QUIET)
    with pytest.raises(TrainingError, match="the recipe has no budgets"):
        fit_family(load_recipe(folder / "recipe.yaml", {"output": "x"}), console=QUIET)


def test_nested_structures_of_a_hand_written_loop() -> None:
    model = grafted(budget=500)
    spread_gates(model)
    search = gw.StructureSearch(model, total_steps=1)
    search.begin(1.0)
    with pytest.raises(StructureError, match="the search has not decided its structure yet"):
        nested_structures(search, [500])
    for layer in model.modules():
        if isinstance(layer, gw.GraftLayer):
            layer.graft_ratio["default"].fill_(1.0)
    with torch.no_grad():
        decided = search.after_step(1)
    small, large = nested_structures(search, [200, 500])
    assert large == decided
    assert all(small.paths(task) < large.paths(task) for task in small.tasks)
    assert small.parameters() == 3 * 64
