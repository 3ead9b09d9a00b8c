"""Tables of what runs cost, how they were tuned, what noise they met, and which are missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from graftwork.experiments.report.tables import MINUS, NONE, Cell, Column, Table, points, ranked, seeds_cell
from graftwork.experiments.results.collect import Comparison, Group, Result
from graftwork.experiments.results.names import display, natural, short_names

__all__ = [
    "active_parameters",
    "active_table",
    "cost_table",
    "fault_table",
    "noise_table",
    "search_table",
    "tuning_table",
]

_COSTS: tuple[tuple[str, str, str, str, Callable[[float], str]], ...] = (
    ("train_loss", "training loss", "", "train_loss", lambda value: f"{value:.4f}"),
    (
        "num_trainable_params",
        "trained parameters",
        "at most",
        "parameters.peak_trainable",
        lambda value: f"{value:,.0f}",
    ),
    ("train_time", "training", "s", "seconds.train", lambda value: f"{value:,.1f}"),
    ("total_time", "whole run", "s", "seconds.total", lambda value: f"{value:,.1f}"),
    ("file_size", "file", "bytes", "bytes_on_disk", lambda value: f"{value:,.0f}"),
    ("accelerator_memory_max", "peak memory", "bytes", "memory_peak_bytes", lambda value: f"{value:,.0f}"),
    ("stored", "", "adapter parameters", "parameters.stored", lambda value: f"{value:,.0f}"),
)
"""Column, what it is in plain words, unit, place in the run file, form. The names up to
`accelerator_memory_max` are PEFT's."""

_RATE = "training.learning_rate"


def cost_table(comparison: Comparison) -> Table:
    """Costs of every group, under the column names of PEFT's `method_comparison`."""
    tasks = list(comparison.tasks)
    groups = ranked(comparison)
    columns = [Column("method", text=True), Column("test_accuracy", "suite mean", title="score")]
    columns.append(Column("seeds", "done / expected", text=True))
    forgetting = any(group.numbers("forgetting") for group in groups)
    columns += [Column("forgetting")] if forgetting else []
    columns += [Column(name, unit, title=title) for name, title, unit, _, _ in _COSTS]
    columns += [
        Column("stored", "% of backbone"),
        Column("active", "mean of tasks"),
        Column("heads", "parameters"),
    ]
    priced = any(group.numbers("trunk.price") for group in groups)
    columns += [Column("price of all tasks", "passes of one")] if priced else []
    rows = []
    for group in groups:
        suites = group.suites(tasks)
        accuracy = _number(group, suites, lambda value: f"{value:.4f}")
        cells = [Cell(group.title), accuracy, seeds_cell(group)]
        if forgetting:
            cells.append(_number(group, group.numbers("forgetting"), lambda value: f"{value:.4f}"))
        cells += [
            _readable(_number(group, group.numbers(path), form), group.mean(path), unit)
            for _, _, unit, path, form in _COSTS
        ]
        shares = [
            stored / backbone
            for run in group.runs
            if (stored := run.number("parameters.stored")) is not None
            and (backbone := run.number("parameters.backbone"))
        ]
        cells.append(_number(group, shares, lambda value: f"{100 * value:.3g}"))
        active = [
            float(np.mean(each)) for run in group.runs if (each := list(active_parameters(run).values()))
        ]
        cells.append(_number(group, active, lambda value: f"{value:,.0f}"))
        cells.append(_number(group, group.numbers("parameters.heads"), lambda value: f"{value:,.0f}"))
        if priced:
            cells.append(_number(group, group.numbers("trunk.price"), lambda value: f"{value:.2f}"))
        rows.append(tuple(cells))
    notes = [
        "Means over the seeds done. test_accuracy is the suite mean of the tasks' own metrics; train_time "
        "leaves evaluation out; accelerator_memory_max is the peak memory of the process, which on a CPU "
        "includes the libraries; stored parameters leave the heads out."
    ]
    if forgetting:
        notes.append(
            "forgetting: 1 - r of the similarities of 96 plain sentences before and after training, adapters "
            "on, mean over the tasks; 0 is none. With adapters off it is 0 wherever the backbone is frozen."
        )
    return Table(tuple(columns), tuple(rows), tuple(notes), ranked=1)


