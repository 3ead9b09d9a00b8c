"""`graftwork` in a process of its own that can be killed, forked from one that has imported everything."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import inject

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "graftwork.cli",
        "graftwork.fitting.family",
        "graftwork.fitting.session",
        "graftwork.finished.add_task",
        "graftwork.finished.evaluate",
        "child",
    ]
)


@dataclass
class Ended:
    """How a process ended."""

    code: int
    """Exit code; minus the signal that killed it."""
    output: str
    error: str
    note: str
    """The change of the file system before which it was killed."""


class Child:
    """A running `graftwork` command.

    Args:
        folder: where it runs, and whose changes are counted.
        arguments: of the command line.
        fault: see `inject`.
    """

    count = 0

    def __init__(self, folder: Path, arguments: Sequence[str], fault: str = "") -> None:
        Child.count += 1
        log = folder.parent / f".log-{Child.count}"
        self.files = [log.with_suffix(f".{name}") for name in ("out", "err", "note")]
        self.process = CONTEXT.Process(target=_work, args=(folder, list(arguments), fault, self.files))
        self.process.start()

    def end(self, timeout: float = 300) -> Ended:
        """Wait for it."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError("the process did not end")
        texts = [file.read_text() if file.exists() else "" for file in self.files]
        for file in self.files:
            file.unlink(missing_ok=True)
        return Ended(self.process.exitcode, *texts)

    def wait_for(self, path: Path, timeout: float = 120) -> None:
        """Wait until it has made a file."""
        deadline = time.monotonic() + timeout
        while not path.exists():
            if time.monotonic() > deadline or self.process.exitcode is not None:
                raise TimeoutError(f"{path} did not appear")
            time.sleep(0.01)


def run(folder: Path, *arguments: str, fault: str = "") -> Ended:
    """Run a command to its end."""
    return Child(folder, arguments, fault).end()


def _work(folder: Path, arguments: list[str], fault: str, files: list[Path]) -> None:
    os.chdir(folder)
    out, error = (os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for file in files[:2])
    os.dup2(out, 1)
    os.dup2(error, 2)
    # The copies that this process inherited may be closed, or buffered for another file.
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    if fault:
        inject.arm(fault, folder, files[2])
    from graftwork.cli import main

    code: Any = 0
    try:
        main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError):
                stream.flush()
    sys.exit(code)
