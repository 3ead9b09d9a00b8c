"""Ctrl-C that keeps what was learned: the run stops after the current step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

__all__ = ["InterruptCallback"]


class InterruptCallback(TrainerCallback):
    """Stops Trainer, with a checkpoint, after the step of the first Ctrl-C; a second one stops at once."""

    def __init__(self) -> None:
        self.requested = False

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
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save and stop, if asked."""
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
