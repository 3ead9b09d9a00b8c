"""What a command says while it works: for every phase a bar or lines in a log, and what it found."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from graftwork.messages import duration

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["AFTER", "EVERY", "Phase", "phase", "told"]

AFTER = 2.0
"""Seconds after which a phase tells a log what it does: a shorter one has nothing to tell before its end."""
EVERY = 30.0
"""Seconds between two lines in a log, where there is no terminal to show a bar on."""


def told(text: str, console: Console | None) -> None:
    """Print one line, not broken at the console's width, above the bars of a training that are open."""
    if console is None or console.quiet:
        return
    if not console.is_terminal:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
        return
    from tqdm.auto import tqdm

    with tqdm.external_write_mode():  # Trainer's bars are tqdm's, on standard error
        console.print(text, highlight=False, markup=False, soft_wrap=True)


class Phase:
    """One phase while it lasts: made by `phase`."""

    def __init__(self, name: str, doing: str, total: int | None) -> None:
        self.name, self.doing, self.total = name, doing, total
        self.done = 0
        self.found: str | None = None
        """What to print at its end."""

    def at(self, doing: str) -> None:
        """Another part of it begins."""
        self.doing = doing

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count

    def expect(self, total: int) -> None:
        """So many are to be done."""
        self.total = total

    def found_out(self, text: str) -> None:
        """What was measured: the line at its end."""
        self.found = text


@contextmanager
def phase(console: Console | None, name: str, doing: str, total: int | None = None) -> Iterator[Phase]:
    """Show a phase of a command while the context is open, and print what it found when it ends well.

    On a terminal there is a bar, which goes when the phase ends. In a log there is a line after `AFTER`
    seconds and one every `EVERY` seconds from then on. At the end comes one line: the name, what was found
    (`Phase.found_out`), and the time. Nothing is printed if the console is None or quiet.

    Args:
        console: where to print.
        name: of the phase.
        doing: what is done, in a few words.
        total: how much there is to do, in the unit of `Phase.advance`, if that is known.
    """
    now, start = Phase(name, doing, total), time.monotonic()
    if console is None or console.quiet:
        yield now
        return
    with _Bar(now, console) if console.is_terminal else _Lines(now, console):
        yield now
    if now.found is not None:
        told(f"{name}: {now.found}; {duration(time.monotonic() - start)}", console)


class _Watch:
    """A thread that shows a phase, so that work which calls nobody is seen, too."""

    pause = 0.1

    def __init__(self, now: Phase, console: Console) -> None:
        self.now, self.console = now, console
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="graftwork-progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        raise NotImplementedError


class _Lines(_Watch):
    """Lines in a log."""

    def _run(self) -> None:
        wait = AFTER
        while not self._over.wait(wait):
            wait = EVERY
            now = self.now
            at = f" ({now.done:,} of {now.total:,})" if now.total and now.done else ""
            told(f"{now.name}: {now.doing}{at}", self.console)


class _Bar(_Watch):
    """A bar on a terminal."""

    def _run(self) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        now = self.now
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, transient=True, auto_refresh=False) as progress:
            bar = progress.add_task("", total=None, count="")
            while True:
                count = f"{now.done:,}/{now.total:,}" if now.total else ""
                progress.update(
                    bar,
                    description=f"{now.name}: {now.doing}",
                    total=now.total,
                    completed=now.done,
                    count=count,
                )
                progress.refresh()
                if self._over.wait(self.pause):
                    return
