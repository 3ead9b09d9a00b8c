"""A comparison ends with its table and with the command for the report."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from graftwork.cli import main
from graftwork.errors import Interrupted
from graftwork.experiments.grid.grid import Grid
from graftwork.experiments.results.store import Store
from graftwork.experiments.running import trial
from graftwork.experiments.running.compare import compare

FAST = {"epochs": 0.2, "batch_size": 16, "learning_rate": 0.01, "max_length": 16}
MakeGrid = Callable[..., Grid]


def said(grid: Grid, error: type[Exception] | None = None) -> list[str]:
    console = Console(record=True, width=200, file=io.StringIO())
    if error is None:
        compare(grid, console=console)
    else:
        with pytest.raises(error):
            compare(grid, console=console)
    return console.export_text().splitlines()


def rows(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]


def mean(grid: Grid, method: str, split: str) -> float:
    runs = [run for run in Store(grid.results).results() if run["method"] == method]
    scores = [task[split] for run in runs for task in run["tasks"].values()]
    return sum(scores) / len(scores)


def test_the_best_method_comes_first_with_its_interval(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["bitfit", "linear_probe"], seeds=[0, 1], training=FAST)
    lines = said(grid)
    found = rows(lines)
    assert {row[0] for row in found} == {"BitFit", "linear probe"}
    assert [float(row[4]) for row in found] == sorted((float(row[4]) for row in found), reverse=True)
    own = next(row for row in found if row[0] == "BitFit")
    assert own[2] == "2 of 2"
    assert own[3] == f"{mean(grid, 'bitfit', 'validation'):.3f}"
    assert own[4] == f"{mean(grid, 'bitfit', 'test'):.3f}"
    low, high = map(float, own[5].split(" to "))
    assert low <= float(own[4]) <= high
    assert any("fewer than five seeds" in line for line in lines)


def test_the_advised_command_writes_the_report(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["linear_probe"], seeds=[0], training=FAST)
    lines = said(grid)
    assert rows(lines)[0][5] == "none: one seed"
    assert any("one seed says nothing of the spread" in line for line in lines)
    (advice,) = [line for line in lines if line.startswith("the whole report: ")]
    words = shlex.split(advice.removeprefix("the whole report: "))
    main(words[words.index("report") :])
    assert (Path(f"{grid.results}-report") / "index.html").is_file()


def test_an_interrupted_comparison_shows_what_it_has(
    make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = make_grid(
        methods=["bitfit"], seeds=[0], training=FAST, tune={"learning_rates": [0.01, 0.02], "epochs": 0.1}
    )
    real, calls = trial.train_trial, []

    def stopped(run: Any, **options: Any) -> Any:
        calls.append(run)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return real(run, **options)

    monkeypatch.setattr(trial, "train_trial", stopped)
    lines = said(grid, Interrupted)
    (row,) = rows(lines)
    assert row[4] == "validation only"
    assert any("validation only" in line and "tuning runs" in line for line in lines)
    assert any(line.startswith("the whole report: ") for line in lines)
