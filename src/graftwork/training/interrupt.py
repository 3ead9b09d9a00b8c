"""Ctrl-C that keeps what was learned: the run stops after the current step, with a checkpoint.

Of several processes all stop after the same step, whichever of them heard of it first.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from graftwork.distributed.processes import any_process, several
from graftwork.training.patience import Patience

__all__ = ["InterruptCallback"]

ECHO = 2.0
"""Seconds in which a second signal counts as the first one: a launcher repeats what the terminal has sent."""


class InterruptCallback(TrainerCallback):
    """Stops Trainer, with a checkpoint, after the step of the first Ctrl-C; a second one stops at once."""

    # A training that is over saves nothing more, one that is interrupted does.
    follows: tuple[TrainerCallback | type[TrainerCallback], ...] = (Patience,)

    def __init__(self) -> None:
        self.heard = False
        """True after a Ctrl-C in this process."""
        self.requested = False
        """True once the run is to stop, in all processes from the same step on."""
        self._since = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to SIGINT inside the context (only the main thread can)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGINT, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.heard:
            self.heard, self._since = True, time.monotonic()
        elif not several() or time.monotonic() - self._since > ECHO:
            raise KeyboardInterrupt

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save and stop, if asked."""
        self.requested = any_process(self.requested or self.heard)
        if self.requested:
            control.should_save = True
            control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the checkpoint of the step alone.

        Stopping ends the epoch, and Trainer would evaluate and save again. The evaluation draws random
        numbers that an unbroken run does not draw here, so that a resumed run would differ.
        """
        if self.requested:
            control.should_save = False
            control.should_evaluate = False
