"""Several tasks under trainers that drop unknown columns, such as TRL's `SFTTrainer` and `DPOTrainer`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from graftwork.errors import DataError, TrainingError
from graftwork.routing.rows import ROWS_KEYWORD, unknown_task
from graftwork.tuner.view import graft_view

__all__ = ["TaskCollator", "keep_tasks_"]


class TaskCollator:
    """A data collator that adds the task of every row as `graft_rows`.

    Args:
        collator: makes a batch of the examples, without their tasks.
        tasks: names of the tasks, in the order of the graft adapter.
        column: holds the task of an example, its name or its index in `tasks`.
    """

    def __init__(
        self, collator: Callable[[list[dict[str, Any]]], Any], tasks: Sequence[str], column: str = "task"
    ) -> None:
        self.collator = collator
        self.tasks = tuple(tasks)
        self.column = column

    def __call__(self, examples: list[dict[str, Any]]) -> Any:
        """The batch, with `graft_rows` of shape [rows].

        Raises:
            DataError: an example has no task, or the batch does not hold each example equally often.
            RoutingError: a task is unknown.
        """
        rows = torch.tensor([self._index(example) for example in examples])
        batch = self.collator(
            [{name: value for name, value in e.items() if name != self.column} for e in examples]
        )
        size = next((len(value) for value in batch.values() if isinstance(value, Tensor) and value.dim()), 0)
        if not size or size % len(rows):
            raise DataError(
                f"{len(rows)} examples became a batch of {size} rows, so tasks cannot be told apart; turn "
                "off packing and padding_free."
            )
        # Preference pairs: all chosen answers, then all rejected ones.
        batch[ROWS_KEYWORD] = rows.repeat(size // len(rows))
        return batch

    def _index(self, example: dict[str, Any]) -> int:
        if self.column not in example:
            raise DataError(
                f"an example has no column {self.column!r} with its task, only {', '.join(example)}; give "
                "the column's name as column=."
            )
        task = example[self.column]
        if isinstance(task, str):
            if task not in self.tasks:
                raise unknown_task(task, self.tasks)
            return self.tasks.index(task)
        return int(task)


def keep_tasks_(trainer: Any, column: str = "task") -> None:
    """Let a trainer hand the tasks of its examples to a graft model of several tasks, in place.

    For Transformers' Trainer and those of TRL, after they are made and before `train`;
    `graftwork.MultiTaskTrainer` needs nothing.

    Args:
        trainer: a `transformers.Trainer` of any kind.
        column: of its datasets, holds the task of an example, its name or its index.

    Raises:
        TrainingError: the trainer packs several examples into one row, or an example has no such column.
        ConfigError: its model has no graft adapter.

    Example:
        >>> from peft import get_peft_model
        >>> from transformers import Trainer, TrainingArguments
        >>> model = get_peft_model(backbone, gw.GraftConfig(tasks=["a", "b"], budget=0.03))
        >>> dataset = [{"input_ids": [2, 5, 3], "task": "a"}, {"input_ids": [2, 6, 3], "task": "b"}]
        >>> arguments = TrainingArguments("runs/checkpoints", use_cpu=True)
        >>> trainer = Trainer(model, arguments, train_dataset=dataset)
        >>> gw.keep_tasks_(trainer)
        >>> next(iter(trainer.get_train_dataloader()))["graft_rows"].sort().values
        tensor([0, 1])
    """
    args = trainer.args
    for setting in ("packing", "eval_packing", "padding_free"):
        if getattr(args, setting, False):
            raise TrainingError(
                f"{setting}=True puts several examples into one row, which can only have one task; set "
                f"{setting}=False."
            )
    for dataset in (trainer.train_dataset, trainer.eval_dataset):
        names = getattr(dataset, "column_names", None)
        if isinstance(names, list) and column not in names:
            raise TrainingError(
                f"the dataset has no column {column!r} with the task of every example, only "
                f"{', '.join(names)}; give the column's name as column=."
            )
    tasks = graft_view(trainer.model).config.tasks
    trainer.data_collator = TaskCollator(trainer.data_collator, tasks, column)
    # Or the column would be gone before the collator sees it.
    args.remove_unused_columns = False