def _number(group: Group, values: Sequence[float], form: Callable[[float], str]) -> Cell:
    if not values:
        return Cell(NONE, tone="missing")
    note = f"{len(values)} of {len(group.runs)} runs" if len(values) < len(group.runs) else ""
    return Cell(form(float(np.mean(values))), note)


def _readable(cell: Cell, value: float | None, unit: str) -> Cell:
    """A number of bytes with the same in megabytes below."""
    if unit != "bytes" or value is None:
        return cell
    return replace(cell, note=", ".join(filter(None, (f"{value / 1e6:,.1f} MB", cell.note))))


def active_table(comparison: Comparison) -> Table | None:
    """Active adapter parameters per task, where tasks differ in them; else None."""
    tasks = list(comparison.tasks)
    rows = []
    for group in ranked(comparison):
        values = {
            task: [a[task] for run in group.runs if task in (a := active_parameters(run))] for task in tasks
        }
        if all(len(set(active_parameters(run).values())) < 2 for run in group.runs):
            continue
        cells = [_number(group, values[task], lambda value: f"{value:,.0f}") for task in tasks]
        rows.append((Cell(group.title), *cells))
    if not rows:
        return None
    notes = (
        "Parameters on a task's path, mean over the seeds done; methods where all tasks have as many are "
        "left out.",
    )
    return Table((Column("method", text=True), *(Column(task) for task in tasks)), tuple(rows), notes)


def active_parameters(run: Result) -> dict[str, float]:
    """Adapter parameters on the path of every task, of a run that has them."""
    active = (run.data.get("parameters") or {}).get("active") or {}
    return {task: float(active[task]) for task in run.tasks if isinstance(active.get(task), int | float)}


def search_table(comparison: Comparison) -> Table | None:
    """What the discretisation cost every learned structure; None if no run measured it."""
    rows = []
    for group in ranked(comparison):
        gaps = group.numbers("search.gap.points")
        if not gaps:
            continue
        stored = sorted(set(group.numbers("parameters.stored")))
        rows.append(
            (
                Cell(group.title),
                Cell(str(len(gaps))),
                _number(group, group.numbers("search.gap.soft"), points),
                _number(group, group.numbers("search.gap.hard"), points),
                Cell(_signed(float(np.mean(gaps)))),
                Cell(f"{_signed(min(gaps))} to {_signed(max(gaps))}"),
                Cell(" to ".join(f"{value:,.0f}" for value in dict.fromkeys((stored[0], stored[-1])))),
            )
        )
    columns = (
        Column("method", text=True),
        Column("runs"),
        Column("soft", "suite mean"),
        Column("hard", "suite mean"),
        Column("gap", "points, mean"),
        Column("gap", "range", text=True),
        Column("stored", "parameters"),
    )
    notes = (
        "At the discretisation, on a sample of the validation rows: scores with the gates as they were "
        "(soft) and with the structure (hard), before any tuning.",
    )
    return Table(columns, tuple(rows), notes) if rows else None


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", MINUS)


def tuning_table(comparisons: Sequence[Comparison]) -> Table | None:
    """The validation means of the tuning runs, with the choice of every method; None without such runs."""
    columns = (
        Column("method", text=True),
        Column("settings", text=True),
        Column("seeds", "done / expected", text=True),
        Column("validation", "suite mean"),
    )
    names = short_names(
        run for c in comparisons for group in c.groups for run in (*group.runs, *group.failed)
    )
    rows = []
    for comparison in comparisons:
        tasks = list(comparison.tasks)
        means = {
            group.id: float(np.mean(found))
            for group in comparison.groups
            if (found := group.suites(tasks, "validation"))
        }
        for group in comparison.groups:
            rivals = [
                means[each.id] for each in comparison.groups if each.label == group.label and each.id in means
            ]
            mean = means.get(group.id)
            cell = Cell(NONE, "missing", "missing")
            if mean is not None:
                count = len(group.suites(tasks, "validation"))
                note = "" if count == len(group.seeds) else f"{count}/{len(group.seeds)} seeds"
                cell = Cell(points(mean), note, "best" if mean == max(rivals) else "")
            # The rate is what tuning is about, though no grid sweeps it by name.
            rate = (*group.runs, *group.failed)[0].number(f"settings.{_RATE}")
            swept = {**({} if rate is None else {_RATE: rate}), **group.vary}
            settings = display(swept, {_RATE: "learning_rate", **names})
            rows.append((Cell(group.label), Cell(settings), seeds_cell(group), cell))
    rows.sort(key=lambda cells: (natural(cells[0].text), natural(cells[1].text)))
    notes = (
        "Chosen on the validation split; bold: the best of its method. The test split plays no part here.",
    )
    return Table(columns, tuple(rows), notes) if rows else None


