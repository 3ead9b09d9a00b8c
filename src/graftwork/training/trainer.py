"""`MultiTaskTrainer`: Transformers' Trainer for a `MultiTaskModel`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EvalPrediction, TrainingArguments

from graftwork.data.images.reader import AugmentedRows
from graftwork.data.sampler import TaskSampler
from graftwork.data.tokens import longest_first, row_lengths
from graftwork.distributed.processes import any_process
from graftwork.errors import TrainingError
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.scores import per_task_scores
from graftwork.models.multitask import MultiTaskModel
from graftwork.search.callback import StructureCallback
from graftwork.search.divergence import diverged, not_finite
from graftwork.search.tracking import track
from graftwork.training.checkpoints import CheckpointingTrainer
from graftwork.training.order import check_order

if TYPE_CHECKING:
    from datasets import Dataset

    from graftwork.kinds.linear_heads import TaskHeads

__all__ = ["MultiTaskTrainer", "offending_tasks", "suite_scores"]


def suite_scores(
    heads: tuple[TaskHead, ...] | Callable[[], tuple[TaskHead, ...]],
) -> Callable[[EvalPrediction], dict[str, float]]:
    """A `compute_metrics`: the score of every task under its own metric, and `mean` over the tasks.

    Args:
        heads: the tasks; or a function that gives them as they are when it scores.
    """

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        # Transformers declares a tuple of one, whatever `label_names` says.
        label_ids: Any = prediction.label_ids
        labels, rows = label_ids
        scores = per_task_scores(prediction.predictions, labels, rows, heads() if callable(heads) else heads)
        return {**scores, "mean": float(np.mean(list(scores.values())))}

    return compute


class MultiTaskTrainer(CheckpointingTrainer):
    """Trains a `MultiTaskModel` on batches that mix its tasks.

    Differences from Trainer: tasks are drawn with a temperature and rows batched by length (`TaskSampler`);
    heads may have their own learning rate; checkpoints hold adapters and heads instead of the backbone, and
    are whole or absent (`graftwork.training.checkpoints`); logs carry the figures of the structure search, so
    that every `report_to` shows them (`graftwork.search.tracking`); a loss that is not finite stops the run,
    where Trainer would leave it out of the logs (`logging_nan_inf_filter`); a run may be resumed with other
    learning rates.

    The loss is the mean over the rows of a batch (`MultiTaskModel`). A task of n_t rows has a share of each
    epoch that is proportional to `n_t ** (1 / temperature)`.

    On several processes (DDP) a global batch has the rows, and the tasks, of one batch of that size on one
    process. The loss is the mean over the rows of each process's part, averaged over the processes; parts are
    equally large, for which the last batch of an epoch is filled with rows from its beginning.

    Args:
        model: the model.
        args: Trainer's arguments.
        train_dataset: as made by `graftwork.data.tokens.tokenise`, with `graft_rows`.
        backbone_name: what to write into checkpoints as the backbone's name.
        temperature: of the task sampling.
        head_learning_rate: learning rate of the heads, if not that of the adapters.
        extra_loss: called after every forward pass; what it returns is added to the loss in training.
        augment: random changes of the images of training rows (`graftwork.data.images.augmentation`).
        rates: part of a parameter's name -> the learning rate of such parameters, which do not decay.
        **kwargs: for Trainer.

    Attributes:
        evaluation_seconds: spent in `evaluate` so far.

    Raises:
        TrainingError: FSDP is asked for; in `train`, callbacks are in an order in which they cannot work.
        DivergenceError: in `train`, when the loss or a weight is not finite.
        StorageError: in `train`, when a checkpoint cannot be written.

    Example:
        `rows` are the tokens of three tasks, as made by `graftwork.data.tokens.tokenise`; `heads` are theirs.

        >>> from peft import get_peft_model
        >>> from transformers import TrainingArguments
        >>> from graftwork.data.tokens import collate
        >>> config = gw.GraftConfig(tasks=[head.name for head in heads], budget=0.03, pool_size=4)
        >>> model = gw.MultiTaskModel(get_peft_model(backbone, config), heads)
        >>> search = gw.StructureCallback()
        >>> trainer = gw.MultiTaskTrainer(
        ...     model,
        ...     TrainingArguments("runs/checkpoints", max_steps=10, report_to=[], use_cpu=True),
        ...     train_dataset=rows,
        ...     data_collator=collate(tokenizer),
        ...     callbacks=[search],
        ... )
        >>> finished = trainer.train()
        {'train_runtime': ...}
        >>> search.structure.tasks
        ('colour', 'same', 'length')
    """

    # The loss is a mean over the rows of a batch. Trainer would take it for one normalised by
    # num_items_in_batch if the model's forward had **kwargs, and count it once per accumulation step.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: MultiTaskModel,
        args: TrainingArguments,
        *,
        train_dataset: Dataset | None = None,
        backbone_name: str = "",
        temperature: float = 1.0,
        head_learning_rate: float | None = None,
        extra_loss: Callable[[], Tensor | None] | None = None,
        rates: Mapping[str, float] | None = None,
        augment: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.backbone_name = backbone_name
        self.temperature = temperature
        self.head_learning_rate = head_learning_rate
        self.extra_loss = extra_loss
        self.rates = rates or {}
        self.augment = augment or {}
        self.evaluation_seconds = 0.0
        self._batch: tuple[Tensor, Tensor, Tensor] | None = None
        args.label_names = ["labels", "graft_rows"]
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            compute_metrics=suite_scores(lambda: model.heads.heads),
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
        lengths, seed = row_lengths(dataset), int(self.args.seed)
        self._sampler = TaskSampler(lengths, tasks, batch_size, self.temperature, seed)
        return self._sampler

    def get_train_dataloader(self) -> Any:
        """Trainer's, with images changed at random if that is asked for: those of training alone."""
        if not self.augment:
            return super().get_train_dataloader()
        plain: Any = self.data_collator
        seed = int(self.args.seed)
        self.data_collator = AugmentedRows(plain, self.augment, seed, lambda: self._sampler.epoch)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = plain

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with Trainer's decay rule, and groups for parameters with a rate of their own."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if not fresh:
            return optimizer
        if self.head_learning_rate is not None:
            heads = {id(parameter) for parameter in self.model.heads.parameters()}
            for group in list(optimizer.param_groups):
                if mine := _taken(group, heads):
                    own = {"lr": self.head_learning_rate, "weight_decay": group["weight_decay"]}
                    optimizer.add_param_group({"params": mine, **own})
        for part, rate in self.rates.items():
            named = {id(value) for name, value in self.model.named_parameters() if part in name}
            mine = [value for group in optimizer.param_groups for value in _taken(group, named)]
            optimizer.add_param_group({"params": mine, "lr": rate, "weight_decay": 0.0})
        return optimizer

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's training, after a look at the order of the callbacks.

        Raises:
            TrainingError: one relies on another that comes after it.
            CheckpointError: a file to go on from is damaged, or holds more than numbers.
        """
        check_order(self.callback_handler.callbacks)
        return super().train(*args, **kwargs)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Trainer's evaluation with the rows in order of their length; only `predict` must keep theirs."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        start = time.perf_counter()
        try:
            return super().evaluate(longest_first(dataset), *args, **kwargs)
        finally:
            self.evaluation_seconds += time.perf_counter() - start

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Trainer's, noting what it was computed from, and what `extra_loss` adds."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        labels, rows = inputs.get("labels"), inputs.get("graft_rows")
        if model.training and labels is not None:
            rows = labels.new_zeros(len(labels), dtype=torch.long) if rows is None else rows
            self._batch = outputs.logits.detach(), labels, rows
        extra = None if self.extra_loss is None else self.extra_loss()
        if extra is not None and model.training:
            loss = loss + extra
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Trainer's, which ends the run at the first loss that is not finite, before the optimizer sees it.

        The value is read where Trainer's own filter reads it next, so that no device waits once more.

        Raises:
            DivergenceError: names the step and the tasks.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        value = loss.item()
        finite = math.isfinite(value)
        # On several processes all of them have to stop, or the others would wait for this one.
        if any_process(not finite):
            blame = "the loss of another process is not finite" if finite else self._blame(value)
            raise diverged(self.state.global_step + 1, blame)
        return loss

    def _blame(self, value: float) -> str:
        """Why the loss is not finite: the tensors or the tasks that it comes from."""
        trained = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        broken = not_finite(trained)
        if broken:
            return (
                f"the loss is {value}, since {len(broken)} of {len(trained)} trained tensors are not finite, "
                f"such as {broken[0]}"
            )
        tasks: list[str] = []
        if self._batch is not None:
            heads = self.model.heads
            logits, labels, rows = self._batch
            tasks = offending_tasks(heads, heads.row_losses(logits, labels, rows), rows)
        if not tasks:
            return f"the loss is {value}, though that of every row is finite"
        return f"the loss of task{'s' * (len(tasks) > 1)} {', '.join(tasks)} is {value}"


def _taken(group: dict[str, Any], chosen: Container[int]) -> list[Tensor]:
    """Take parameters out of a group of an optimizer, by their ids."""
    mine = [value for value in group["params"] if id(value) in chosen]
    group["params"] = [value for value in group["params"] if id(value) not in chosen]
    return mine


def offending_tasks(heads: TaskHeads, losses: Tensor, rows: Tensor) -> list[str]:
    """The tasks with a row whose loss is not finite, and how many rows.

    Args:
        heads: of all tasks.
        losses: of every row, shape [rows].
        rows: task index of every row, shape [rows].
    """
    bad: Iterable[int] = rows[~losses.isfinite()].tolist()
    counts: dict[str, int] = {}
    for row in bad:
        counts[heads.heads[row].name] = counts.get(heads.heads[row].name, 0) + 1
    total = {head.name: int((rows == index).sum()) for index, head in enumerate(heads.heads)}
    return [f"{name!r} ({count} of its {total[name]} rows)" for name, count in counts.items()]
