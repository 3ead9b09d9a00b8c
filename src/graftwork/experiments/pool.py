"""Doing runs in this process, or in several local ones that may die without taking the others with them."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from graftwork.experiments.grid import Run
from graftwork.experiments.measure import cores, failure
from graftwork.experiments.progress import Board
from graftwork.experiments.store import Store

__all__ = ["Job", "attempt", "perform", "run_jobs"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """A run with its key."""

    run: Run
    identity: Mapping[str, Any]
    """What `run_settings` says of it, and how its learning rate was chosen."""
    work: float
    """Training rows x epochs."""

    @property
    def key(self) -> str:
        """Name of its file."""
        return str(self.identity["key"])


def attempt(job: Job, store: Store, step: Callable[[float], None] | None = None) -> dict[str, Any]:
    """Do a run and write its file, whether it succeeds or fails."""
    result = perform(job, step)
    store.write(result)
    return result


def perform(job: Job, step: Callable[[float], None] | None = None) -> dict[str, Any]:
    """Do a run; the result says whether it succeeded or failed."""
    from graftwork.experiments.trial import run_trial

    try:
        result = {**run_trial(job.run, interval=step), "tuning": job.identity["tuning"]}
    except Exception as error:  # whatever a run dies of, the others go on and its file says why
        reason = str(error) or type(error).__name__
        known = type(error).__module__.startswith("graftwork")
        text = reason if known else f"{type(error).__name__}: {reason}"
        result = {**failure(text, job.identity), "traceback": traceback.format_exc()}
    gc.collect()
    return result


def run_jobs(jobs: Sequence[Job], store: Store, board: Board, *, processes: int = 1) -> None:
    """Do runs one after the other in this process, or several at a time in processes of their own.

    A process that dies (killed for its memory, say) is replaced, and its run recorded as failed.
    """
    if processes == 1:
        for job in jobs:
            board.end(job, attempt(job, store, functools.partial(board.step, job)))
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
                board.end(job, message)
                return
    except (EOFError, ConnectionResetError):
        worker.process.join()
        result = store.read(job.key)
        if result is None or result["status"] == "failed":
            code = worker.process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            result = failure(f"the worker process died ({how})", job.identity)
            store.write(result)
        worker.job = None
        board.end(job, result)


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