def noise_table(comparisons: Sequence[Comparison]) -> Table | None:
    """Noise asked for and realised, with its unit; None if no run had any."""
    columns = (
        *(Column(name, text=True) for name in ("method", "comparison", "kind", "unit", "when")),
        Column("asked"),
        Column("realised", "mean"),
        Column("realised", "range"),
        Column("words touched", "fraction, mean"),
    )
    rows = []
    for comparison in comparisons:
        for group in comparison.groups:
            found: dict[tuple[str, ...], tuple[list[float], list[float]]] = {}
            for run in group.runs:
                for noise in run.data.get("noise") or []:
                    asked = noise.get("asked", noise.get("ratio", NONE))
                    what = (*(str(noise.get(name, NONE)) for name in ("kind", "unit", "when")), str(asked))
                    realised, words = found.setdefault(what, ([], []))
                    realised += _ratios(noise.get("realised"))
                    words += _ratios(noise.get("words"))
            for what, (realised, words) in sorted(found.items()):
                mean, extent = NONE, NONE
                if realised:
                    mean, extent = f"{np.mean(realised):.4f}", f"{min(realised):.4f} to {max(realised):.4f}"
                touched = f"{np.mean(words):.3f}" if words else NONE
                texts = (group.title, comparison.title or NONE, *what, mean, extent, touched)
                rows.append(tuple(map(Cell, texts)))
    notes = ("Mean and range over runs, tasks and splits.",)
    return Table(columns, tuple(rows), notes) if rows else None


def _ratios(measured: Any) -> list[float]:
    """A measured ratio, or those of every split."""
    values = measured.values() if isinstance(measured, Mapping) else [measured]
    return [float(value) for value in values if isinstance(value, int | float)]


def fault_table(comparisons: Sequence[Comparison]) -> Table | None:
    """Every failed run with its error and every missing one; None if all are there."""
    columns = tuple(
        Column(name, text=True) for name in ("method", "comparison", "seed", "state", "error", "run")
    )
    rows = []
    for comparison in comparisons:
        for group in comparison.groups:
            failed = {run.seed: run for run in group.failed}
            for seed in group.missing:
                run = failed.get(seed)
                state = Cell("missing", tone="missing") if run is None else Cell("failed", tone="bad")
                error = (
                    "no run file" if run is None else str(run.data.get("error") or "no error was recorded")
                )
                place = comparison.title or NONE
                texts = [Cell(group.title), Cell(place), Cell(str(seed)), state]
                rows.append((*texts, Cell(error), Cell(NONE if run is None else run.key)))
            for run in group.runs:
                lacking = [task for task in comparison.tasks if run.score(task) is None]
                if lacking:
                    texts = [Cell(group.title), Cell(comparison.title or NONE), Cell(str(run.seed))]
                    parts = run.data.get("parts") or {}
                    why = {task: str((parts.get(task) or {}).get("error") or "") for task in lacking}
                    words = [f"{task} ({error})" if error else task for task, error in why.items()]
                    error = f"no test score for {', '.join(words)}"
                    rows.append((*texts, Cell("incomplete", tone="bad"), Cell(error), Cell(run.key)))
    return Table(columns, tuple(rows)) if rows else None
