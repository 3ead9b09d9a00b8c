"""Runs that differ only in the noise they are tested with share one training, and nothing else changes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from graftwork.errors import TrainingError
from graftwork.experiments.grid.grid import Grid, Trial, make_trial
from graftwork.experiments.grid.plan import Plan
from graftwork.experiments.results.store import Store
from graftwork.experiments.running import trial
from graftwork.experiments.running.compare import Summary, compare
from graftwork.experiments.running.pool import grouped
from graftwork.experiments.running.trial import run_trial

MakeGrid = Callable[..., Grid]
SWEPT: dict[str, Any] = {
    "training": {"epochs": 0.5, "batch_size": 16, "learning_rate": 0.01, "max_length": 16},
    "noise": [{"kind": "word_drop", "ratio": 0.0}],
    "vary": {"noise.kind": ["word_drop", "embeddings", "labels"], "noise.ratio": [0.0, 0.5]},
}
VOLATILE = ("seconds", "started", "memory_peak_bytes", "tuning")


def quiet(grid: Grid, **options: Any) -> Summary:
    return compare(grid, console=Console(quiet=True), **options)


def results(grid: Grid) -> dict[str, dict[str, Any]]:
    return {run["key"]: run for run in Store(grid.results).results()}


def steady(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in VOLATILE}


class Counter:
    """Counts trainings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs: list[Trial] = []
        original = trial.train_trial

        def counted(run: Trial, **options: Any) -> trial.Trained:
            self.runs.append(run)
            return original(run, **options)

        monkeypatch.setattr(trial, "train_trial", counted)


@pytest.mark.parametrize("method", ["graft", "linear_probe"])
def test_one_training_gives_what_six_give(
    make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    grid = make_grid(methods=[method], **SWEPT)
    counter = Counter(monkeypatch)
    assert quiet(grid) == Summary(6, 6, (), 6)
    # One for all noise at test time and for none; one for half of the training labels wrong.
    assert len(counter.runs) == 2
    found = results(grid)
    assert len({run["training_key"] for run in found.values()}) == 2
    for cell in grid.cells():
        alone = run_trial(make_trial(grid, cell, seed=0, purpose="final"))
        assert steady(found[alone["key"]]) == steady(alone)
    tests = {
        (run["settings"]["vary"]["noise.kind"], run["settings"]["vary"]["noise.ratio"]): run["suite"]["test"]
        for run in found.values()
    }
    assert tests["word_drop", 0.0] == tests["embeddings", 0.0] == tests["labels", 0.0]
    assert len({tests["word_drop", 0.0], tests["word_drop", 0.5], tests["embeddings", 0.5]}) == 3


def test_killed_between_two_files_and_resumed(make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = make_grid(methods=["lora"], **SWEPT)
    original, scored = trial.Trained.result, 0

    def killed(self: trial.Trained, run: Trial) -> dict[str, Any]:
        nonlocal scored
        scored += 1
        if scored == 3:
            raise KeyboardInterrupt
        return original(self, run)

    with monkeypatch.context() as patch:
        patch.setattr(trial.Trained, "result", killed)
        with pytest.raises(TrainingError, match="interrupted; 2 of 6 runs"):
            quiet(grid)
    before = results(grid)
    assert len(before) == 2
    assert quiet(grid) == Summary(6, 6, (), 4)
    after = results(grid)
    assert all(after[key] == run for key, run in before.items())
    for cell in grid.cells():
        alone = run_trial(make_trial(grid, cell, seed=0, purpose="final"))
        assert steady(after[alone["key"]]) == steady(alone)


def test_one_condition_may_fail_alone_and_a_training_for_all(
    make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = make_grid(methods=["lora"], **SWEPT)
    original = trial.Trained.result

    def broken(self: trial.Trained, run: Trial) -> dict[str, Any]:
        if run.noise[0].kind == "embeddings" and run.noise[0].ratio:
            raise RuntimeError("no memory")
        return original(self, run)

    with monkeypatch.context() as patch:
        patch.setattr(trial.Trained, "result", broken)
        assert quiet(grid).done == 5
    counter = Counter(monkeypatch)
    assert quiet(grid, retry_failed=True) == Summary(6, 6, (), 1)
    assert len(counter.runs) == 1

    def hopeless(run: Trial, **options: Any) -> trial.Trained:
        raise TrainingError("training diverged")

    monkeypatch.setattr(trial, "train_trial", hopeless)
    other = make_grid(methods=["lora"], seeds=[1], **SWEPT)
    assert len(quiet(other).failed) == 6


def test_the_plan_says_how_many_trainings_there_are(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["lora"], seeds=[0, 1], **SWEPT)
    console = Console(record=True, width=250, file=io.StringIO())
    compare(grid, console=console, dry_run=True)
    assert "4 trainings serve the 12" in console.export_text()
    jobs, _ = Plan(grid, Store(grid.results)).finals()
    bundles = grouped(jobs)
    assert sorted(len(job.others) for job in bundles) == [0, 0, 4, 4]
    assert all(other.work < job.work for job in bundles for other in job.others)


@pytest.mark.slow
def test_processes_share_trainings_too(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["lora"], **SWEPT)
    assert quiet(grid, jobs=2) == Summary(6, 6, (), 6)
    found = results(grid)
    for cell in grid.cells():
        alone = run_trial(make_trial(grid, cell, seed=0, purpose="final"))
        assert found[alone["key"]]["suite"] == pytest.approx(alone["suite"], abs=1e-6)
