"""`compare`: do the runs of a grid that are not done yet, those that tune first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from graftwork.advice import again, called
from graftwork.errors import ConfigError, Interrupted
from graftwork.experiments.grid.grid import Grid
from graftwork.experiments.grid.job import Job
from graftwork.experiments.grid.plan import Plan, describe
from graftwork.experiments.results.store import Store
from graftwork.experiments.running.pool import grouped, run_jobs
from graftwork.experiments.running.progress import Board, Estimator
from graftwork.experiments.running.summary import print_summary

__all__ = ["Summary", "compare"]

Engine = Callable[[Sequence[Job], Store, Board], None]


@dataclass(frozen=True)
class Summary:
    """What a call of `compare` found and did."""

    runs: int
    """Runs of the grid that are known, tuning included."""
    done: int
    """Of these, those with a result."""
    failed: tuple[str, ...]
    """Names and errors of those that failed."""
    started: int
    """Runs that this call did."""


def compare(
    grid: Grid,
    *,
    jobs: int = 1,
    dry_run: bool = False,
    retry_failed: bool = False,
    engine: str = "local",
    console: Console | None = None,
) -> Summary:
    """Do the runs of a grid that have no result yet: first those that tune, then the final ones.

    Args:
        grid: what to compare.
        jobs: local processes; with 1 everything happens in this one.
        dry_run: only list the runs, with an estimate of the time from those that are done.
        retry_failed: do failed runs again.
        engine: `local` or `ray`.
        console: where to print.

    Raises:
        ConfigError: the engine is unknown or not installed, or `jobs` is below 1.
        GraftworkError: the grid or its data are wrong; nothing was run.
        Interrupted: Ctrl-C; runs that have ended keep their results.
    """
    with called("compare", "grid", jobs=jobs, engine=engine, retry_failed=retry_failed):
        return _compare(
            grid, jobs=jobs, dry_run=dry_run, retry_failed=retry_failed, engine=engine, console=console
        )


def _compare(
    grid: Grid, *, jobs: int, dry_run: bool, retry_failed: bool, engine: str, console: Console | None
) -> Summary:
    console = console or Console()
    execute = _engine(engine, jobs)
    store = Store(grid.results)
    plan = Plan(grid, store)
    estimator = Estimator(store.results() if store.folder.is_dir() else ())
    tuning = plan.tuning()
    _print_rates(grid, console)
    if dry_run:
        return _dry_run(plan, tuning, estimator, retry_failed, jobs, console)
    known = list(tuning)
    try:
        started = _stage("tuning", tuning, store, estimator, execute, retry_failed, jobs, console)
        if tuning:
            _print_choices(plan, console)
        finals, unknown = plan.finals()
        known += finals
        started += _stage("final runs", finals, store, estimator, execute, retry_failed, jobs, console)
    except Interrupted:
        print_summary(store, [job.key for job in known], console)
        for line in _failures(known, store):
            console.print(f"failed: {line}", style="red", highlight=False)
        raise
    failed, done = _failures(known, store), 0
    for job in (*tuning, *finals):
        result = store.read(job.key)
        done += result is not None and result["status"] == "done"
    failed += [f"{name}: no learning rate, since no tuning run succeeded" for name in unknown]
    print_summary(store, [job.key for job in known], console)
    console.print(
        f"{done} of {len(tuning) + len(finals)} runs have a result in {store.folder}", highlight=False
    )
    for line in failed:
        console.print(f"failed: {line}", style="red", highlight=False)
    return Summary(len(tuning) + len(finals), done, tuple(failed), started)


def _failures(jobs: Sequence[Job], store: Store) -> list[str]:
    """The runs that have failed, and why."""
    found = ((job, store.read(job.key)) for job in jobs)
    return [
        f"{job.run.name}: {result['error']}"
        for job, result in found
        if result is not None and result["status"] == "failed"
    ]


def _engine(name: str, jobs: int) -> Engine:
    if jobs < 1:
        raise ConfigError(f"jobs={jobs} must be at least 1.")
    if name == "local":
        return lambda todo, store, board: run_jobs(todo, store, board, processes=jobs)
    if name == "ray":
        from graftwork.experiments.running.ray_engine import run_on_ray

        return lambda todo, store, board: run_on_ray(todo, store, board, workers=jobs)
    raise ConfigError(f"unknown engine {name!r}; allowed: local, ray.")


def _pending(jobs: Sequence[Job], store: Store, retry_failed: bool) -> list[Job]:
    """The jobs to do; those that are done learn what this grid sweeps and how it tuned."""
    todo = []
    for job in jobs:
        result = store.read(job.key)
        if result is None or (retry_failed and result["status"] == "failed"):
            todo.append(job)
        else:
            store.note(job.key, job.identity["settings"]["vary"], job.identity["tuning"])
    return todo


def _stage(
    title: str,
    jobs: Sequence[Job],
    store: Store,
    estimator: Estimator,
    execute: Engine,
    retry_failed: bool,
    workers: int,
    console: Console,
) -> int:
    todo = grouped(_pending(jobs, store, retry_failed))
    if todo:
        with Board(title, todo, estimator, workers, console) as board:
            try:
                execute(todo, store, board)
            except KeyboardInterrupt:
                left = len(_pending(jobs, store, False))
                raise Interrupted(
                    f"interrupted; {len(jobs) - left} of {len(jobs)} runs of this stage have a result in "
                    f"{store.folder}. Go on with: {again()}"
                ) from None
    return sum(1 + len(job.others) for job in todo)


def _print_rates(grid: Grid, console: Console) -> None:
    """What is left out, and the grid of learning rates for every method that is tuned."""
    for line in grid.left_out():
        console.print(line, highlight=False)
    if grid.tune is None:
        console.print("learning rates are not tuned: the settings hold as they are")
        return
    shown = dict.fromkeys(
        (cell.entry.title, rates) for cell in grid.cells() if (rates := grid.rates(cell)) is not None
    )
    seeds = ", ".join(map(str, grid.tune.seeds))
    swept = grid.vary or any(entry.vary for entry in grid.methods)
    where = ""
    if swept:
        where = ", at every swept value" if grid.tune.every_value else ", at the first value of what is swept"
    for label, rates in shown:
        tried = ", ".join(f"{rate:g}" for rate in rates)
        console.print(
            f"{label}: learning rate out of {tried}, on validation, seeds {seeds}{where}", highlight=False
        )


def _print_choices(plan: Plan, console: Console) -> None:
    table = Table(title="learning rates by mean validation score")
    for column in ("method and tasks", "chosen", "scores"):
        table.add_column(column)
    shown = {}
    for cell, choice in plan.choices():
        if choice is not None:
            shown[describe(plan.grid.first(cell))] = choice
    for name, choice in shown.items():
        chosen = "none" if choice.chosen is None else f"{choice.chosen:g}"
        edge = " (at the edge of the grid)" if choice.at_edge else ""
        scores = ", ".join(f"{rate:g}: {choice.scores.get(rate, math.nan):.3f}" for rate in choice.grid)
        table.add_row(name, chosen + edge, scores)
    console.print(table)


def _dry_run(
    plan: Plan, tuning: list[Job], estimator: Estimator, retry_failed: bool, workers: int, console: Console
) -> Summary:
    finals, unknown = plan.finals()
    failed, done, todo = [], 0, []
    for job in (*tuning, *finals):
        result = plan.store.read(job.key)
        state = "to do" if result is None else str(result["status"])
        done += state == "done"
        if state == "failed" and result is not None:
            failed.append(f"{job.run.name}: {result['error']}")
        if state == "to do" or (state == "failed" and retry_failed):
            todo.append(job)
        console.print(f"{job.key}  {state:6}  {job.run.purpose:5}  {job.run.name}", highlight=False)
    for name in unknown:
        console.print(
            f"{'-' * 16}  to do   final  {name}, seeds {', '.join(map(str, plan.grid.seeds))}: "
            "the learning rate is tuned first",
            highlight=False,
        )
    later = len(unknown) * len(plan.grid.seeds)
    shared = grouped(todo)
    estimate = estimator.total(shared, workers)
    total = len(tuning) + len(finals) + later
    about = f"about {estimate} for the runs to do" if estimate else "no run is done yet to estimate from"
    more = f" without the {later} whose rate is still to be tuned" if later and estimate else ""
    if len(shared) < len(todo):
        more += f"; {len(shared)} trainings serve the {len(todo)}, which differ in their noise at test time"
    console.print(
        f"{total} runs: {done} done, {len(failed)} failed, {total - done - len(failed)} to do; {about}{more}",
        highlight=False,
    )
    return Summary(total, done, tuple(failed), 0)
