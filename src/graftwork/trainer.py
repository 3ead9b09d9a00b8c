"""`MultiTaskTrainer`: Transformers' Trainer for a `MultiTaskModel`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import EvalPrediction, Trainer, TrainingArguments

from graftwork.callback import StructureCallback
from graftwork.data import TaskSampler, longest_first, row_lengths
from graftwork.errors import TrainingError
from graftwork.evaluate import per_task_scores
from graftwork.multitask import MultiTaskModel
from graftwork.persist import load_weights, save_model
from graftwork.tasks import TaskHead
from graftwork.tracking import track

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["MultiTaskTrainer", "suite_scores"]


def suite_scores(heads: tuple[TaskHead, ...]) -> Callable[[EvalPrediction], dict[str, float]]:
    """A `compute_metrics`: the score of every task under its own metric, and `mean` over the tasks."""

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        # Transformers declares a tuple of one, whatever `label_names` says.
        label_ids: Any = prediction.label_ids
        labels, rows = label_ids
        scores = per_task_scores(prediction.predictions, labels, rows, heads)
        return {**scores, "mean": float(np.mean(list(scores.values())))}

    return compute


class MultiTaskTrainer(Trainer):
    """Trains a `MultiTaskModel` on batches that mix its tasks.

    Differences from Trainer: tasks are drawn with a temperature and rows batched by length (`TaskSampler`);
    heads may have their own learning rate; checkpoints hold adapters and heads instead of the backbone; logs
    carry the figures of the structure search, so that every `report_to` shows them (`graftwork.tracking`).

    On several processes (DDP) a global batch has the rows, and the tasks, of one batch of that size on one
    process. The loss is the mean over the rows of each process's part, averaged over the processes; parts are
    equally large, for which the last batch of an epoch is filled with rows from its beginning.

    Args:
        model: the model.
        args: Trainer's arguments.
        train_dataset: as made by `graftwork.data.tokenise`, with `graft_rows`.
        backbone_name: what to write into checkpoints as the backbone's name.
        temperature: of the task sampling.
        head_learning_rate: learning rate of the heads, if not that of the adapters.
        **kwargs: for Trainer.

    Raises:
        TrainingError: FSDP is asked for.
    """

    # The loss is a mean over the rows of a batch. Trainer would take it for one normalised by
    # num_items_in_batch if the model's forward had **kwargs, and count it once per accumulation step.
    loss_is_scaled_for_ga = False
    model: MultiTaskModel

    def __init__(
        self,
        model: MultiTaskModel,
        args: TrainingArguments,
        *,
        train_dataset: Dataset | None = None,
        backbone_name: str = "",
        temperature: float = 1.0,
        head_learning_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.backbone_name = backbone_name
        self.temperature = temperature
        self.head_learning_rate = head_learning_rate
        args.label_names = ["labels", "graft_rows"]
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            compute_metrics=suite_scores(model.heads.heads),
            **kwargs,
        )
        if self.is_fsdp_enabled:
            raise TrainingError(
                "MultiTaskTrainer trains copies of the model (DDP), not shards of one; leave FSDP out, or "
                "use Trainer with a PeftModel (docs/distributed.md)."
            )
        track(self)

    @property
    def structure_callback(self) -> StructureCallback | None:
        """The structure callback, if one was given."""
        found = [item for item in self.callback_handler.callbacks if isinstance(item, StructureCallback)]
        return found[0] if found else None

    def _get_train_sampler(self, train_dataset: Any = None) -> TaskSampler:
        dataset: Any = train_dataset if train_dataset is not None else self.train_dataset
        tasks = np.asarray(dataset.data.column("graft_rows").to_numpy())
        # Of every such batch each process takes its part, for the loader deals out consecutive ones in turn.
        batch_size = self.args.train_batch_size * self.args.world_size
        return TaskSampler(row_lengths(dataset), tasks, batch_size, self.temperature, int(self.args.seed))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with Trainer's decay rule, and a group for the heads if they have their own rate."""
        if self.optimizer is not None or self.head_learning_rate is None:
            return super().create_optimizer(model)
        optimizer = super().create_optimizer(model)
        heads = {id(parameter) for parameter in self.model.heads.parameters()}
        for group in list(optimizer.param_groups):
            mine = [parameter for parameter in group["params"] if id(parameter) in heads]
            if mine:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in heads]
                optimizer.add_param_group(
                    {"params": mine, "lr": self.head_learning_rate, "weight_decay": group["weight_decay"]}
                )
        return optimizer

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Trainer's evaluation with the rows in order of their length; only `predict` must keep theirs."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        return super().evaluate(longest_first(dataset), *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.accelerator.unwrap_model(self.model), folder, backbone_name=self.backbone_name)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        load_weights(self.model, Path(str(self.state.best_model_checkpoint)))
