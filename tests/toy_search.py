"""A classifier of two tasks under plain Trainer, with a structure search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import Trainer, TrainerCallback, TrainingArguments

from toys import grafted, tiny, tokens

TASKS = ["cats", "dogs"]


def rows(count: int = 32) -> list[dict[str, Any]]:
    inputs = tokens(count, 6)
    return [
        {"input_ids": inputs[i], "labels": int(inputs[i, 0]) % 2, "graft_rows": i % 2} for i in range(count)
    ]


def classifier(**settings: Any) -> PeftModel:
    backbone = tiny("bert", "AutoModelForSequenceClassification", num_labels=2)
    return grafted(backbone, tasks=TASKS, modules_to_save=["classifier"], **{"budget": 300, **settings})


def make_trainer(
    folder: Path, model: PeftModel, callbacks: list[TrainerCallback], **settings: Any
) -> Trainer:
    arguments = {
        "max_steps": 20,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "remove_unused_columns": False,
        "label_names": ["labels", "graft_rows"],
        "dataloader_pin_memory": False,
        **settings,
    }
    return Trainer(
        model,
        TrainingArguments(str(folder), **arguments),
        train_dataset=rows(),
        eval_dataset=rows(8),
        callbacks=callbacks,
    )
