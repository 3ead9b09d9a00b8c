"""How far a training is: bars on a terminal, lines in a log, a line for every phase; and bars of scoring."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from graftwork.messages import duration
from graftwork.progress import EVERY, told
from graftwork.trunk.trunk import trunk_facts

if TYPE_CHECKING:
    from rich.console import Console

    from graftwork.diagnosis.diagnosis import DiagnosisCallback
    from graftwork.search.callback import StructureCallback

__all__ = ["PhaseLines", "TrainingBars", "TrainingLines", "closed_bars", "counted", "scoring_bar"]


class TrainingBars(ProgressCallback):
    """Trainer's bars, with loss and size beside them instead of a dictionary per log."""

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Show evaluations of the training; what is scored after it has a bar of its own."""
        if self.training_bar is not None:
            super().on_prediction_step(args, state, control, eval_dataloader, **kwargs)

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
        self._training = False
        self._loss: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the clock."""
        self._begun = self._told = time.monotonic()
        self._first, self._training = state.global_step, True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """What is scored from here on has lines of its own."""
        self._training = False

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell that an evaluation takes long."""
        now = time.monotonic()
        if self._training and now - self._told >= EVERY and state.is_world_process_zero:
            self._told = now
            told = f"evaluating after step {state.global_step:,} of {state.max_steps:,}"
            print(f"validation: {told}", file=sys.stderr, flush=True)

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


class PhaseLines(TrainerCallback):
    """One line at the end of every phase: its steps, what was measured, and the size of the adapters.

    Args:
        console: where to print.
        searches: the callbacks that search, the first of which tells the phases.
        watch: the callback that scores the structure when it is decided.
    """

    def __init__(
        self, console: Console, searches: Sequence[StructureCallback], watch: DiagnosisCallback
    ) -> None:
        self.console, self.searches, self.watch = console, tuple(searches), watch
        self.follows = (*self.searches, watch)
        self._name = ""
        self._begun = 0.0
        self._first = 0
        self._scores: list[float] = []
        self._decided = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell what will come."""
        search = self.searches[0].search
        assert search is not None
        steps, step = state.max_steps, state.global_step
        self._decided = search.control is None
        self._enter(search.phase(step), step)
        window, after = search.window, f", from step {step + 1:,} on" if step else ""
        phases = f"; warm-up until step {window.start:,}, search until step {window.stop:,}, then tune"
        told(f"training: {steps:,} steps{after}{'' if self._decided else phases}", self.console)

    def _enter(self, name: str, step: int) -> None:
        self._name, self._begun, self._first, self._scores = name, time.monotonic(), step + 1, []

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remember the score."""
        score = (metrics or {}).get("eval_mean")
        self._scores += [] if score is None else [score]

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell what a phase has ended with, and what was decided."""
        search = self.searches[0].search
        assert search is not None
        name = search.phase(state.global_step)
        if name == self._name:
            return
        self._end(state.global_step)
        if not self._decided and search.control is None:
            self._decided = True
            told(f"decision: {self._size()}{self._gap()}", self.console)
            if search.tree is not None:
                told(f"decision: {trunk_facts(search.model)['parting']}", self.console)
        self._enter(name, state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell of the last phase."""
        self._end(state.global_step)

    def _end(self, step: int) -> None:
        if step < self._first:
            return
        scores, parts = self._scores, [f"steps {self._first:,} to {step:,}"]
        if not self._decided and self._name == "warm-up":
            parts.append("no adapter is closed yet")
        if scores and self._name == "tune":
            many = f" of {len(scores)} evaluations" if len(scores) > 1 else ""
            parts.append(f"best mean validation score {max(scores):.3f}{many}")
        elif scores:
            parts.append(f"mean validation score {scores[-1]:.3f}, gates not decided yet")
        spent = duration(time.monotonic() - self._begun)
        told(f"{self._name}: {'; '.join(parts)}; {spent}", self.console)

    def _size(self) -> str:
        found = [item.structure for item in self.searches if item.structure is not None]
        kept = sum(structure.parameters() for structure in found)
        pool = sum(site.cost * site.pool_size for structure in found for site in structure.sites.values())
        return f"{kept:,} of {pool:,} adapter parameters are kept"

    def _gap(self) -> str:
        gap = self.watch.gap
        if gap is None:
            return ""
        return (
            f"; mean validation score {gap['soft']:.3f} before, {gap['hard']:.3f} after "
            f"({gap['rows']:,} rows)"
        )


@contextmanager
def counted(trainer: Trainer, advance: Callable[[], None]) -> Iterator[None]:
    """Inside the context `advance` is called after every batch that the trainer scores."""
    counting = _Counting(advance)
    trainer.add_callback(counting)
    try:
        yield
    finally:
        trainer.remove_callback(counting)


class _Counting(TrainerCallback):
    """Counts batches of a prediction."""

    def __init__(self, advance: Callable[[], None]) -> None:
        self.advance = advance

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """One more."""
        self.advance()


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
