"""A multi-task model of three toy tasks under `MultiTaskTrainer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments

from graftwork.models.multitask import MultiTaskModel
from graftwork.training.trainer import MultiTaskTrainer
from toy_heads import HEADS
from toys import grafted, tokens


def rows(count: int = 48) -> Dataset:
    inputs = tokens(count, 6).tolist()
    return Dataset.from_list(
        [
            {
                "input_ids": row[: 3 + i % 4],
                "labels": [float(row[0] % 2), row[1] / 20 - 1, float(row[2] % 3)][i % 3],
                "graft_rows": i % 3,
            }
            for i, row in enumerate(inputs)
        ]
    )


def collate(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    length = max(len(feature["input_ids"]) for feature in features)
    padded = [[*feature["input_ids"], *[0] * (length - len(feature["input_ids"]))] for feature in features]
    return {
        "input_ids": torch.tensor(padded),
        "attention_mask": (torch.tensor(padded) != 0).long(),
        "labels": torch.tensor([feature["labels"] for feature in features]),
        "graft_rows": torch.tensor([feature["graft_rows"] for feature in features]),
    }


def make_model(**settings: Any) -> MultiTaskModel:
    backbone = grafted(**{"budget": 300, **settings})
    torch.manual_seed(0)
    return MultiTaskModel(backbone, HEADS, dropout=0.0)


def make_trainer(folder: Path, model: MultiTaskModel, **settings: Any) -> MultiTaskTrainer:
    options = {name: settings.pop(name) for name in ("head_learning_rate", "callbacks") if name in settings}
    arguments = {
        "max_steps": 20,
        "per_device_train_batch_size": 6,
        "learning_rate": 0.01,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "dataloader_pin_memory": False,
        **settings,
    }
    return MultiTaskTrainer(
        model,
        TrainingArguments(str(folder), **arguments),
        train_dataset=rows(),
        eval_dataset=rows(12),
        data_collator=collate,
        backbone_name="tiny",
        **options,
    )


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}
