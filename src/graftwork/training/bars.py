"""Bars of a training, and of scoring, on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers import Trainer
from transformers.trainer_callback import ProgressCallback

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["TrainingBars", "closed_bars", "scoring_bar"]


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
