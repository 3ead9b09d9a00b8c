"""Final runs whose learning rate a wider tuning has overruled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graftwork.experiments.report.tables import Cell, Column, Table, seed_list
from graftwork.experiments.results.collect import Result
from graftwork.experiments.results.store import hash_settings

__all__ = ["current_runs", "stale_table"]


def current_runs(runs: Iterable[Result]) -> tuple[list[Result], list[tuple[Result, float]]]:
    """Leave out the final runs with a rate that was chosen from fewer rates than another was.

    Runs are rivals if they differ in the seed and the learning rate alone and all were tuned. Of two rates of
    rivals the one whose rates tried are a proper part of the other's is out of date. Where neither grid of
    rates is a part of the other, both stay.

    Returns:
        The runs that hold, and those left out, each with the rate chosen since.
    """
    runs = list(runs)
    rivals: dict[str, dict[float, set[float]]] = {}
    for run in runs:
        rate, tried = _rate(run), _tried(run)
        if rate is not None and tried:
            rivals.setdefault(_place(run), {}).setdefault(rate, set()).update(tried)
    held: list[Result] = []
    left_out: list[tuple[Result, float]] = []
    for run in runs:
        rate, tried = _rate(run), _tried(run)
        rates = rivals.get(_place(run), {}) if rate is not None and tried else {}
        since = [other for other, grid in rates.items() if rate in rates and rates[rate] < grid]
        if since:
            left_out.append((run, max(since, key=lambda other: len(rates[other]))))
        else:
            held.append(run)
    return held, left_out


def stale_table(left_out: Sequence[tuple[Result, float]]) -> Table | None:
    """What was left out and why; None if nothing was."""
    columns = tuple(Column(name, text=True) for name in ("method", "tasks", "rate", "chosen since", "seeds"))
    found: dict[tuple[str, ...], list[int]] = {}
    for run, since in left_out:
        tasks = ", ".join(str(task.get("name")) for task in run.data["settings"].get("tasks") or [])
        found.setdefault((run.label, tasks, f"{_rate(run):g}", f"{since:g}"), []).append(run.seed)
    rows = tuple((*map(Cell, texts), Cell(seed_list(sorted(set(seeds))))) for texts, seeds in found.items())
    return Table(columns, rows) if rows else None


def _rate(run: Result) -> float | None:
    return run.number("settings.training.learning_rate")


def _tried(run: Result) -> tuple[float, ...]:
    return tuple((run.data.get("tuning") or {}).get("grid") or ())


def _place(run: Result) -> str:
    settings = run.data["settings"]
    training = {
        key: value for key, value in (settings.get("training") or {}).items() if key != "learning_rate"
    }
    place = {**settings, "training": training, "label": run.label, "pair": run.data["pair"]}
    return hash_settings(place, leave_out=("seed",))
