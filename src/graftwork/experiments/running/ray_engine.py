"""Doing the runs of a grid on a Ray cluster, whose nodes read models and data under the same paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from graftwork.errors import ConfigError
from graftwork.experiments.grid.job import Job
from graftwork.experiments.results.store import Store
from graftwork.experiments.running.measure import failure
from graftwork.experiments.running.pool import perform
from graftwork.experiments.running.progress import Board

__all__ = ["run_on_ray"]

RETRIES = 3
"""Number of times that a run is started again after its worker has died."""


def perform_runs(job: Job) -> list[dict[str, Any]]:
    """`perform`, all at once: Ray returns no generator."""
    return list(perform(job))


def run_on_ray(jobs: Sequence[Job], store: Store, board: Board, *, workers: int = 1) -> None:
    """Do runs on the cluster of the environment variable RAY_ADDRESS, else on a local one of `workers` cores.

    A run whose worker dies is started again on another, up to `RETRIES` times, and then recorded as failed.
    Results are written here, so the nodes need not share the results folder.

    Raises:
        ConfigError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("engine 'ray' needs Ray: pip install 'graftwork[ray]'.") from error

    ours = not ray.is_initialized()
    if ours:
        local = {"num_cpus": workers, "include_dashboard": False} if "RAY_ADDRESS" not in os.environ else {}
        ray.init(log_to_driver=False, logging_level="ERROR", **local)
    perform_remote: Any = ray.remote(num_cpus=1, max_retries=RETRIES)(perform_runs)
    waiting = {perform_remote.remote(job): job for job in jobs}
    try:
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=1.0)
            for reference in ready:
                job = waiting.pop(reference)
                each = (job, *job.others)
                try:
                    results = ray.get(reference)
                except ray.exceptions.RayError as error:
                    reason = f"{type(error).__name__}: {error}"
                    results = [failure(reason, one.run, one.identity) for one in each]
                for one, result in zip(each, results, strict=True):
                    store.write(result)
                    board.end(one, result)
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
        if ours:
            ray.shutdown()
