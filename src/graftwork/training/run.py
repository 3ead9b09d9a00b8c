"""`train`: to the end. `TrainingRun`: one training run of a recipe, interrupted or to its end."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.advice import again
from graftwork.diagnosis.diagnosis import DiagnosisCallback
from graftwork.diagnosis.stalled import StalledCallback
from graftwork.distributed.processes import on_all
from graftwork.errors import DivergenceError, Interrupted, StorageError
from graftwork.models.multitask import MultiTaskModel
from graftwork.noise.applying import noisy_model
from graftwork.noise.kinds import Noise
from graftwork.noise.state import NoiseState
from graftwork.recipe.recipe import Recipe
from graftwork.search.callback import StructureCallback
from graftwork.training.bars import closed_bars
from graftwork.training.checkpoints import last_checkpoint
from graftwork.training.interrupt import InterruptCallback
from graftwork.training.trainer import MultiTaskTrainer

__all__ = ["Interrupted", "TrainingRun", "train"]


@dataclass
class TrainingRun:
    """One training run: its trainer, and the callbacks that others ask afterwards."""

    recipe: Recipe
    trainer: MultiTaskTrainer
    structure: StructureCallback
    watch: DiagnosisCallback
    interrupt: InterruptCallback
    draws: NoiseState
    noise: list[dict[str, Any]]
    """What noise was applied."""
    seconds: dict[str, float]
    """Seconds of each part of the run except the training."""
    loss: float = 0.0
    """Mean training loss."""

    @property
    def model(self) -> MultiTaskModel:
        """The model that is trained."""
        return _unwrapped(self.trainer)

    def train(self, checkpoint: str | None, folder: Path) -> None:
        """Train until the end.

        Args:
            checkpoint: to go on from.
            folder: what to name in the message if the user interrupts.

        Raises:
            Interrupted: Ctrl-C; there is a checkpoint.
            DivergenceError: the loss or a weight is not finite; the last checkpoint is from before.
            StorageError: a checkpoint cannot be written; the one before is whole.
        """
        try:
            with self.interrupt.listening():
                self.loss = train(
                    self.trainer, self.recipe.noise, self.noise, draws=self.draws, checkpoint=checkpoint
                )
        except DivergenceError as error:
            lower = {"training.learning_rate": f"{self.recipe.training.learning_rate / 3:.2g}"}
            raise DivergenceError(f"{error} {_kept(self)} Go on with: {again(changes=lower)}") from error
        except StorageError as error:  # which ends in what to run
            text = str(error)
            raise StorageError(f"{_kept(self)} {text[:1].upper()}{text[1:]}") from error
        on_all(lambda: _check_finished(self, folder))


def train(
    trainer: MultiTaskTrainer,
    noise: Sequence[Noise],
    reports: list[dict[str, Any]],
    *,
    draws: NoiseState | None = None,
    checkpoint: str | None = None,
) -> float:
    """Train until the end, with noise in the model.

    Args:
        trainer: made by `build_trainer`.
        noise: what is meant for the model in training is put into it.
        reports: what was measured of that noise is appended.
        draws: the trainer's callback that keeps the state of the noise in checkpoints, if it has one.
        checkpoint: to go on from.

    Returns:
        The mean training loss.

    Raises:
        DivergenceError: the loss or a weight is not finite.
    """
    with closed_bars(trainer), warnings.catch_warnings():
        # The loader of a machine without a GPU has no use for pinned memory, and says so every epoch.
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        with noisy_model(_unwrapped(trainer), noise, "train", reports) as measures:
            if measures:  # its passes would draw from the noise, and a resumed run would draw otherwise
                trainer.remove_callback(StalledCallback)
            if draws is not None:
                draws.measures = measures
            return float(trainer.train(resume_from_checkpoint=checkpoint).training_loss)


def _unwrapped(trainer: MultiTaskTrainer) -> MultiTaskModel:
    """The model of a trainer, without what several processes wrap around it."""
    model: MultiTaskModel = trainer.accelerator.unwrap_model(trainer.model)
    return model


def _kept(run: TrainingRun) -> str:
    """A sentence that names the checkpoint to resume from."""
    found, _ = last_checkpoint(Path(str(run.trainer.args.output_dir)))
    return "There is no checkpoint yet." if found is None else f"The last good checkpoint is {found}."


def _check_finished(run: TrainingRun, folder: Path) -> None:
    if run.interrupt.requested or run.interrupt.heard:
        state = run.trainer.state
        raise Interrupted(
            f"interrupted at step {state.global_step} of {state.max_steps}; the checkpoint is in {folder}. "
            f"Go on with: {again()}"
        )
