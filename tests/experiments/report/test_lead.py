"""The first line of a report: the strongest LoRA of the size, and how many seeds say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graftwork.experiments.report.lead import lead
from graftwork.experiments.report.report import report
from graftwork.experiments.report.tables import escape
from graftwork.experiments.results.collect import Comparison, compare, read_results
from synthetic import run_file, write

WOBBLE = (0.001, -0.001, 0.002, -0.002, 0.0)


def load(folder: Path, *runs: dict[str, Any]) -> tuple[Comparison, ...]:
    return compare(read_results(write(folder, *runs)))


def stored(run: dict[str, Any], count: int) -> dict[str, Any]:
    run["parameters"]["stored"] = count
    return run


def runs_of(gain: float, seeds: int, **settings: Any) -> list[dict[str, Any]]:
    """A structure of 100 parameters, a LoRA of as many, a weaker one, and a larger one that is better."""
    runs = []
    for seed in range(seeds):
        base, own = 0.6 + seed / 100, 0.6 + seed / 100 + gain + WOBBLE[seed]
        runs += [
            stored(run_file("graft", seed, {"a": own, "b": own}, label="search", **settings), 100),
            stored(run_file("lora", seed, {"a": base, "b": base}, label="LoRA at 1e-3"), 100),
            stored(run_file("lora", seed, {"a": 0.3, "b": 0.3}, label="LoRA at 3e-3"), 100),
            stored(run_file("lora", seed, {"a": 0.99, "b": 0.99}, label="large LoRA"), 400),
        ]
    return runs


@pytest.mark.parametrize(
    ("gain", "words", "tone"),
    [(0.02, "search leads", "good"), (-0.02, "search trails", "bad"), (0.0, "search is level with", "")],
)
def test_five_seeds_decide(tmp_path: Path, gain: float, words: str, tone: str) -> None:
    verdict = lead(load(tmp_path / "runs", *runs_of(gain, 5)))
    assert verdict is not None
    assert words in verdict.headline
    assert "LoRA at 1e-3" in verdict.headline
    assert "5 seeds" in verdict.headline
    assert verdict.tone == tone
    report(tmp_path / "runs", tmp_path / "out")
    assert (tmp_path / "out/report.md").read_text().splitlines()[0] == f"# {escape(verdict.headline)}"
    assert f'<header class="{tone}">' in (tmp_path / "out/index.html").read_text()


def test_the_figures_of_the_headline(tmp_path: Path) -> None:
    verdict = lead(load(tmp_path, *runs_of(0.02, 5)))
    assert verdict is not None
    assert "by 2.0 points [+1.9, +2.1]" in verdict.headline


def test_few_seeds_are_said_and_not_coloured(tmp_path: Path) -> None:
    verdict = lead(load(tmp_path / "runs", *runs_of(0.02, 2)))
    assert verdict is not None
    assert "2 seeds: too few to tell" in verdict.headline
    assert verdict.tone == ""
    report(tmp_path / "runs", tmp_path / "out", reference="LoRA at 1e-3")
    page = (tmp_path / "out/index.html").read_text()
    body = page[page.index("<main>") :]
    assert 'class="good"' not in body
    assert 'class="short good"' not in body


def test_a_probe_that_is_as_good_comes_first(tmp_path: Path) -> None:
    probe = [run_file("linear_probe", seed, {"a": 0.9, "b": 0.9}, label="probe") for seed in range(5)]
    verdict = lead(load(tmp_path, *runs_of(0.02, 5), *probe))
    assert verdict is not None
    assert verdict.headline.startswith("probe is as good as search or better; search leads")
    assert verdict.tone == "bad"


def test_without_a_lora_of_the_size_there_is_no_lead(tmp_path: Path) -> None:
    runs = [run for run in runs_of(0.02, 5) if run["label"] in ("search", "large LoRA")]
    assert lead(load(tmp_path, *runs)) is None
