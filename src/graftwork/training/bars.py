"""How far a training is: bars on a terminal, lines in a log; and bars of scoring."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from graftwork.messages import duration

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["TrainingBars", "TrainingLines", "closed_bars", "scoring_bar"]

EVERY = 30.0
"""Seconds between two lines."""


class TrainingBars(ProgressCallback):
    """Trainer's bars, with loss and phase beside them instead of a dictionary per log."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show what matters."""
        if self.training_bar is None or not logs:
            return
        shown = {
            "loss": logs.get("loss"),
            "mean": logs.get("eval_mean"),
            "size": logs.get("graft/expected_parameters"),
        }
        values = {name: float(value) for name, value in shown.items() if value is not None}
        self.training_bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()})

    def close(self) -> None:
        """Close what is open; Trainer does so only at the end of a training that went well."""
        for bar in (self.prediction_bar, self.training_bar):
            if bar is not None:
                bar.close()
        self.prediction_bar = self.training_bar = None


class TrainingLines(TrainerCallback):
    """A line on standard error every half a minute, for a log, where a bar would be one endless line."""

    def __init__(self) -> None:
        self._begun = self._told = 0.0
        self._first = 0
        self._loss: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the clock."""
        self._begun = self._told = time.monotonic()
        self._first = state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remember the loss."""
        self._loss = (logs or {}).get("loss", self._loss)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell step, loss and time left, if the last line is old."""
        now = time.monotonic()
        if now - self._told < EVERY or not state.is_world_process_zero:
            return
        self._told = now
        done, steps = state.global_step, state.max_steps
        left = (now - self._begun) / (done - self._first) * (steps - done)
        loss = "" if self._loss is None else f", loss {self._loss:.3f}"
        share = 100 * done // steps
        told = f"step {done:,} of {steps:,} ({share} %){loss}, about {duration(left)} left"
        print(f"training: {told}", file=sys.stderr, flush=True)


@contextmanager
def closed_bars(trainer: Trainer) -> Iterator[None]:
    """End the line of bars that an error leaves open, so that its message begins on a new line."""
    try:
        yield
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TrainingBars):
                callback.close()


@contextmanager
def scoring_bar(total: int, console: Console | None) -> Iterator[Callable[[int], None]]:
    """A bar over `total` rows while the context is open, if the console is a terminal; gone afterwards.

    Yields:
        What is told how many rows were done since the last time.
    """
    if console is None or not console.is_terminal:
        yield lambda count: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("scoring rows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=total)
        yield lambda count: progress.advance(bar, count)
