"""The rows a saved model is scored on, and whether they are those that its report speaks of.

A split with a source of its own may have changed: that is a note. One that was carved out of the train source
cannot be carved again when that source has changed: rows that were trained on would be in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftwork.data.splits import carved_with, load_split
from graftwork.data.task import SPLITS, Task
from graftwork.data.task_data import Split, TaskData
from graftwork.errors import CheckpointError, DataError
from graftwork.files.places import MEMORY
from graftwork.finished.reports import read_report
from graftwork.kinds.heads import TaskHead
from graftwork.models.files import FILES
from graftwork.noise.applying import damage_tasks
from graftwork.recipe.loading import load_recipe
from graftwork.recipe.recipe import Recipe

__all__ = ["SavedData", "ScoredRows", "note_of_score"]

SAME = 5e-4
"""Largest difference of scores that count as equal: half of the last of three decimals that are printed."""


@dataclasses.dataclass(frozen=True)
class ScoredRows:
    """The rows of one task, and the score they had when the model was made."""

    head: TaskHead
    rows: Split
    recorded: float | None = None
    """The score in the report, if it is that of these rows."""


class SavedData:
    """The data of a model folder: the recipe says where they are, the report has checksums and scores.

    Args:
        folder: of the model.

    Attributes:
        recipe: None if the folder has none.
        notes: what a reader of the scores must know, one sentence each.

    Raises:
        CheckpointError: the report is damaged.
        RecipeError: the recipe is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = folder / FILES.recipe
        self.recipe: Recipe | None = load_recipe(file, saved=True) if file.is_file() else None
        found = read_report(folder).get("tasks")
        self._report: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
        self.notes: list[str] = []

    def split(self, head: TaskHead, split: str) -> ScoredRows | None:
        """The rows of a split as the recipe says, with its noise; None if it does not know the task.

        Raises:
            CheckpointError: the folder has no recipe.
            DataError: a source cannot be read, has a class that the head does not know, or has changed, so
                that other rows would be carved out of it.
        """
        if self.recipe is None:
            raise CheckpointError(
                f"{self.folder} has no {FILES.recipe}, so its data are not known; give a file with labels as "
                "--data, or use `graftwork predict`."
            )
        task = next((task for task in self.recipe.tasks if task.name == head.name), None)
        if task is None:
            self.notes.append(
                f"task {head.name!r} is not in {self.folder / FILES.recipe}, so its data are not known; "
                f"score it with --data FILE --task {head.name}"
            )
            return None
        if str(getattr(task, split) or task.train).startswith(MEMORY):
            raise DataError(
                f"{split} of task {task.name!r}: the rows were given in Python and are not kept with the "
                f"model; score rows with --data FILE --task {task.name}"
            )
        carved = self._carved(task, split)
        rows = self._read(task, head, split, self.recipe, carved)
        return ScoredRows(head, rows, self._compared(task, split, rows, carved))

    def file(self, head: TaskHead, source: str, split: str) -> ScoredRows:
        """All rows of a new source, in the form of the task's own, without the recipe's noise.

        Args:
            head: the task.
            source: as in a recipe.
            split: which file of a folder, or split of a hub dataset.

        Raises:
            DataError: it cannot be read, lacks a field, or has a class that the head does not know.
        """
        known = self.recipe.tasks if self.recipe is not None else ()
        task = next((task for task in known if task.name == head.name), Task(head.name))
        given: dict[str, Any] = {name: source for name in SPLITS}
        given |= {f"max_{name}": None for name in SPLITS}
        whole = dataclasses.replace(task, **given, minimum={}, drop_broken=False)
        rows = load_split(whole, head, split).splits[split]
        if self.recipe is not None and self.recipe.noise:
            self.notes.append(f"the noise of {self.folder / FILES.recipe} is not put into {source}")
        digests = self._facts(head.name, "sha256")
        if rows.sha256 in (digests.get("train"), digests.get("validation")):
            name = next(name for name in SPLITS if digests.get(name) == rows.sha256)
            self.notes.append(
                f"the rows of {source} are the {name} rows of task {head.name!r}, which made the model"
            )
        return ScoredRows(head, rows)

    def _carved(self, task: Task, split: str) -> bool:
        try:
            return bool(carved_with(task, split))
        except DataError as error:  # the train source is gone, and with it what says so
            raise DataError(f"{split} of task {task.name!r}: {error}; {_instead(task)}") from None

    def _read(self, task: Task, head: TaskHead, split: str, recipe: Recipe, carved: bool) -> Split:
        try:
            data = load_split(task, head, split, recipe.seed)
        except DataError as error:
            if not carved:
                raise
            raise DataError(
                f"{error}; {split} is split off from that source, which has changed since the model was "
                f"made; {_instead(task)}"
            ) from None
        (damaged,), _ = damage_tasks([data], recipe.noise)
        return TaskData(head, damaged.splits).splits[split]

    def _compared(self, task: Task, split: str, rows: Split, carved: bool) -> float | None:
        """The score of these rows in the report; a note or an error if the rows have changed."""
        what = f"{split} of task {task.name!r}"
        digest = self._facts(task.name, "sha256").get(split)
        if not isinstance(digest, str):
            risk = f"; if {task.train} has changed, rows that were trained on may be among them"
            self.notes.append(
                f"{what}: {self.folder} has no digest of these rows in a {FILES.report}, so it is not known "
                "whether they are those of the model" + risk * (carved and split != "train")
            )
            return None
        if digest == rows.sha256:
            score = self._report[task.name].get(split)
            return float(score) if isinstance(score, int | float) else None
        before = self._facts(task.name, "rows").get(split)
        change = (
            f"{before:,} rows then, {len(rows):,} now"
            if isinstance(before, int) and before != len(rows)
            else "as many rows, but other texts or labels"
        )
        if carved and split != "train":
            raise DataError(
                f"{what} is split off from {task.train}, which does not give the rows it gave when the model "
                f"was made ({change}): rows that were trained on may be among them. {_instead(task)}"
            )
        source = task.train if split == "train" else getattr(task, split) or task.train
        self.notes.append(
            f"{what}: {source} has changed since the model was made ({change}); this is the score of its "
            f"rows now, not to be compared with that in {FILES.report}"
        )
        return None

    def _facts(self, task: str, key: str) -> Mapping[str, Any]:
        found = self._report.get(task)
        facts = found.get(key) if isinstance(found, Mapping) else None
        return facts if isinstance(facts, Mapping) else {}


def note_of_score(rows: ScoredRows, split: str, score: float) -> str | None:
    """A note if the same rows have another score than in the report."""
    if rows.recorded is None or abs(rows.recorded - score) <= SAME:
        return None
    return (
        f"{split} of task {rows.head.name!r}: the rows are those of {FILES.report}, but the score there is "
        f"{rows.recorded:.4f} and here {score:.4f}: the machine, the libraries, the backbone or noise drawn "
        "in the model differ"
    )


def _instead(task: Task) -> str:
    return f"put the source back as it was, or score other rows with --data FILE --task {task.name}"
