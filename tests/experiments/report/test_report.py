"""The report as a reader meets it: numbers checked by hand, gaps shown, the same bytes every time."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graftwork.cli import main
from graftwork.errors import DataError, GraftworkError
from graftwork.experiments.report.below import below_probe, below_reference
from graftwork.experiments.report.costs import (
    active_table,
    cost_table,
    fault_table,
    noise_table,
    search_table,
    tuning_table,
)
from graftwork.experiments.report.curves import curves
from graftwork.experiments.report.report import report
from graftwork.experiments.report.tables import (
    Cell,
    Column,
    Table,
    difference_table,
    gap,
    markdown,
    score_table,
)
from graftwork.experiments.report.verdict import judge
from graftwork.experiments.results.collect import Comparison, Group, compare, read_results
from graftwork.experiments.results.statistics import (
    counterpart,
    difference,
    interval_of_mean,
    pareto_front,
    references,
)
from synthetic import failed, hashed, run_file, showcase, structure, write

HOSTILE = '<script>alert("x")</script> $x_{ | `y` {{ 7*7 }} & 漢字'


def load(folder: Path, *runs: dict[str, Any]) -> tuple[Comparison, ...]:
    return compare(read_results(write(folder, *runs)))


def row(table: Table, title: str) -> dict[str, Cell]:
    cells = next(cells for cells in table.rows if cells[0].text == title)
    return dict(zip((column.name for column in table.columns), cells, strict=True))


def group(comparison: Comparison, title: str) -> Group:
    return next(each for each in comparison.groups if each.title == title)


def two_methods() -> list[dict[str, Any]]:
    """LoRA .50/.70, .60/.80; graft .54/.72, .66/.84: paired differences .04/.02, .06/.04."""
    lora = [(0.50, 0.70), (0.60, 0.80)]
    graft = [(0.54, 0.72), (0.66, 0.84)]
    return [
        run_file(method, seed, {"a": scores[0], "b": scores[1]}, label=label)
        for method, label, all_scores in (("lora", "LoRA", lora), ("graft", "graft", graft))
        for seed, scores in enumerate(all_scores)
    ]


def test_scores_are_means_over_seeds_with_their_deviation(tmp_path: Path) -> None:
    (comparison,) = load(tmp_path, *two_methods())
    cells = row(score_table(comparison), "LoRA")
    assert cells["seeds"] == Cell("2/2", "seeds 0, 1")
    assert cells["a"] == Cell("55.0", "± 7.1")  # |.6 - .5| / sqrt 2
    assert cells["suite mean"] == Cell("65.0", "± 7.1")
    assert row(score_table(comparison), "graft")["suite mean"] == Cell("69.0", "± 8.5", "best")


def test_difference_is_paired_by_seed(tmp_path: Path) -> None:
    (comparison,) = load(tmp_path, *two_methods())
    against = references(comparison, "lora")
    graft = group(comparison, "graft")
    assert list(against) == [graft.id]
    result = difference(graft, against[graft.id], ["a", "b"])
    assert result.seeds == (0, 1)
    assert result.mean == pytest.approx(0.04)
    # The seed means are .03 and .05, so a resample of two seeds is .03, .04 or .05; the ends have 1/4 each.
    assert result.interval_seeds is not None
    assert (result.interval_seeds.low, result.interval_seeds.high) == pytest.approx((0.03, 0.05))
    # Both tasks drawn twice: from .02 (seed 0, b) to .06 (seed 1, a), with 1/16 each.
    assert result.interval is not None
    assert (result.interval.low, result.interval.high) == pytest.approx((0.02, 0.06))
    assert result.tasks["a"][0] == pytest.approx(0.05)
    assert result.verdict == "better"
    cells = row(difference_table(comparison, [result]), "graft")
    assert cells["difference"].text == "+4.0"
    assert cells["pairs"] == Cell("2", "0, 1")
    assert cells["a"].text == "+5.0"


def test_differences_from_a_label(tmp_path: Path) -> None:
    labels = ("uniform", "private")
    runs = [run_file("fixed_structure", 0, {"a": 0.5}, label=label) for label in labels]
    (comparison,) = load(tmp_path / "runs", *runs, run_file("lora", 0, {"a": 0.8}))
    named = {group.id: group.label for group in comparison.groups}
    against = references(comparison, "uniform")
    found = {named[identity]: group.label for identity, group in against.items()}
    assert found == {"lora": "uniform", "private": "uniform"}
    report(tmp_path / "runs", tmp_path / "out", reference="uniform")
    with pytest.raises(DataError, match=r"no run has the reference 'none'; the methods are .*, the labels "):
        report(tmp_path / "runs", tmp_path / "out2", reference="none")


def test_one_pair_has_no_interval_and_no_verdict(tmp_path: Path) -> None:
    (comparison,) = load(tmp_path, *two_methods()[1:3])
    result = difference(group(comparison, "graft"), group(comparison, "LoRA"), ["a", "b"])
    assert result.mean is None
    assert result.verdict == "no pairs"
    runs = [run for run in two_methods() if run["seed"] == 0]
    (comparison,) = load(tmp_path / "one", *runs)
    result = difference(group(comparison, "graft"), group(comparison, "LoRA"), ["a", "b"])
    assert result.mean == pytest.approx(0.03)
    assert result.interval is None
    assert result.verdict == "too few pairs"


def test_interval_agrees_with_theory() -> None:
    rng = np.random.default_rng(1)
    table = rng.normal(0, 1, (200, 1))
    interval = interval_of_mean(table)
    assert interval is not None
    half = 1.96 * table.std() / np.sqrt(200)
    assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.05)
    assert interval_of_mean(table[:1]) is None
    assert interval_of_mean(np.full((5, 3), 0.25), over_tasks=True) is not None


def test_pareto_front() -> None:
    points = [(10.0, 0.5), (20.0, 0.4), (20.0, 0.7), (30.0, 0.7), (5.0, 0.1), (10.0, 0.5)]
    assert pareto_front(points) == [4, 0, 5, 2]


def test_missing_and_failed_runs_are_shown_and_not_averaged(tmp_path: Path) -> None:
    runs = [run_file("lora", seed, {"a": 0.5, "b": 0.5}, label="LoRA") for seed in range(5)]
    runs += [run_file("graft", seed, {"a": 0.9, "b": 0.9}) for seed in (0, 1)]
    runs.append(failed(run_file("graft", 2, {"a": 0.1, "b": 0.1}), "TrainingError: loss is nan"))
    (comparison,) = load(tmp_path, *runs)
    cells = row(score_table(comparison), "graft")
    assert cells["seeds"] == Cell("2/5", "seeds 0, 1; 1 failed", "bad")
    assert cells["suite mean"] == Cell("90.0", "± 0.0, 2/5 seeds", "quiet")
    assert row(score_table(comparison), "LoRA")["suite mean"].tone == "best"
    faults = fault_table([comparison])
    assert faults is not None
    found = [(cells[2].text, cells[3].text, cells[4].text) for cells in faults.rows]
    assert found == [
        ("2", "failed", "TrainingError: loss is nan"),
        ("3", "missing", "no run file"),
        ("4", "missing", "no run file"),
    ]
    result = difference(group(comparison, "graft"), group(comparison, "LoRA"), ["a", "b"])
    assert result.seeds == (0, 1)


@pytest.mark.parametrize("score", [None, float("nan")])
def test_run_without_one_score_has_no_suite_mean(tmp_path: Path, score: float | None) -> None:
    runs = [
        run_file("lora", 0, {"a": 0.5, "b": 0.7}, label="LoRA"),
        run_file("lora", 1, {"a": 0.7, "b": score}, label="LoRA"),
    ]
    (comparison,) = load(tmp_path, *runs)
    cells = row(score_table(comparison), "LoRA")
    assert cells["a"].text == "60.0"
    assert cells["b"] == Cell("70.0", "1/2 seeds", "quiet")
    assert cells["suite mean"] == Cell("60.0", "1/2 seeds", "quiet")
    faults = fault_table([comparison])
    assert faults is not None
    assert faults.rows[0][4].text == "no test score for b"


def test_costs_have_the_names_of_peft(tmp_path: Path) -> None:
    runs = two_methods()
    runs[0]["forgetting"] = 0.25
    (comparison,) = load(tmp_path, *runs)
    cells = row(cost_table(comparison), "LoRA")
    names = "test_accuracy forgetting train_loss num_trainable_params train_time total_time file_size"
    assert {*names.split(), "accelerator_memory_max", "stored", "active", "heads"} <= set(cells)
    assert cells["test_accuracy"].text == "0.6500"
    assert cells["forgetting"] == Cell("0.2500", "1 of 2 runs")
    assert cells["train_time"].text == "101.0"
    assert cells["num_trainable_params"].text == "78,000"
    assert cells["file_size"].text == "312,000"
    assert active_table(comparison) is None
    runs[2]["parameters"]["active"] = {"a": 100, "b": 300}
    (comparison,) = load(tmp_path, *runs)
    assert cost_table(comparison).columns[-2].name == "active"
    active = active_table(comparison)
    assert active is not None
    assert [cells[0].text for cells in active.rows] == ["graft"]


def swept(method: str, value: float, shift: float, seeds: int = 2, **vary: Any) -> list[dict[str, Any]]:
    settings = {"graft.budget": value, **vary}
    return [
        run_file(
            method,
            seed,
            {"a": 0.5 + shift + seed / 100},
            vary=settings,
            own=tuple(settings),
            stored=int(1e6 * value),
        )
        for seed in range(seeds)
    ]


def test_curves_join_what_differs_in_one_setting(tmp_path: Path) -> None:
    runs = [run for i, value in enumerate((0.01, 0.001, 0.003)) for run in swept("graft", value, i / 10)]
    runs += swept("random_structure", 0.001, 0.2)
    runs += [run_file("lora", seed, {"a": 0.5}) for seed in (0, 1)]
    comparisons = load(tmp_path, *runs)
    (curve,) = curves(comparisons, "lora")
    assert curve.key == "budget"
    (line,) = curve.lines
    assert [point.x for point in line.points] == [0.001, 0.003, 0.01]
    assert [point.mean for point in line.points] == pytest.approx([0.605, 0.705, 0.505])
    assert line.points[0].interval is not None
    assert curve.levels == (("lora", "lora", 0.5),)


def test_two_groups_at_one_place_of_a_curve_are_left_out(tmp_path: Path) -> None:
    runs = [run for value in (0.001, 0.003, 0.01) for run in swept("graft", value, 0)]
    twin = swept("graft", 0.003, 0.1, seeds=1)[0]
    twin |= {"key": hashed("twin"), "group": hashed("twin group")}
    (curve,) = curves(load(tmp_path, *runs, twin), "lora")
    assert [point.x for point in curve.lines[0].points] == [0.001, 0.01]
    assert "graft at 0.003" in curve.caption


def test_learning_rates_may_differ_along_a_curve(tmp_path: Path) -> None:
    runs = swept("graft", 0.001, 0, **{"training.learning_rate": 1e-3})
    runs += swept("graft", 0.003, 0, **{"training.learning_rate": 3e-3})
    lines = [
        line
        for curve in curves(load(tmp_path, *runs), "lora")
        for line in curve.lines
        if curve.key == "budget"
    ]
    assert [len(line.points) for line in lines] == [2]


def test_counterpart_has_the_same_swept_settings(tmp_path: Path) -> None:
    runs = [
        run for value in (0.001, 0.01) for m in ("graft", "random_structure") for run in swept(m, value, 0)
    ]
    (comparison,) = load(tmp_path, *runs)
    randoms = [each for each in comparison.groups if each.method == "random_structure"]
    for each in comparison.groups:
        if each.method == "graft":
            other = counterpart(each, randoms)
            assert other is not None
            assert other.vary == each.vary


@pytest.mark.parametrize(
    ("gain", "words", "good"),
    [(0.02, "beats the random one", True), (-0.02, "does not beat", False), (0.0, "does not beat", False)],
)
def test_first_line_judges_learned_against_random(
    tmp_path: Path, gain: float, words: str, good: bool
) -> None:
    runs = [run_file("random_structure", seed, {"a": 0.5 + seed / 50, "b": 0.6}) for seed in range(5)]
    wobble = (0.001, -0.001, 0.002, -0.002, 0.0)
    runs += [
        run_file("graft", seed, {"a": 0.5 + seed / 50 + gain + wobble[seed], "b": 0.6 + gain})
        for seed in range(5)
    ]
    verdict = judge(load(tmp_path / "runs", *runs))
    assert verdict is not None
    assert words in verdict.headline
    assert verdict.good is good
    report(tmp_path / "runs", tmp_path / "out")
    assert (tmp_path / "out/report.md").read_text().splitlines()[0] == f"# {verdict.headline}"
    assert f"<h1>{verdict.headline}</h1>" in (tmp_path / "out/index.html").read_text()


def test_no_verdict_without_both(tmp_path: Path) -> None:
    assert judge(load(tmp_path / "a", *two_methods())) is None
    drawn = run_file("fixed_structure", 0, {"a": 0.5})
    drawn["settings"]["method"]["structure"] = "random_paths"
    assert judge(load(tmp_path / "d", run_file("graft", 0, {"a": 0.5}), drawn)) is not None
    fixed = run_file("graft", 0, {"a": 0.5}, label="fixed")
    fixed["settings"]["graft"] = {"gates": "fixed"}
    assert judge(load(tmp_path / "b", fixed, run_file("random_structure", 0, {"a": 0.5}))) is None
    apart = (run_file("graft", 0, {"a": 0.5}), run_file("random_structure", 1, {"a": 0.5}))
    verdict = judge(load(tmp_path / "c", *apart))
    assert verdict is not None
    assert "no seed in common" in verdict.headline


def test_verdict_takes_the_random_structure_that_has_seeds_in_common(tmp_path: Path) -> None:
    randoms = [
        run_file("random_structure", 0, {"a": 0.5}, label="a random one"),
        run_file("random_structure", 1, {"a": 0.5}, label="another"),
    ]
    for seed, run in enumerate(randoms):
        verdict = judge(load(tmp_path / str(seed), *randoms, run_file("graft", seed, {"a": 0.6})))
        assert verdict is not None
        assert f"against {run['label']}: +10.0 points" in verdict.evidence[0]


def test_verdict_takes_the_random_structure_with_most_seeds_in_common(tmp_path: Path) -> None:
    runs = [run_file("random_structure", 0, {"a": 0.1}, label="a single one")]
    runs += [run_file("random_structure", seed, {"a": 0.5}, label="one with seeds") for seed in range(3)]
    runs += [run_file("graft", seed, {"a": 0.6 + seed / 100}) for seed in range(3)]
    verdict = judge(load(tmp_path, *runs))
    assert verdict is not None
    assert verdict.good
    assert "against one with seeds: +11.0 points" in verdict.evidence[0]


def test_the_control_of_one_budget_is_judged_though_another_budget_has_more_seeds(tmp_path: Path) -> None:
    runs = []
    for budget, seeds in ((0.001, 2), (0.003, 4)):
        settings: dict[str, Any] = {"vary": {"graft.budget": budget}, "own": ("graft.budget",)}
        runs += [run_file("random_structure", seed, {"a": 0.5}, **settings) for seed in range(seeds)]
        runs += [run_file("graft", seed, {"a": 0.6 + seed / 100}, **settings) for seed in range(4)]
    verdict = judge(load(tmp_path, *runs))
    assert verdict is not None
    assert verdict.headline == "The learned structure beats the random one in 2 of 2 comparisons"
    assert ["2 pairs" in line or "4 pairs" in line for line in verdict.evidence] == [True, True]


def test_a_single_pair_of_seeds_is_no_verdict_either_way(tmp_path: Path) -> None:
    runs = [run_file("random_structure", seed, {"a": 0.5 + seed / 100}) for seed in range(3)]
    alone = run_file("graft", 0, {"a": 0.4}, label="tried once")
    verdict = judge(load(tmp_path / "a", *runs, alone))
    assert verdict is not None
    assert verdict.headline == "Too few seeds to tell whether the learned structure beats the random one"
    assert not verdict.good
    runs += [run_file("graft", seed, {"a": 0.6}, label="with seeds") for seed in range(3)]
    verdict = judge(load(tmp_path / "b", *runs, alone))
    assert verdict is not None
    assert verdict.good
    assert verdict.headline == "The learned structure beats the random one, 1 more has too few seeds to tell"
    assert len(verdict.evidence) == 2
    assert any("tried once" in line and "no interval from a single pair" in line for line in verdict.evidence)


def test_gaps_of_searches_have_a_table_and_other_runs_no_row(tmp_path: Path) -> None:
    gaps = ({"soft": 0.75, "hard": 0.746, "points": -0.4}, {"soft": 0.75, "hard": 0.752, "points": 0.2})
    runs = [run_file("graft", seed, {"a": 0.5}, search={"gap": gap}) for seed, gap in enumerate(gaps)]
    runs += [run_file("lora", seed, {"a": 0.5}, search=None) for seed in (0, 1)]
    (comparison,) = compare(read_results(write(tmp_path, *runs)))
    table = search_table(comparison)
    assert table is not None
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["graft", "2", "75.0", "74.9", "\N{MINUS SIGN}0.10", "\N{MINUS SIGN}0.40 to +0.20", "70,000"]
    ]
    assert search_table(compare(read_results(write(tmp_path / "none", *runs[2:])))[0]) is None


def test_tuning_runs_stay_out_of_the_scores(tmp_path: Path) -> None:
    key = "training.learning_rate"
    tune = [
        run_file("lora", 0, {"a": score}, vary={key: rate}, own=(key,), purpose="tune")
        for rate, score in ((0.001, 0.8), (0.003, 0.9))
    ]
    runs = read_results(write(tmp_path, *tune, *two_methods()))
    table = tuning_table(compare(run for run in runs if run.data["purpose"] == "tune"))
    assert table is not None
    assert [(cells[1].text, cells[3].text, cells[3].tone) for cells in table.rows] == [
        ("learning_rate 0.001", "80.0", ""),
        ("learning_rate 0.003", "90.0", "best"),
    ]


def test_noise_is_reported_with_its_unit(tmp_path: Path) -> None:
    run = run_file("lora", 0, {"a": 0.5})
    noise = {"kind": "characters", "unit": "CER", "when": "test", "ratio": 0.1}
    run["noise"] = [{**noise, "realised": {"test": value}, "words": {"test": 0.4}} for value in (0.08, 0.1)]
    table = noise_table(load(tmp_path, run))
    assert table is not None
    texts = [cell.text for cell in table.rows[0][2:]]
    assert texts == ["characters", "CER", "test", "0.1", "0.0900", "0.0800 to 0.1000", "0.400"]


def test_markdown_and_signs() -> None:
    table = Table(
        (Column("a|b", text=True), Column("c")), ((Cell("<i>*x*"), Cell("1", "n", "best")),), ("note",)
    )
    assert markdown(table).splitlines() == [
        r"| a\|b | c |",
        "| :-- | --: |",
        r"| &lt;i&gt;\*x\* | **1 (n)** |",
        "",
        "note",
    ]
    assert [gap(value) for value in (0.0123, -0.0123, -0.00001)] == ["+1.2", "\N{MINUS SIGN}1.2", "0.0"]


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")
        ]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script" and data.strip():
            self.scripts.append(data)


def test_hostile_labels_are_text(tmp_path: Path) -> None:
    runs = [run_file("lora", seed, {HOSTILE: 0.5, "b": 0.6}, label=HOSTILE, stored=5) for seed in (0, 1)]
    runs += [
        run_file("graft", seed, {HOSTILE: 0.6, "b": 0.6}, vary={"graft.x": HOSTILE}, own=("graft.x",))
        for seed in (0, 1)
    ]
    runs += [run_file("ia3", seed, {HOSTILE: 0.5, "b": 0.6}, label="(IA)3 $", stored=9) for seed in (0, 1)]
    runs.append(failed(run_file("poly", 0, {HOSTILE: 0.5, "b": 0.6}), HOSTILE))
    report(write(tmp_path / "runs", *runs), tmp_path / "out")
    page = (tmp_path / "out/index.html").read_text()
    parser = Links()
    parser.feed(page)
    # As many elements as with a harmless name: those of the page, its scripts among them, and no other.
    tame = json.loads(json.dumps(runs).replace(json.dumps(HOSTILE)[1:-1], "tame"))
    report(write(tmp_path / "tame", *tame), tmp_path / "plain")
    plain = Links()
    plain.feed((tmp_path / "plain/index.html").read_text())
    assert parser.tags == plain.tags
    assert HOSTILE in {point["label"] for point in json.loads(parser.scripts[0])["points"]}
    assert all(link.startswith(("#", "data:")) for link in parser.found)
    assert "{{ 7*7 }}" in page
    text = (tmp_path / "out/report.md").read_text()
    assert "<script" not in text
    assert all(re.sub(r"\\\|", "", line).count("|") > 2 for line in text.splitlines() if line.startswith("|"))


def test_rebuilt_report_is_the_same_to_the_byte(tmp_path: Path) -> None:
    found = structure(1)
    runs = [
        run | {"structure": found.to_dict() if run["method"] == "graft" else None} for run in two_methods()
    ]
    for run in runs:
        run["tasks"] = dict(zip(found.tasks, [*run["tasks"].values()] * 2, strict=True))
        run["parameters"]["stored"] += run["method"] == "graft"
    runs += [
        run_file("bitfit", seed, dict.fromkeys(found.tasks, 0.5)) | {"pair": runs[0]["pair"]}
        for seed in (0, 1)
    ]
    write(tmp_path / "runs", *runs)
    report(tmp_path / "runs", tmp_path / "first")
    # Another process has another hash seed; the files are written in another order.
    write(tmp_path / "again", *reversed(runs))
    command = [
        sys.executable,
        "-m",
        "graftwork",
        "report",
        str(tmp_path / "again"),
        "-o",
        str(tmp_path / "second"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    first = {
        path.relative_to(tmp_path / "first"): path.read_bytes() for path in (tmp_path / "first").rglob("*.*")
    }
    second = {
        path.relative_to(tmp_path / "second"): path.read_bytes()
        for path in (tmp_path / "second").rglob("*.*")
    }
    assert first == second
    names = {str(name) for name in first}
    assert {"index.html", "report.md", "figures/pareto-1.svg", "figures/structure-1.png"} <= names


def test_report_replaces_a_report_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = write(tmp_path / "runs", *two_methods())
    main(["report", str(runs), "-o", str(tmp_path / "out")])
    assert capsys.readouterr().out.strip().endswith("index.html")
    (tmp_path / "out/figures/old.png").write_text("old")
    main(["report", str(runs), "-o", str(tmp_path / "out"), "--reference", "graft"])
    assert not (tmp_path / "out/figures/old.png").exists()
    (tmp_path / "out/index.html").unlink()  # as of the reports in docs/, of which the page is not committed
    main(["report", str(runs), "-o", str(tmp_path / "out")])
    assert (tmp_path / "out/index.html").is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/report.md").write_text("mine")
    with pytest.raises(DataError, match="is not a report; give another folder"):
        report(runs, tmp_path / "other")
    shutil.rmtree(tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "runs"]
    with pytest.raises(DataError, match="is not a report; give another folder"):
        report(runs, runs)
    with pytest.raises(DataError, match="no run has the reference 'dora'; the methods are graft, lora"):
        report(runs, tmp_path / "new", reference="dora")
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path), "-o", str(tmp_path / "new")])
    assert "holds no run files" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not a run of format 1: found 'list'"),
        ({"format": 2}, "found 2"),
        ({"seed": "0", "method": None}, "is not a run: method, seed missing or wrong"),
        ({"settings": {"vary": [1]}}, "is not a run: settings.vary missing or wrong"),
        ({"tasks": {"a": 3}}, "is not a run: tasks missing or wrong"),
        ("[" * 100_000, "is not valid JSON (it is nested too deeply)"),
        ({"key": "0" * 16}, "holds run '0000000000000000'"),
    ],
)
def test_broken_run_file_is_named(tmp_path: Path, change: Any, message: str) -> None:
    run = run_file("lora", 0, {"a": 0.5})
    write(tmp_path, run)
    path = tmp_path / f"{run['key']}.json"
    path.write_text(change if isinstance(change, str) else json.dumps({**run, **change}))
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read_results(tmp_path)
    assert path.name in str(error.value)


def test_same_group_and_seed_twice_is_an_error(tmp_path: Path) -> None:
    run = run_file("lora", 0, {"a": 0.5})
    with pytest.raises(DataError, match="have the same group and seed; delete one"):
        read_results(write(tmp_path, run, {**run, "key": "f" * 16}))


def test_only_failed_runs_make_a_report(tmp_path: Path) -> None:
    write(tmp_path / "runs", failed(run_file("lora", 0, {"a": 0.5}), "DataError: no rows"))
    report(tmp_path / "runs", tmp_path / "out")
    assert "DataError: no rows" in (tmp_path / "out/index.html").read_text()


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "runs", *two_methods())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(GraftworkError, match=r"needs matplotlib.*pip install 'graftwork\[report\]'"):
        report(tmp_path / "runs", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def browse(page: Path, folder: Path) -> str:
    """Open a page in headless Chromium with a picture taken; what the console said."""
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    options += " --disable-component-update --disable-sync --enable-logging=stderr --window-size=1280,3000"
    command = ["/usr/bin/chromium", *options.split(), f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [*command, f"--screenshot={folder / 'page.png'}", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/usr/bin/chromium").exists(), reason="needs /usr/bin/chromium (apt install chromium)"
)
def test_page_opens_in_a_browser_without_an_error(tmp_path: Path) -> None:
    report(showcase(tmp_path / "runs"), tmp_path / "out")
    (tmp_path / "good").mkdir()
    assert browse(tmp_path / "out/index.html", tmp_path / "good") == ""
    assert (tmp_path / "good/page.png").stat().st_size > 50_000
    # The same look at a page that is at fault, so that silence above means something.
    shutil.copytree(tmp_path / "out", tmp_path / "bad")
    page = (
        (tmp_path / "bad/index.html")
        .read_text()
        .replace("<main>", "<main><img src='http://localhost:1/x.png'>")
    )
    (tmp_path / "bad/index.html").write_text(page)
    assert "CONSOLE" in browse(tmp_path / "bad/index.html", tmp_path / "bad")


def test_a_method_below_the_linear_probe_is_named(tmp_path: Path) -> None:
    """1,000 test rows: .70 against .72 is within 0.020, .60 is not."""
    runs = [
        run_file(method, seed, scores)
        for seed in (0, 1)
        for method, scores in (
            ("linear_probe", {"trec": 0.72, "stsb": 0.5}),
            ("lora", {"trec": 0.60, "stsb": 0.8}),
            ("full", {"trec": 0.705, "stsb": 0.8}),
            ("bitfit", {"trec": 0.8, "stsb": None}),
        )
    ]
    (comparison,) = load(tmp_path / "runs", *runs)
    sentence, advice = below_probe(comparison)
    assert sentence == "lora is below the linear probe on trec (60.0 against 72.0)."
    assert "tune.learning_rates" in advice
    assert below_reference(comparison, "lora") == (sentence,)
    assert below_reference(comparison, "full") == ()
    (without,) = load(tmp_path / "others", *runs[1:4])
    assert below_probe(without) == ()
    report(tmp_path / "runs", tmp_path / "page")
    for name in ("report.md", "index.html"):
        text = (tmp_path / "page" / name).read_text()
        assert text.count("is below the linear probe on trec") == 2  # first thing, and below the table
