"""What every training run shares, whatever adapts the backbone: its data, Trainer's settings, its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from graftwork.data import TaskData, load_task, longest_first
from graftwork.errors import ConfigError
from graftwork.forward import RowSample
from graftwork.grouping import ROWS, group_tasks, input_distances
from graftwork.identity import CACHE
from graftwork.length import total_steps
from graftwork.neighbours import check_neighbours
from graftwork.persist import load_backbone
from graftwork.precision import warn_if_bfloat16_is_slow
from graftwork.preflight import fitting_tokens
from graftwork.processes import main_first, on_main, world_size

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from graftwork.settings import Training
    from graftwork.tasks import Task

__all__ = [
    "CACHE",
    "Grouping",
    "Prepared",
    "cache_folder",
    "find_groups",
    "prepare",
    "remove_default_output",
    "split_scores",
    "trackers",
    "training_arguments",
]

_UNSEEN = ("flyte",)
"""Trackers that Transformers does not look for."""


def cache_folder() -> Path | None:
    """Where tokenised data are kept; None for a user without a home."""
    try:
        return CACHE.expanduser()
    except RuntimeError:
        return None


@dataclass
class Prepared:
    """Everything a run needs before its first step."""

    backbone: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    datas: list[TaskData]
    tokens: dict[str, Dataset]
    max_length: int
    """Tokens of a row: what was asked for, or all that the backbone has positions for."""
    notes: list[str]
    """What the user should know."""


def prepare(
    model: str,
    tasks: Sequence[Task],
    *,
    max_length: int,
    seed: int = 0,
    datas: Sequence[TaskData] | None = None,
) -> Prepared:
    """Load backbone and tasks, and tokenise the tasks.

    Args:
        model: hub id, folder, or `package:NAME/sub/folder`.
        tasks: what to train on.
        max_length: tokens of a row; no more are used than the backbone has positions for.
        seed: of the splits and sub-samples that are drawn.
        datas: the tasks' rows, if they are loaded already (or damaged on purpose).

    Raises:
        RecipeError: the backbone cannot be loaded, or its outputs for a row depend on the rows beside it.
    """
    loaded = list(datas) if datas is not None else [load_task(task, seed) for task in tasks]
    backbone, tokenizer = load_backbone(model)
    check_neighbours(backbone, tokenizer, model, max_length)
    # The main process makes the cache, the others find it.
    found = main_first(lambda: fitting_tokens(loaded, backbone, tokenizer, max_length, cache_folder()))
    return Prepared(backbone, tokenizer, loaded, found.splits, found.max_length, found.notes)


@dataclass(frozen=True)
class Grouping:
    """Which tasks share adapters from the start, and the distances between their inputs that say so."""

    groups: list[list[str]]
    distances: list[list[float]]

    def as_dict(self) -> dict[str, Any]:
        """For reports."""
        rounded = [[round(value, 4) for value in row] for row in self.distances]
        return {"groups": self.groups, "distances": rounded}


def find_groups(prepared: Prepared, seed: int) -> Grouping:
    """Group the tasks by a few of their training rows, on the main process.

    Args:
        prepared: with the backbone as it was loaded.
        seed: of the choice of rows.

    Raises:
        DataError: a task has fewer than two rows.
    """
    names = [data.head.name for data in prepared.datas]

    def work() -> Grouping:
        sample = RowSample(prepared.tokens["train"], prepared.tokenizer, most=ROWS * len(names), seed=seed)
        distances = input_distances(prepared.backbone, sample.batches(), names)
        return Grouping(group_tasks(distances, names), distances.tolist())

    return on_main(work)


def training_arguments(
    settings: Training, *, folder: Path, rows: int, seed: int, changes: Mapping[str, Any] | None = None
) -> TrainingArguments:
    """Trainer's arguments for the settings of a recipe: evaluation once per epoch, or every `eval_steps`.

    Several processes share a batch, so that a recipe means the same steps on any number of them.

    Args:
        settings: the training loop, its length settled (`graftwork.length`).
        folder: for checkpoints.
        rows: training rows of all tasks together.
        seed: of the order of rows and all else that Trainer draws.
        changes: further arguments, or others in place of these.

    Raises:
        ConfigError: the processes cannot share a batch evenly, or a tracker is not installed.
    """
    size, left = divmod(settings.batch_size, world_size())
    if left:
        raise ConfigError(
            f"training.batch_size={settings.batch_size} cannot be shared evenly by {world_size()} processes; "
            f"choose a multiple of {world_size()}."
        )
    steps = total_steps(settings, rows)
    use_cpu = not torch.accelerator.is_available()
    if settings.bf16 and use_cpu:
        warn_if_bfloat16_is_slow()
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": size,
        "per_device_eval_batch_size": 2 * size,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "warmup_steps": round(settings.warmup_ratio * steps),
        "max_grad_norm": settings.max_grad_norm,
        "bf16": settings.bf16,
        # Trainer refuses bf16 on a machine without an accelerator unless it is told to use the CPU.
        "use_cpu": use_cpu,
        "eval_strategy": "epoch" if settings.eval_steps is None else "steps",
        "eval_steps": settings.eval_steps,
        "logging_steps": max(1, min(50, steps // 20)),
        "report_to": trackers(settings.report_to),
        "seed": seed,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
    }
    return TrainingArguments(**{**arguments, **(changes or {})})


def trackers(report_to: str | Sequence[str]) -> list[str]:
    """Names of Transformers' trackers for a setting `report_to`.

    Raises:
        ConfigError: one of them is not installed.
    """
    if report_to == "none":
        return []
    from transformers.integrations.integration_utils import get_available_reporting_integrations

    installed: list[str] = get_available_reporting_integrations()
    if report_to == "all":
        return installed
    names = [report_to] if isinstance(report_to, str) else list(report_to)
    absent = [name for name in names if name not in installed and name not in _UNSEEN]
    if absent:
        raise ConfigError(
            f"report_to={absent[0]!r} is not installed; pip install its package, or choose among "
            f"{', '.join(('none', *installed))}."
        )
    return names


def remove_default_output(trainer: Trainer) -> None:
    """Take away Trainer's own bars and printed dictionaries."""
    for default in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(default)


def split_scores(trainer: Trainer, tokens: Dataset, split: str, tasks: Sequence[str]) -> dict[str, float]:
    """Score of every task on one split, by the trainer's model as it is now; rows go in order of length."""
    metrics = trainer.predict(longest_first(tokens), metric_key_prefix=split).metrics or {}
    return {name: float(metrics[f"{split}_{name}"]) for name in tasks}
