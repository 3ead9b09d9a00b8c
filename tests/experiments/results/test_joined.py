"""One model per task beside one model for all, and rates that were overruled, as the report has them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from graftwork.experiments.grid.grid import Grid
from graftwork.experiments.report.costs import cost_table, fault_table, tuning_table
from graftwork.experiments.report.report import report
from graftwork.experiments.report.stale import current_runs, stale_table
from graftwork.experiments.report.tables import score_table
from graftwork.experiments.results.collect import Comparison, Result, agreed, read_results
from graftwork.experiments.results.collect import compare as compare_runs
from graftwork.experiments.results.joined import join_tasks
from graftwork.experiments.results.statistics import difference, references
from graftwork.experiments.running.compare import compare
from synthetic import failed, run_file, write

MakeGrid = Callable[..., Grid]
FAST = {"epochs": 0.2, "batch_size": 16, "learning_rate": 0.01, "max_length": 16}


def single(
    method: str, task: str, seed: int, score: float, rate: float = 0.001, **changes: Any
) -> dict[str, Any]:
    """A run of one task as `run_settings` identifies it."""
    run = run_file(method, seed, {task: score}, **changes)
    run["settings"] |= {
        "purpose": run["purpose"],
        "model": {"name": "m"},
        "data_seed": 0,
        "noise": [],
        "tasks": [{"name": task, "sha256": {"train": task}}],
        "training": {"epochs": 4.0, "learning_rate": rate},
    }
    run["pair"] = f"pair of {task}"
    run["forgetting"] = 0.1
    return run


def whole(method: str, seed: int, scores: dict[str, float], **changes: Any) -> dict[str, Any]:
    """A run of one model for all tasks."""
    run = single(method, "a", seed, 0.0)
    run |= run_file(method, seed, scores, **changes) | {"settings": run["settings"], "pair": "pair of all"}
    run["settings"] = {
        **run["settings"],
        "tasks": [{"name": task, "sha256": {"train": task}} for task in scores],
    }
    return run


def joined(folder: Path, *runs: dict[str, Any]) -> tuple[Comparison, ...]:
    return compare_runs(join_tasks(agreed(read_results(write(folder, *runs)))))


def distinct(*runs: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs with keys and groups of their own."""
    return [
        {**copy.deepcopy(run), "key": f"{i:016x}", "group": f"{run['group']}-{run['pair']}"}
        for i, run in enumerate(runs)
    ]


def test_single_tasks_have_a_suite_mean_beside_that_of_one_model(tmp_path: Path) -> None:
    runs = [whole("graft", seed, {"a": 0.5, "b": 0.7}, stored=70) for seed in (0, 1)]
    runs += [whole("lora", seed, {"a": 0.4, "b": 0.6}) for seed in (0, 1)]
    # Every task has its own learning rate, as tuning chose it.
    runs += [single("graft", "a", seed, 0.6, rate=0.003, stored=50) for seed in (0, 1)]
    runs += [single("graft", "b", seed, 0.9 + seed / 10, rate=0.001, stored=40) for seed in (0, 1)]
    (comparison,) = joined(tmp_path, *distinct(*runs))
    assert list(comparison.tasks) == ["a", "b"]
    titles = [group.title for group in comparison.groups]
    assert titles == ["graft · arrangement multi", "graft · arrangement single", "lora · arrangement multi"]
    own = comparison.groups[1]
    assert own.suites(["a", "b"]) == pytest.approx([0.75, 0.8])
    cells = {cells[0].text: cells for cells in score_table(comparison).rows}
    assert cells["graft · arrangement single"][1].text == "77.5"
    assert own.numbers("parameters.stored") == [90, 90]
    assert own.numbers("forgetting") == pytest.approx([0.1, 0.1])
    assert own.numbers("seconds.train") == [201, 203]
    assert own.runs[0].data["parameters"]["active"] == {"a": 50, "b": 40}
    assert cost_table(comparison).rows
    against = references(comparison, "graft")
    assert against[own.id].title == "graft · arrangement multi"
    result = difference(own, against[own.id], ["a", "b"])
    assert result.mean == pytest.approx(0.175)
    assert {group.id for group in comparison.groups} - against.keys() == {comparison.groups[0].id}


def test_single_tasks_alone_are_one_comparison_with_their_gaps(tmp_path: Path) -> None:
    runs = [single("lora", task, seed, 0.5) for task in "abc" for seed in (0, 1)]
    runs += [single("full", task, 0, 0.6) for task in "ab"]
    bad = failed(single("full", "c", 0, 0.6), "out of memory")
    (comparison,) = joined(tmp_path, *distinct(*runs, bad))
    assert list(comparison.tasks) == ["a", "b", "c"]
    assert {group.method: group.complete(["a", "b", "c"]) for group in comparison.groups} == {
        "full": False,
        "lora": True,
    }
    faults = fault_table([comparison])
    assert faults is not None
    errors = [cells[4].text for cells in faults.rows]
    assert errors == ["no run file", "no test score for c (out of memory)"]
    report(tmp_path, tmp_path / "out")
    text = (tmp_path / "out/report.md").read_text()
    assert "## arrangement single" in text
    assert "failed or missing: 2 (1 failed, 1 without a file)" in text


