"""Runs that differ in a setting that is not to count are one group of a report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from graftwork.cli import main
from graftwork.errors import DataError
from graftwork.experiments.report.ignore import ignored_table, ignoring
from graftwork.experiments.report.tables import markdown
from graftwork.experiments.results.collect import compare, read_results
from graftwork.experiments.results.statistics import difference, references
from synthetic import hashed, run_file, write


def run(label: str, seed: int, score: float, bf16: bool, budget: float = 0.001) -> dict[str, Any]:
    """A run whose number format is part of its group and pair, as in `run_settings`."""
    training = {"bf16": bf16, "epochs": 3}
    settings = {"method": {"name": label}, "training": training, "graft": {"budget": budget}, "seed": seed}
    return {
        **run_file(label, seed, {"a": score}),
        "key": hashed(label, seed, bf16, budget),
        "group": hashed(label, bf16, budget),
        "pair": hashed(bf16),
        "settings": {**settings, "vary": {}},
    }


def two_formats() -> list[dict[str, Any]]:
    """Seeds 0 and 1 in bfloat16, 2 in float32: graft is ahead by .02, .04 and .06."""
    rows = [(0, 0.50, True), (1, 0.50, True), (2, 0.60, False)]
    lora = [run("lora", seed, score, bf16) for seed, score, bf16 in rows]
    return lora + [run("graft", seed, score + 0.02 * (seed + 1), bf16) for seed, score, bf16 in rows]


def test_groups_and_comparisons_are_joined(tmp_path: Path) -> None:
    runs = read_results(write(tmp_path, *two_formats()))
    assert len(compare(runs)) == 2
    (comparison,) = compare(ignoring(runs, ["training.bf16"]))
    assert [(group.label, [each.seed for each in group.runs]) for group in comparison.groups] == [
        ("graft", [0, 1, 2]),
        ("lora", [0, 1, 2]),
    ]
    against = references(comparison, "lora")
    (graft,) = (group for group in comparison.groups if group.label == "graft")
    result = difference(graft, against[graft.id], ["a"])
    assert (result.seeds, result.mean) == ((0, 1, 2), pytest.approx(0.04))


def test_other_settings_still_count(tmp_path: Path) -> None:
    runs = read_results(write(tmp_path, *two_formats(), run("lora", 2, 0.7, False, budget=0.003)))
    (comparison,) = compare(ignoring(runs, ["training.bf16"]))
    assert sorted(len(group.runs) for group in comparison.groups) == [1, 3, 3]


def test_nothing_ignored_changes_nothing(tmp_path: Path) -> None:
    runs = read_results(write(tmp_path, *two_formats()))
    assert ignoring(runs, []) == runs
    assert ignored_table(runs, []) is None


def test_faults_are_one_line(tmp_path: Path) -> None:
    runs = read_results(write(tmp_path, *two_formats(), run("lora", 1, 0.5, False)))
    with pytest.raises(DataError, match=re.escape("no run has the setting 'training.fp16' to ignore")):
        ignoring(runs, ["training.fp16"])
    with pytest.raises(DataError, match=r"\(lora, seed 1\) have the same group and seed"):
        ignoring(runs, ["training.bf16"])


def test_report_says_what_it_ignored(tmp_path: Path) -> None:
    folder = write(tmp_path / "runs", *two_formats())
    main(["report", str(folder), "-o", str(tmp_path / "page"), "--ignore", "training.bf16"])
    text = (tmp_path / "page/report.md").read_text()
    assert "## Settings ignored" in text
    table = ignored_table(read_results(folder), ["training.bf16"])
    assert table is not None
    assert markdown(table) in text
    assert [[cell.text for cell in row] for row in table.rows][:2] == [
        ["training.bf16", "False", "graft", "2"],
        ["training.bf16", "False", "lora", "2"],
    ]
