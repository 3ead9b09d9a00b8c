"""`graftwork report`: one page, Markdown and figures from run files alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from graftwork.errors import DataError, GraftworkError
from graftwork.experiments.report.below import below_floors, below_probe, below_reference
from graftwork.experiments.report.costs import (
    active_table,
    cost_table,
    fault_table,
    noise_table,
    search_table,
    tuning_table,
)
from graftwork.experiments.report.curves import curves
from graftwork.experiments.report.figures import draw_curve, draw_differences, draw_pareto
from graftwork.experiments.report.ignore import ignored_table, ignoring
from graftwork.experiments.report.interactive.maps import maps
from graftwork.experiments.report.interactive.scatter import scatter
from graftwork.experiments.report.lead import lead
from graftwork.experiments.report.page import PAGE, TEXT, reading, render
from graftwork.experiments.report.stale import current_runs, stale_table
from graftwork.experiments.report.tables import Table, difference_table, facts, score_table, seed_list
from graftwork.experiments.report.verdict import judge
from graftwork.experiments.results.collect import Comparison, Result, agreed, compare, read_results
from graftwork.experiments.results.edges import edge_doubt
from graftwork.experiments.results.joined import join_tasks
from graftwork.experiments.results.names import short_names
from graftwork.experiments.results.statistics import Difference, difference, references
from graftwork.pages.canvas import Look, Picture, looks

__all__ = ["report"]

REFERENCE = "lora"
"""Method that the others are compared with unless another one is named."""


@dataclass(frozen=True)
class _Part:
    """What the report says of one comparison."""

    anchor: str
    title: str
    scores: Table
    differences: Table | None
    costs: Table
    active: Table | None
    searches: Table | None
    pictures: tuple[Picture, ...]
    scatter: Mapping[str, Any] | None


@dataclass(frozen=True)
class _Tile:
    name: str
    value: str
    note: str = ""
    tone: str = ""


def report(results: Path, output: Path, reference: str | None = None, ignore: Sequence[str] = ()) -> None:
    """Write the report of all runs in a results folder.

    The folder gets `index.html` (self-contained), `report.md` and `figures/` (PNG and SVG). The same run
    files give the same bytes. An older report in its place is replaced; another folder is not.

    Args:
        results: folder of run files.
        output: folder to write.
        reference: method that differences are taken from, or the label of some of its runs; default `lora`,
            else the first by name.
        ignore: settings by dotted name; runs that differ only in them and in the seed are one group
            (`graftwork.experiments.report.ignore`).

    Raises:
        DataError: the run files cannot be read, the reference has no runs, no run has a setting to ignore, or
            the output is something else.
        GraftworkError: matplotlib is not installed.
    """
    results, output = Path(results), Path(output)
    if not _installed("matplotlib"):
        raise GraftworkError("a report needs matplotlib; run `pip install 'graftwork[report]'`")
    runs = ignoring(read_results(results), ignore)
    if output.exists() and not _replaceable(output):
        raise DataError(f"{output} exists and is not a report; give another folder with -o.")
    reference = _reference(runs, reference)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    replaced = output.with_name(f".{output.name}.{os.getpid()}.replaced")
    try:
        (partial / "figures").mkdir(parents=True)
        _write(runs, reference, ignore, partial)
        if output.exists():
            output.rename(replaced)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if replaced.exists() and not output.exists():
            replaced.rename(output)
        shutil.rmtree(replaced, ignore_errors=True)


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:
        return False


def _replaceable(output: Path) -> bool:
    """Whether a folder is empty or holds nothing but a report, of which the page may be missing."""
    if not output.is_dir():
        return False
    names = {path.name for path in output.iterdir()}
    return not names or {TEXT, "figures"} <= names <= {PAGE, TEXT, "figures"}


def _reference(runs: Sequence[Result], asked: str | None) -> str:
    final = [run for run in runs if run.data["purpose"] != "tune"]
    methods = sorted({run.method for run in final})
    if asked is None:
        return REFERENCE if REFERENCE in methods or not methods else methods[0]
    labels = sorted({run.label for run in final} - set(methods))
    if asked not in (*methods, *labels):
        raise DataError(
            f"no run has the reference {asked!r}; the methods are {', '.join(methods)}, the labels "
            f"{', '.join(labels)}."
        )
    return asked


def _write(runs: Sequence[Result], reference: str, ignore: Sequence[str], folder: Path) -> None:
    final, stale = current_runs(run for run in runs if run.data["purpose"] != "tune")
    final = join_tasks(agreed(final))
    comparisons = compare(final)
    style = looks([run.label for run in final])
    parts = tuple(_part(i, each, reference, style) for i, each in enumerate(comparisons, start=1))
    drawn = [
        draw_curve(curve, style, f"curve-{i}")
        for i, curve in enumerate(curves(comparisons, reference), start=1)
    ]
    for picture in (*(picture for part in parts for picture in part.pictures), *drawn):
        (folder / f"figures/{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
        (folder / f"figures/{picture.name}.png").write_bytes(picture.png)
    verdict, first = judge(comparisons), lead(comparisons)
    if first is not None and verdict is not None:
        first = replace(first, evidence=(*first.evidence, f"{verdict.headline}.", *verdict.evidence))
    verdict = first or verdict
    tuning = tuning_table(compare([run for run in runs if run.data["purpose"] == "tune"]))
    faults = fault_table(comparisons)
    others = [
        (
            "missing",
            "Missing and failed runs",
            "Failed and missing runs enter no number above, incomplete ones only those of tasks they have.",
            faults,
        ),
        (
            "stale",
            "Runs left out",
            "Their learning rate was chosen from fewer rates than have been tried since, and is not the best "
            "of those. They enter no number above.",
            stale_table(stale),
        ),
        (
            "ignored",
            "Settings ignored",
            "Runs that differ in these are one group. Differences pair runs of the same seed.",
            ignored_table(final, ignore),
        ),
        ("noise", "Noise", "", noise_table(comparisons)),
        ("tuning", "Tuning", "", tuning),
    ]
    below = [line for each in comparisons for line in below_reference(each, reference)]
    methods, tasks = {run.label for run in final}, {task for each in comparisons for task in each.tasks}
    context: dict[str, Any] = {
        "headline": verdict.headline
        if verdict
        else _count(len(methods), "method") + " on " + _count(len(tasks), "task"),
        "evidence": (*(verdict.evidence if verdict else ()), *below),
        "tone": "" if verdict is None else verdict.tone,
        "tiles": _tiles(runs, comparisons, reference),
        "parts": parts,
        "curves": drawn,
        "maps": maps(comparisons, folder),
        "others": [other for other in others if other[3] is not None],
        "reading": reading(),
        "versions": _versions(runs),
    }
    context["contents"] = _contents(context)
    render(context, folder)


def _part(number: int, comparison: Comparison, reference: str, style: Mapping[str, Look]) -> _Part:
    tasks = list(comparison.tasks)
    against = references(comparison, reference)
    differences: list[Difference] = [
        difference(group, against[group.id], tasks) for group in comparison.groups if group.id in against
    ]
    differences.sort(key=lambda each: -1e9 if each.mean is None else each.mean, reverse=True)
    doubts: dict[tuple[str, str], Sequence[str]] = dict(below_floors(comparison))
    doubts |= {(group.id, ""): (doubt,) for group in comparison.groups if (doubt := edge_doubt(group))}
    pictures = (
        draw_differences(differences, f"differences-{number}", "Difference from the reference"),
        draw_pareto(comparison, style, f"pareto-{number}", "Accuracy against stored parameters"),
    )
    scores = score_table(comparison, doubts)
    return _Part(
        anchor=f"comparison-{number}",
        title=comparison.title or "Results",
        scores=replace(scores, notes=(*scores.notes, *below_probe(comparison))),
        differences=difference_table(comparison, differences, doubts) if differences else None,
        costs=cost_table(comparison),
        active=active_table(comparison),
        searches=search_table(comparison),
        pictures=tuple(picture for picture in pictures if picture is not None),
        scatter=scatter(comparison, style, doubts),
    )


def _tiles(runs: Sequence[Result], comparisons: Sequence[Comparison], reference: str) -> list[_Tile]:
    final = [run for run in runs if run.data["purpose"] != "tune"]
    failed = sum(not run.done for run in final)
    absent = sum(len(g.missing) - len(g.failed) for c in comparisons for g in c.groups)
    absent += sum(_absent_parts(c, run) for c in comparisons for g in c.groups for run in g.runs)
    tuning = len(runs) - len(final)
    seeds = sorted({run.seed for run in final})
    labels = sorted({run.label for run in final if reference in (run.method, run.label)})
    models = sorted({str((run.data.get("sources") or {}).get("model") or "") for run in runs} - {""})
    tasks = {task for each in comparisons for task in each.tasks}
    tiles = [
        _Tile(
            "runs done", f"{len(final) - failed:,}", _count(tuning, "tuning run") + " more" if tuning else ""
        ),
        _Tile(
            "failed or missing",
            f"{failed + absent:,}",
            f"{failed} failed, {absent} without a file",
            "bad" * (failed + absent > 0),
        ),
        _Tile("methods", str(len({run.label for run in final})), _count(len(comparisons), "comparison")),
        _Tile("tasks", str(len(tasks))),
        _Tile("seeds", str(len(seeds)), seed_list(seeds)),
        _Tile("reference", ", ".join(labels) or "none"),
    ]
    if models:
        tiles.append(_Tile("backbone", ", ".join(model.removeprefix("package:") for model in models)))
    return tiles


def _absent_parts(comparison: Comparison, run: Result) -> int:
    """Tasks for which a model per task has no file."""
    parts = run.data.get("parts")
    return len(comparison.tasks.keys() - parts.keys()) if parts else 0


def _versions(runs: Sequence[Result]) -> Table:
    found: dict[str, set[str]] = {}
    for run in runs:
        for name, version in (run.data.get("versions") or {}).items():
            found.setdefault(str(name), set()).add(str(version))
        for name, value in (run.data.get("host") or {}).items():
            found.setdefault(f"host {name}", set()).add(str(value))
    pairs = {name: ", ".join(sorted(values)) for name, values in sorted(found.items())}
    swept = ", ".join(sorted(short_names(runs)))
    return facts({**({"swept settings": swept} if swept else {}), **pairs})


def _contents(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    contents = [(part.anchor, part.title) for part in context["parts"]]
    contents += [("runs", "Runs")]
    contents += [("curves", "Curves")] if context["curves"] else []
    contents += [("structures", "Structures")] if context["maps"] else []
    contents += [(anchor, title) for anchor, title, _, _ in context["others"]]
    return [*contents, ("reading", "How these numbers were made")]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