def test_other_data_or_another_schedule_is_another_comparison(tmp_path: Path) -> None:
    runs = [whole("lora", 0, {"a": 0.5, "b": 0.7})]
    runs += [single("lora", task, 0, 0.6) for task in "ab"]
    for run in runs[1:]:
        run["settings"]["training"]["epochs"] = 2.0
    comparisons = joined(tmp_path, *distinct(*runs))
    assert len(comparisons) == 2
    lone = joined(tmp_path / "lone", *distinct(runs[0], runs[1]))
    assert len(lone) == 2


def test_a_real_grid_of_both_arrangements(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["lora", "linear_probe"], arrangements=["multi", "single"], training=FAST)
    compare(grid, console=Console(quiet=True))
    (comparison,) = compare_runs(join_tasks(agreed(read_results(grid.results))))
    assert len(comparison.groups) == 4
    assert all(group.complete(["colour", "same", "length"]) for group in comparison.groups)
    by = {(group.method, group.vary["arrangement"]): group for group in comparison.groups}
    # A probe trains its linear models apart anyway.
    assert by["linear_probe", "single"].suites(list(comparison.tasks)) == pytest.approx(
        by["linear_probe", "multi"].suites(list(comparison.tasks))
    )


def tuned(rate: float, grid: list[float], seed: int = 0, **changes: Any) -> dict[str, Any]:
    run = single("lora", "a", seed, 0.5, rate=rate, **changes)
    run["tuning"] = {"grid": grid, "validation": {}, "chosen": rate}
    return run


def held(folder: Path, *runs: dict[str, Any]) -> tuple[list[float | None], list[tuple[Result, float]]]:
    keyed = [
        {**run, "key": f"{i:016x}", "group": f"{run['group']}-{run['settings']['training']['learning_rate']}"}
        for i, run in enumerate(runs)
    ]
    kept, left_out = current_runs(read_results(write(folder, *keyed)))
    return [run.number("settings.training.learning_rate") for run in kept], left_out


def test_a_rate_chosen_from_fewer_is_left_out_with_a_note(tmp_path: Path) -> None:
    old = [tuned(0.003, [0.001, 0.003], seed) for seed in (0, 1)]
    new = tuned(0.01, [0.001, 0.003, 0.01])
    rates, left_out = held(tmp_path, *old, new)
    assert rates == [0.01]
    table = stale_table(left_out)
    assert table is not None
    assert [cell.text for cell in table.rows[0]] == ["lora", "a", "0.003", "0.01", "0, 1"]
    report(tmp_path, tmp_path / "out")
    text = (tmp_path / "out/report.md").read_text()
    assert "## Runs left out" in text
    assert "| lora | a | 0.003 | 0.01 | 0, 1 |" in text


def test_rates_whose_grids_do_not_contain_each_other_are_shown_apart(tmp_path: Path) -> None:
    runs = [tuned(0.003, [0.001, 0.003]), tuned(0.01, [0.003, 0.01])]
    assert held(tmp_path, *runs)[0] == [0.003, 0.01]
    (comparison,) = compare_runs(read_results(tmp_path))
    assert [group.title for group in comparison.groups] == ["lora · rate 0.003", "lora · rate 0.01"]


def test_the_tuning_table_names_the_rates(tmp_path: Path) -> None:
    runs = [single("lora", "a", 0, 0.5 + rate, rate=rate, purpose="tune") for rate in (0.01, 0.002)]
    keyed = distinct(*({**run, "group": str(i)} for i, run in enumerate(runs)))
    table = tuning_table(compare_runs(read_results(write(tmp_path, *keyed))))
    assert table is not None
    assert [(cells[1].text, cells[3].tone) for cells in table.rows] == [
        ("learning_rate 0.002", ""),
        ("learning_rate 0.01", "best"),
    ]


def test_the_same_rate_again_holds(tmp_path: Path) -> None:
    # The second grid was wider, chose the same rate, and added a seed.
    runs = [tuned(0.003, [0.001, 0.003]), tuned(0.003, [0.001, 0.003, 0.01], seed=1)]
    assert held(tmp_path / "a", *runs)[0] == [0.003, 0.003]
    # A rate that was given, not tuned, is no rival.
    given = single("lora", "a", 0, 0.5, rate=0.1)
    assert held(tmp_path / "b", *runs, given)[0] == [0.003, 0.003, 0.1]


def test_an_extended_grid_marks_the_runs_it_keeps(make_grid: MakeGrid) -> None:
    settings: dict[str, Any] = {"methods": ["full"], "training": FAST}
    first = make_grid(**settings, tune={"learning_rates": [1e-6, 0.001]})
    compare(first, console=Console(quiet=True))
    second = make_grid(**settings, tune={"learning_rates": [1e-6, 0.001, 1e12]})
    compare(second, console=Console(quiet=True))
    (final,) = [run for run in read_results(first.results) if run.data["purpose"] == "final"]
    assert final.data["tuning"]["grid"] == [1e-6, 0.001, 1e12]
