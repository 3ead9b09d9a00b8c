"""Doing runs in this process, or in several local ones that may die without taking the others with them."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from graftwork.experiments.grid.job import Job
from graftwork.experiments.grid.places import without_places
from graftwork.experiments.results.store import Store
from graftwork.experiments.running.measure import cores, failure
from graftwork.experiments.running.progress import Board

__all__ = ["attempt", "grouped", "perform", "run_jobs"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that set the number of threads of a worker."""


def grouped(jobs: Iterable[Job]) -> list[Job]:
    """The jobs, with those that one training serves made into one."""
    trainings: dict[str, list[Job]] = {}
    for job in jobs:
        trainings.setdefault(str(job.identity["training_key"]), []).append(job)
    return [
        replace(first, others=tuple(replace(other, work=other.testing) for other in others))
        for first, *others in trainings.values()
    ]


def attempt(job: Job, store: Store, step: Callable[[float], None] | None = None) -> list[dict[str, Any]]:
    """Do a run and those that share its training; each file is written as soon as its run is scored."""
    results = []
    for result in perform(job, step):
        store.write(result)
        results.append(result)
    return results


def perform(job: Job, step: Callable[[float], None] | None = None) -> Iterator[dict[str, Any]]:
    """Train once, and score every run that the training serves; a result says if its run succeeded."""
    from graftwork.experiments.running.trial import train_trial

    jobs = (job, *job.others)
    try:
        trained = train_trial(job.run, interval=step)
    except Exception as error:  # whatever a run dies of, the others go on and its file says why
        yield from [_failed(each, error) for each in jobs]
    else:
        for each in jobs:
            try:
                result = {**trained.result(each.run), "tuning": each.identity["tuning"]}
            except Exception as error:
                result = _failed(each, error)
            yield result
        del trained
    gc.collect()


def _failed(job: Job, error: Exception) -> dict[str, Any]:
    reason = str(error) or type(error).__name__
    known = type(error).__module__.startswith("graftwork")
    text = reason if known else f"{type(error).__name__}: {reason}"
    whole = without_places("".join(traceback.format_exception(error)), job.run.places)
    return {**failure(text, job.run, job.identity), "traceback": whole}


def run_jobs(jobs: Sequence[Job], store: Store, board: Board, *, processes: int = 1) -> None:
    """Do runs one after the other in this process, or several at a time in processes of their own.

    A process that dies (killed for its memory, say) is replaced, and its run recorded as failed.
    """
    if processes == 1:
        for job in jobs:
            _end(board, job, attempt(job, store, functools.partial(board.step, job)))
        return
    processes = min(processes, len(jobs))
    threads = max(1, min(cores() // processes, torch.get_num_threads()))
    waiting = list(reversed(jobs))
    workers = [_Worker(threads, store.folder) for _ in range(processes)]
    try:
        while waiting or any(worker.job for worker in workers):
            for i, worker in enumerate(workers):
                if worker.job is None and waiting:
                    if not worker.process.is_alive():
                        workers[i] = worker = _Worker(threads, store.folder)
                    worker.start(waiting.pop())
            for worker in [worker for worker in workers if worker.job is not None]:
                _listen(worker, store, board)
            wait([worker.connection for worker in workers if worker.job is not None], timeout=1.0)
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that does one run after the other."""

    def __init__(self, threads: int, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.job: Job | None = None
        self.process = context.Process(target=_work, args=(theirs, threads, folder), daemon=True)
        # BLAS and OpenMP read these when they are loaded, before the worker could set anything.
        saved = {name: os.environ.get(name) for name in THREAD_VARIABLES}
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
        try:
            self.process.start()
        finally:
            for name, value in saved.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        theirs.close()

    def start(self, job: Job) -> None:
        self.job = job
        self.connection.send(job)

    def stop(self) -> None:
        """End the process; a run half done leaves no file."""
        self.process.terminate()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


def _listen(worker: _Worker, store: Store, board: Board) -> None:
    """Take what a worker says, or notice that it is dead."""
    job = worker.job
    assert job is not None
    try:
        while worker.connection.poll():
            message = worker.connection.recv()
            if isinstance(message, float):
                board.step(job, message)
            else:
                worker.job = None
                _end(board, job, message)
                return
    except (EOFError, ConnectionResetError):
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        worker.job = None
        for each in (job, *job.others):
            result = store.read(each.key)
            if result is None or result["status"] == "failed":
                result = failure(f"the worker process died ({how})", each.run, each.identity)
                store.write(result)
            board.end(each, result)


def _end(board: Board, job: Job, results: Sequence[Mapping[str, Any]]) -> None:
    for each, result in zip((job, *job.others), results, strict=True):
        board.end(each, result)


def _work(connection: Connection, threads: int, folder: Path) -> None:
    """Main function of a worker."""
    # Ctrl-C goes to all processes of the terminal; the parent decides, and says so with SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    torch.set_num_threads(threads)
    store = Store(folder)

    def step(fraction: float) -> None:
        try:
            connection.send(fraction)
        except OSError:
            sys.exit(1)  # the parent is gone; not an Exception, so the run leaves no file

    try:
        while True:
            connection.send(attempt(connection.recv(), store, step))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
