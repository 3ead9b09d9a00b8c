from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

import graftwork as gw
from graftwork.errors import ConfigError, DataError, RoutingError, TrainingError
from graftwork.routing.router import find_router
from graftwork.training.task_collator import TaskCollator
from toys import grafted, tiny, tokens

TASKS = ["cats", "dogs"]


def plain(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([example["input_ids"] for example in examples])}


def pairs(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([example["input_ids"] for _ in range(2) for example in examples])}


@pytest.mark.parametrize("dogs", ["dogs", 1])
@pytest.mark.parametrize(("collator", "expected"), [(plain, [1, 0, 1]), (pairs, [1, 0, 1, 1, 0, 1])])
def test_every_row_keeps_its_task(collator, expected, dogs):
    examples = [{"input_ids": [3], "task": task} for task in (dogs, "cats", dogs)]
    batch = TaskCollator(collator, TASKS)(examples)
    assert batch["graft_rows"].tolist() == expected
    assert set(batch) == {"input_ids", "graft_rows"}
    assert "task" in examples[0]


@pytest.mark.parametrize(
    ("task", "error", "message"),
    [
        ({"task": "dgos"}, RoutingError, "unknown task 'dgos'; did you mean 'dogs'"),
        ({"label": "dogs"}, DataError, "no column 'task' with its task, only input_ids, label"),
    ],
)
def test_examples_without_a_task_are_refused(task, error, message):
    with pytest.raises(error, match=message):
        TaskCollator(plain, TASKS)([{"input_ids": [3], **task}])


def test_packed_batches_are_refused():
    def pack(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.tensor([[example["input_ids"][0] for example in examples]])}

    with pytest.raises(DataError, match="2 examples became a batch of 1 rows"):
        TaskCollator(pack, TASKS)([{"input_ids": [3], "task": "cats"}] * 2)


def trainer_like(**settings: Any) -> Any:
    model = grafted(tasks=TASKS)
    dataset = Dataset.from_list([{"input_ids": [3, 4], "task": "cats"}])
    args = SimpleNamespace(remove_unused_columns=True, **settings)
    return SimpleNamespace(
        model=model, train_dataset=dataset, eval_dataset=None, args=args, data_collator=plain
    )


@pytest.mark.parametrize("setting", ["packing", "eval_packing", "padding_free"])
def test_settings_that_join_rows_are_refused(setting):
    with pytest.raises(TrainingError, match=f"{setting}=True puts several examples into one row"):
        gw.keep_tasks_(trainer_like(**{setting: True}))


def test_a_missing_column_and_a_model_without_adapters_are_refused():
    with pytest.raises(
        TrainingError, match="no column 'kind' with the task of every example, only input_ids, task"
    ):
        gw.keep_tasks_(trainer_like(), column="kind")
    trainer = trainer_like()
    trainer.model = tiny()
    with pytest.raises(ConfigError, match="has no graft adapter"):
        gw.keep_tasks_(trainer)


def test_a_plain_trainer_learns_several_tasks_from_a_column(tmp_path):
    model = grafted(
        tiny("bert", "AutoModelForSequenceClassification", num_labels=2),
        tasks=TASKS,
        modules_to_save=["classifier"],
    )
    inputs = tokens(16)
    rows = [
        {"input_ids": row, "labels": row[0] % 2, "task": TASKS[i % 2]}
        for i, row in enumerate(inputs.tolist())
    ]
    seen = []
    model.base_model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(find_router(module).current()), with_kwargs=True
    )
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model, arguments, train_dataset=Dataset.from_list(rows), callbacks=[gw.StructureCallback()]
    )
    gw.keep_tasks_(trainer)
    trainer.train()
    assert len(seen) == 4
    assert all(sorted(route.tasks.tolist()) != [] and len(route.tasks) == 4 for route in seen)
