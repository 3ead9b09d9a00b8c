"""One run of a grid: train, score, measure, and say it all as the dictionary that becomes its file.

Runs that differ only in the noise they are tested with share a training: `train_trial` once, then
`Trained.result` for each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from graftwork.experiments.grid.grid import Trial
from graftwork.experiments.grid.settings import run_settings
from graftwork.experiments.results.store import FORMAT
from graftwork.experiments.running.measure import host, peak_memory, reset_peak_memory
from graftwork.experiments.running.workbench import Workbench
from graftwork.files.provenance import versions
from graftwork.noise.applying import damage_tasks
from graftwork.training.pairs.choosing import PairsChoice, Pilot, settle_pairs
from graftwork.training.preparation import prepare

__all__ = ["Trained", "run_trial", "train_trial"]


def run_trial(run: Trial, *, interval: Callable[[float], None] | None = None) -> dict[str, Any]:
    """Do one run: `train_trial`, then its result.

    Args:
        run: what to do.
        interval: called with the fraction of the steps that are done.

    Returns:
        The result, as plain JSON types.

    Raises:
        GraftworkError: the data, settings or sizes do not fit.
        TrainingError: the training diverged.
    """
    return train_trial(run, interval=interval).result(run)


def train_trial(run: Trial, *, interval: Callable[[float], None] | None = None) -> Trained:
    """Train the model of a run, and measure all that no noise at test time can change.

    Raises:
        GraftworkError: the data, settings or sizes do not fit.
        TrainingError: the training diverged.
    """
    started = datetime.now(UTC)
    clock = time.perf_counter()
    reset_peak_memory()
    prepared = prepare(
        run.model,
        run.tasks,
        run.noise,
        run.data_seed,
        max_length=run.training.max_length,
        image_size=run.training.image_size,
    )
    choices: dict[str, PairsChoice] = {}
    if run.method.trained:
        pilot = Pilot(run.model, run.graft, run.training, run.seed)
        prepared, choices = settle_pairs(prepared, run.tasks, pilot)
    bench = Workbench(run, str(run_settings(run, prepared.clean)["key"]), prepared, interval)
    if run.method.trained:
        bench.train_model()
    else:
        bench.measure_floor()
    pairs = {name: choice.as_dict() for name, choice in choices.items()}
    return Trained(bench, started.isoformat(timespec="seconds"), time.perf_counter() - clock, pairs)


@dataclass
class Trained:
    """A trained model, to be scored under one noise at test time or several."""

    bench: Workbench
    started: str
    """When the training began."""
    seconds: float
    """How long it took, with everything before it."""
    pairs: dict[str, dict[str, Any]]
    """What was chosen for tasks with `pairs: auto`."""

    def result(self, run: Trial) -> dict[str, Any]:
        """What the file of a run says; `run` may differ from the trained one in its noise at test time.

        Raises:
            TrainingError: a score is not a number.
        """
        clock = time.perf_counter()
        clean = self.bench.prepared.clean
        datas, noise = damage_tasks(clean, run.noise)
        noise += self.bench.noise
        scores = self.bench.scores(run, datas, noise)
        splits = ("validation", "test")
        found = self.bench.found
        total = self.seconds + time.perf_counter() - clock
        return {
            **run_settings(run, clean),
            "format": FORMAT,
            "status": "done",
            "error": None,
            "tasks": {
                data.head.name: {
                    "metric": data.head.metric,
                    **scores[data.head.name],
                    "rows": data.counts,
                    "sha256": before.sha256,
                }
                for before, data in zip(clean, datas, strict=True)
            },
            "suite": {split: _mean([score[split] for score in scores.values()]) for split in splits},
            **self.bench.answered(),
            **found,
            "memory_peak_bytes": peak_memory(),
            "seconds": {**found["seconds"], "total": round(total, 3)},
            "noise": noise,
            **({"pairs": self.pairs} if self.pairs else {}),
            "versions": versions(),
            "started": self.started,
            "host": host(),
        }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
