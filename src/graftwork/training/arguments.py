"""Trainer's arguments from the training section of a recipe."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from graftwork.distributed.processes import world_size
from graftwork.errors import ConfigError
from graftwork.recipe.length import total_steps

if TYPE_CHECKING:
    from graftwork.recipe.settings import TrainingSettings

__all__ = [
    "bfloat16_instructions",
    "remove_default_output",
    "trackers",
    "training_arguments",
    "warn_if_bfloat16_is_slow",
]


def training_arguments(
    settings: TrainingSettings,
    *,
    folder: Path,
    rows: int,
    seed: int,
    changes: Mapping[str, Any] | None = None,
) -> TrainingArguments:
    """Trainer's arguments for the settings of a recipe: evaluation once per epoch, or every `eval_steps`.

    Several processes share a batch, so that a recipe means the same steps on any number of them.

    Args:
        settings: the training loop, its length settled (`graftwork.recipe.length`).
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


_UNSEEN = ("flyte",)
"""Trackers that Transformers supports but does not look for, so that they cannot be checked."""

CPUINFO = Path("/proc/cpuinfo")
"""Where Linux lists what its processor knows."""
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Linux's names for instructions that multiply bfloat16 numbers: two of x86, one of Arm."""


def bfloat16_instructions() -> bool | None:
    """Whether this processor multiplies bfloat16 numbers itself; None if the system does not say.

    A processor without such instructions converts every number: matrix products take 10 to 100 times as long
    as in float32, with them less than once.
    """
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, flags = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return not BFLOAT16_FLAGS.isdisjoint(flags.split())
    return None


def warn_if_bfloat16_is_slow() -> None:
    """Say so if training in bfloat16 on this CPU takes longer than in float32."""
    if bfloat16_instructions() is False:
        warnings.warn(
            "this CPU has no bfloat16 instructions: a matrix product takes 10 to 100 times as long as in "
            "float32. Train with training.bf16 false.",
            stacklevel=3,
        )
