"""How long runs take, and how far a comparison is."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from graftwork.messages import duration

if TYPE_CHECKING:
    from graftwork.experiments.grid.job import Job

__all__ = ["Board", "Estimator"]

EVERY = 30.0
"""Seconds between two lines in a log, where there is no terminal to show a bar on."""


class Estimator:
    """Seconds per training row and epoch, from the runs that are done: by method, else over all.

    Args:
        results: files of runs.
    """

    def __init__(self, results: Iterable[Mapping[str, Any]]) -> None:
        self._speeds: dict[str, list[float]] = defaultdict(list)
        for result in results:
            self.add(result)

    def add(self, result: Mapping[str, Any]) -> None:
        """Learn from a run."""
        if result.get("status") != "done":
            return
        rows = sum(task["rows"]["train"] for task in result["tasks"].values())
        epochs = result["settings"]["training"].get("epochs", 1)
        self._speeds[result["method"]].append(result["seconds"]["total"] / max(1.0, rows * epochs))

    def seconds(self, job: Job) -> float | None:
        """Time one run will take; None if none is done yet."""
        own = self._speeds.get(job.run.method.name)
        speeds = own or [speed for found in self._speeds.values() for speed in found]
        return statistics.median(speeds) * job.work if speeds else None

    def total(self, jobs: Sequence[Job], workers: int = 1) -> str:
        """Time for all these runs in words; empty if nothing is known."""
        times = [self.seconds(each) for job in jobs for each in (job, *job.others)]
        known = [seconds for seconds in times if seconds is not None]
        return duration(sum(known) / workers) if len(known) == len(times) else ""


class Board:
    """A progress bar over runs, with the time left; in a log a line every half a minute.

    Args:
        title: of the bar.
        jobs: the runs, those with a training in common in one.
        estimator: learns from every run that ends.
        workers: runs at a time.
        console: where it is shown.
    """

    def __init__(
        self, title: str, jobs: Sequence[Job], estimator: Estimator, workers: int, console: Console
    ) -> None:
        self._waiting = {each.key: each for job in jobs for each in (job, *job.others)}
        self._fractions: dict[str, float] = {}
        self._estimator, self._workers = estimator, workers
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[now]}"),
            console=console,
        )
        self._bar = self._progress.add_task(title, total=len(self._waiting), left="", now="")
        self._title, self._total = title, len(self._waiting)
        self._shown = 0.0
        self._told = time.monotonic()

    def __enter__(self) -> Board:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the bar as it is."""
        self._progress.stop()

    def step(self, job: Job, fraction: float) -> None:
        """A run has got so far."""
        self._fractions[job.key] = fraction
        now = time.monotonic()
        if now - self._shown > 0.2:
            self._shown = now
            self._update(job)

    def end(self, job: Job, result: Mapping[str, Any]) -> None:
        """A run has ended."""
        self._estimator.add(result)
        self._waiting.pop(job.key, None)
        self._fractions.pop(job.key, None)
        self._progress.advance(self._bar)
        self._update(job)
        if result["status"] == "failed":
            self._progress.console.print(
                f"failed: {job.run.name}: {result['error']}", style="red", highlight=False
            )

    def _update(self, job: Job) -> None:
        left = self._left()
        shown = "" if left is None else f"{duration(left)} left"
        # With nothing left the last run is over.
        self._progress.update(self._bar, left=shown, now=job.run.name if left is None or left else "")
        console, now = self._progress.console, time.monotonic()
        if not console.is_terminal and now - self._told >= EVERY:
            self._told = now
            done = self._total - len(self._waiting)
            at = f" ({100 * self._fractions[job.key]:.0f} %)" if job.key in self._fractions else ""
            told = [f"{self._title}: {done} of {self._total} done", f"at {job.run.name}{at}", shown]
            console.print("; ".join(filter(None, told)), highlight=False, markup=False, soft_wrap=True)

    def _left(self) -> float | None:
        """Seconds that are left, by the runs that are done; None if nothing is known of one."""
        left = 0.0
        for key, waiting in self._waiting.items():
            seconds = self._estimator.seconds(waiting)
            if seconds is None:
                return None
            left += seconds * (1 - self._fractions.get(key, 0.0))
        return left / self._workers
