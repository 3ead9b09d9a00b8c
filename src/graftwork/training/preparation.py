"""What every training run shares, whatever adapts the backbone: its data, Trainer's settings, its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import Trainer

from graftwork.data.splits import load_task
from graftwork.data.task_data import TaskData
from graftwork.data.tokens import longest_first
from graftwork.distributed.processes import main_first, on_main
from graftwork.models.backbone import load_backbone
from graftwork.models.outputs import RowSample
from graftwork.preflight.neighbours import check_neighbours
from graftwork.preflight.preflight import fitting_tokens
from graftwork.search.grouping import ROWS, group_tasks, input_distances

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from graftwork.data.task import Task
from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.models.identity import CACHE

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from graftwork.data.task import Task

__all__ = ["Grouping", "Prepared", "cache_folder", "find_groups", "prepare", "split_scores"]


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


def split_scores(trainer: Trainer, tokens: Dataset, split: str, tasks: Sequence[str]) -> dict[str, float]:
    """Score of every task on one split, by the trainer's model as it is now; rows go in order of length."""
    metrics = trainer.predict(longest_first(tokens), metric_key_prefix=split).metrics or {}
    return {name: float(metrics[f"{split}_{name}"]) for name in tasks}


def cache_folder() -> Path | None:
    """Where tokenised data are kept; None for a user without a home."""
    try:
        return CACHE.expanduser()
    except RuntimeError:
        return None
