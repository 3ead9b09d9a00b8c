"""The axes on offer, and that every point has the values of the run files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graftwork.experiments.report.interactive.scatter import scatter
from graftwork.experiments.results.collect import compare, read_results
from graftwork.experiments.results.joined import join_tasks
from graftwork.pages.canvas import looks
from synthetic import failed, hashed, run_file, write

TWO = {"a": 0.5, "b": 0.7}


def shown(folder: Path, *runs: dict[str, Any], doubts: Any = None) -> dict[str, Any] | None:
    results = join_tasks(read_results(write(folder, *runs)))
    (comparison,) = compare(results)
    return scatter(comparison, looks([run.label for run in results]), doubts or {})


def test_points_have_the_means_of_the_files(tmp_path: Path) -> None:
    runs = [run_file("lora", seed, TWO, label="LoRA", stored=50_000) for seed in (0, 1)]
    runs += [run_file("graft", 0, {"a": 0.6, "b": 0.9}), failed(run_file("graft", 1, TWO), "nan")]
    found = shown(tmp_path, *runs)
    assert found is not None
    assert [axis["key"] for axis in found["scores"]] == ["suite", "test a", "test b", "validation"]
    # Every other cost is the same for both, so no axis of it could tell them apart.
    assert [axis["key"] for axis in found["costs"]] == [
        "stored",
        "active",
        "disk",
        "train",
        "total",
        "memory",
    ]
    graft, lora = found["points"]
    assert (graft["seeds"], graft["whole"], lora["seeds"], lora["whole"]) == ("1 of 2", False, "2 of 2", True)
    assert graft["scores"]["suite"] == [0.75, None, None]  # one seed has no interval
    assert lora["scores"]["test b"] == [0.7, 0.7, 0.7]
    assert lora["costs"] | {"memory": None} == {
        "stored": 50_000,
        "active": 50_000,
        "disk": pytest.approx(0.232),
        "train": 101.0,
        "total": 130.5,
        "memory": None,
    }
    assert lora["costs"]["memory"] == pytest.approx(0.900232)


def test_the_price_of_all_tasks_is_an_axis_where_runs_have_it(tmp_path: Path) -> None:
    runs = [
        run_file("graft", 0, TWO, label=f"at most {price}", trunk={"price": price}) for price in (1.3, 1.8)
    ]
    found = shown(tmp_path / "a", *runs, run_file("lora", 0, TWO, label="LoRA"))
    assert found is not None
    assert found["costs"] == [{"key": "price", "name": "price of all tasks on one text, passes"}]
    prices = {point["label"]: point["costs"].get("price") for point in found["points"]}
    assert prices == {"at most 1.3": 1.3, "at most 1.8": 1.8, "LoRA": None}


def test_one_model_per_task_costs_a_pass_for_each(tmp_path: Path) -> None:
    runs = []
    for task in ("a", "b"):
        run = run_file("lora", 0, {task: 0.5}, label="LoRA", key=hashed(task))
        run["settings"]["tasks"] = [{"name": task}]
        runs.append(run)
    (joined,) = join_tasks(read_results(write(tmp_path, *runs)))
    assert joined.number("trunk.price") == 2.0


def test_nothing_to_choose_is_no_chart(tmp_path: Path) -> None:
    runs = [run_file("lora", 0, {"a": 0.5}, label="LoRA"), run_file("graft", 0, {"a": 0.6})]
    assert shown(tmp_path, *runs) is None
