"""The runs of a grid: which tune, what they chose, and which are final."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graftwork.data.task import Task
from graftwork.data.task_data import TaskData
from graftwork.experiments.grid.grid import Grid, Place, Trial, make_trial
from graftwork.experiments.grid.job import Job
from graftwork.experiments.grid.settings import load_data, run_settings
from graftwork.experiments.results.store import Store

__all__ = ["Choice", "Plan", "describe"]


@dataclass(frozen=True)
class Choice:
    """The learning rate of a cell and how it was chosen."""

    grid: tuple[float, ...]
    """The rates that were tried."""
    scores: Mapping[float, float]
    """Rate -> mean validation score, for the rates whose runs are all done."""

    @property
    def chosen(self) -> float | None:
        """The rate with the best score, of equals the smallest; None if no rate has one."""
        return min(self.scores, key=lambda rate: (-self.scores[rate], rate)) if self.scores else None

    @property
    def at_edge(self) -> bool:
        """The chosen rate is the smallest or largest of several, so a better one may lie beyond."""
        return len(self.grid) > 1 and self.chosen in (min(self.grid), max(self.grid))


class Plan:
    """The runs of a grid, with their keys."""

    def __init__(self, grid: Grid, store: Store) -> None:
        self.grid, self.store = grid, store
        self._datas: dict[tuple[Task, int], TaskData] = {}

    def job(self, run: Trial, tuning: Mapping[str, Any] | None = None) -> Job:
        """A run with its key and how its learning rate was chosen."""
        datas = []
        for task in run.tasks:
            place = (task, run.data_seed)
            if place not in self._datas:
                self._datas[place] = load_data([task], run.data_seed)[0]
            datas.append(self._datas[place])
        rows = sum(data.counts["train"] for data in datas)
        identity = {**run_settings(run, datas), "tuning": tuning}
        work = rows * ((run.training.epochs or 1.0) if run.method.trained else 1.0)
        # A forward pass costs about a third of a training step.
        return Job(run, identity, work, testing=sum(data.counts["test"] for data in datas) / 3)

    def _tuning_jobs(self, cell: Place, rates: tuple[float, ...]) -> dict[float, list[Job]]:
        tune = self.grid.tune
        assert tune is not None
        place = self.grid.first(cell)
        return {
            rate: [
                self.job(make_trial(self.grid, place, seed=seed, purpose="tune", rate=rate))
                for seed in tune.seeds
            ]
            for rate in rates
        }

    def tuning(self) -> list[Job]:
        """The tuning runs, each once."""
        jobs: dict[str, Job] = {}
        for cell in self.grid.cells():
            rates = self.grid.rates(cell)
            if rates is not None and self.grid.first(cell) == cell:
                for found in self._tuning_jobs(cell, rates).values():
                    jobs.update((job.key, job) for job in found)
        return list(jobs.values())

    def choices(self) -> Iterator[tuple[Place, Choice | None]]:
        """Every cell with its learning rate; None if it was given."""
        known: dict[str, Choice] = {}
        for cell in self.grid.cells():
            rates = self.grid.rates(cell)
            if rates is None:
                yield cell, None
                continue
            place = repr(self.grid.first(cell))
            if place not in known:
                scores = {}
                for rate, jobs in self._tuning_jobs(cell, rates).items():
                    found = [_validation(self.store.read(job.key)) for job in jobs]
                    if not any(math.isnan(score) for score in found):
                        scores[rate] = statistics.fmean(found)
                known[place] = Choice(rates, scores)
            yield cell, known[place]

    def finals(self) -> tuple[list[Job], list[str]]:
        """The final runs whose learning rate is known, and the names of cells without one."""
        jobs: dict[str, Job] = {}
        unknown = []
        for cell, choice in self.choices():
            if choice is not None and choice.chosen is None:
                unknown.append(describe(cell))
                continue
            rate = None if choice is None else choice.chosen
            tuning = None
            if choice is not None:
                scores = {f"{key:g}": score for key, score in choice.scores.items()}
                tuning = {"grid": list(choice.grid), "validation": scores, "chosen": rate}
            for seed in self.grid.seeds:
                job = self.job(make_trial(self.grid, cell, seed=seed, purpose="final", rate=rate), tuning)
                jobs[job.key] = job
        return list(jobs.values()), unknown


def _validation(result: Mapping[str, Any] | None) -> float:
    """The score that counts for tuning; NaN if the run is not done."""
    if result is None or result["status"] != "done":
        return math.nan
    score = result["suite"]["validation"]
    return math.nan if score is None else float(score)


def describe(cell: Place) -> str:
    """A cell in words."""
    swept = "".join(f", {key}={value}" for key, value in cell.vary.items())
    return f"{cell.entry.title} ({'+'.join(cell.tasks)}{swept})"
