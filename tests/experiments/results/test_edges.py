"""A rate at the edge of what was tried is said beside the figures that it touches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graftwork.experiments.report.report import report
from graftwork.experiments.results.collect import compare, read_results
from graftwork.experiments.results.edges import edge_doubt
from graftwork.experiments.results.joined import join_tasks
from synthetic import hashed, run_file, write


def tuned(grid: list[float], chosen: float) -> dict[str, Any]:
    return {"grid": grid, "validation": {}, "chosen": chosen}


@pytest.mark.parametrize(
    ("tuning", "said"),
    [
        (tuned([0.001, 0.003, 0.01], 0.01), "rate 0.01 at the edge of its grid"),
        (tuned([0.001, 0.003, 0.01], 0.001), "rate 0.001 at the edge of its grid"),
        (tuned([0.001, 0.003, 0.01], 0.003), ""),
        (tuned([0.003], 0.003), ""),
        (None, ""),
    ],
)
def test_a_rate_at_the_edge(tmp_path: Path, tuning: Any, said: str) -> None:
    ((group,),) = (each.groups for each in compare(read_results(_lora(tmp_path, tuning))))
    assert edge_doubt(group) == said


def _lora(folder: Path, tuning: Any) -> Path:
    return write(folder, *(run_file("lora", seed, {"a": 0.5}, tuning=tuning) for seed in (0, 1)))


def test_of_one_model_per_task_the_tasks_are_named(tmp_path: Path) -> None:
    runs = []
    for task, rate in (("a", 0.01), ("b", 0.003), ("c", 0.001)):
        run = run_file("lora", 0, {task: 0.5}, tuning=tuned([0.001, 0.003, 0.01], rate), key=hashed(task))
        run["settings"]["tasks"] = [{"name": task}]
        runs.append(run)
    (comparison,) = compare(join_tasks(read_results(write(tmp_path, *runs))))
    assert edge_doubt(comparison.groups[0]) == "rates 0.01 of a, 0.001 of c at the edge of their grids"


def test_the_report_says_it_in_the_headline_and_in_the_cells(tmp_path: Path) -> None:
    runs = [
        run_file("graft", seed, {"a": 0.6, "b": 0.6}, tuning=tuned([1e-3, 3e-3], 3e-3)) for seed in (0, 1)
    ]
    runs += [run_file("lora", seed, {"a": 0.5, "b": 0.5}, label="LoRA") for seed in (0, 1)]
    report(write(tmp_path / "runs", *runs), tmp_path / "out")
    page = (tmp_path / "out/index.html").read_text()
    assert "<li>graft: rate 0.003 at the edge of its grid, so a better one may lie beyond.</li>" in page
    assert (
        page.count('<small class="doubt">rate 0.003 at the edge of its grid</small>') == 2
    )  # score, difference
    text = (tmp_path / "out/report.md").read_text()
    assert "60.0 (± 0.0; rate 0.003 at the edge of its grid)" in text
