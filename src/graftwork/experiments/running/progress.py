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

if TYPE_CHECKING:
    from graftwork.experiments.grid.job import Job

__all__ = ["Board", "Estimator", "duration"]


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
    """A progress bar over runs, with the time left.

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
        self._shown = 0.0

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
        left = 0.0
        for key, waiting in self._waiting.items():
            seconds = self._estimator.seconds(waiting)
            if seconds is None:
                self._progress.update(self._bar, now=job.run.name)
                return
            left += seconds * (1 - self._fractions.get(key, 0.0))
        self._progress.update(
            self._bar, left=f"{duration(left / self._workers)} left", now=job.run.name if left else ""
        )
