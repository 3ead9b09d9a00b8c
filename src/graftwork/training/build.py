"""`build_trainer`: the trainer of `fit`, of its budgets, of an added task, and of a run of a comparison."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.data.tokens import collate
from graftwork.diagnosis.stalled import StalledCallback
from graftwork.search.schedule import Schedule
from graftwork.search.tracking import keep_events
from graftwork.training.answering.trained import set_loss_
from graftwork.training.arguments import remove_default_output, training_arguments
from graftwork.training.bars import TrainingBars, TrainingLines
from graftwork.training.preparation import Prepared
from graftwork.training.trainer import MultiTaskTrainer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainerCallback

    from graftwork.models.multitask import MultiTaskModel
    from graftwork.recipe.settings import TrainingSettings

__all__ = ["build_trainer"]


def build_trainer(
    model: MultiTaskModel,
    prepared: Prepared,
    settings: TrainingSettings,
    *,
    folder: Path,
    seed: int,
    callbacks: Sequence[TrainerCallback],
    checkpoints: bool = False,
    bars: bool = False,
    schedule: Schedule | None = None,
    stop_stalled: bool = True,
    events: Path | None = None,
    changes: Mapping[str, Any] | None = None,
    extra_loss: Callable[[], Tensor | None] | None = None,
    rates: Mapping[str, float] | None = None,
) -> MultiTaskTrainer:
    """A trainer with the settings of a recipe.

    Args:
        model: the model.
        prepared: its tasks. Without validation rows nothing is evaluated or reported.
        settings: the training loop, its length settled (`graftwork.recipe.length`).
        folder: for checkpoints.
        seed: of the order of rows and all else that Trainer draws.
        callbacks: in the order in which they are called (`graftwork.training.order`).
        checkpoints: save one per evaluation, keep the last two and the best, and end with the best.
        bars: show how it goes, with bars if standard error is a terminal, else with lines.
        schedule: phases of the run; after the warm-up and the ramp it must still tell rows apart.
        stop_stalled: end a run that does not; else say so (`graftwork.diagnosis.stalled`).
        events: where TensorBoard's files go; default below `folder`.
        changes: further arguments of Trainer, or others in place of these.
        extra_loss: see `MultiTaskTrainer`.
        rates: see `MultiTaskTrainer`.

    Raises:
        ConfigError: the processes cannot share a batch evenly, a tracker is not installed, or the loss is per
            token and no task is written.
    """
    set_loss_(model, settings.loss)
    phases = schedule or Schedule()
    stalled = StalledCallback(
        model.heads.heads,
        prepared.tokens["train"],
        prepared.tokenizer,
        at=(phases.warmup or Schedule.warmup, phases.ramp or Schedule.ramp),
        stop=stop_stalled,
        seed=seed,
    )
    validation = prepared.tokens.get("validation")
    own: dict[str, Any] = {"save_strategy": "no"}
    if checkpoints:
        own = {
            "save_strategy": "epoch" if settings.eval_steps is None else "steps",
            "save_steps": settings.eval_steps or 500,
            "save_total_limit": 2,
            "load_best_model_at_end": True,
            "metric_for_best_model": "mean",
            "greater_is_better": True,
        }
    if validation is None:
        own |= {"eval_strategy": "no", "report_to": []}
    # Trainer tells of every setting that it finds unusual, and we have chosen them.
    logging.getLogger("transformers.trainer").setLevel(logging.ERROR)
    trainer = MultiTaskTrainer(
        model,
        training_arguments(
            settings, folder=folder, rows=prepared.rows, seed=seed, changes={**own, **(changes or {})}
        ),
        train_dataset=prepared.tokens["train"],
        eval_dataset=validation,
        data_collator=collate(prepared.tokenizer),
        backbone_name=prepared.name,
        temperature=settings.temperature,
        head_learning_rate=settings.head_learning_rate,
        extra_loss=extra_loss,
        rates=rates,
        augment=settings.augment,
        callbacks=[*callbacks, stalled],
    )
    if events is not None:
        keep_events(trainer, events)
    remove_default_output(trainer)
    if bars:
        trainer.add_callback(TrainingBars() if sys.stderr.isatty() else TrainingLines())
    return trainer
