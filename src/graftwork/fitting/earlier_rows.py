"""`EarlierRows`: rows that a model was trained or scored on must not change sides later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftwork.data.splits import carved_with, load_split, text_keys
from graftwork.data.task import SPLITS, Task
from graftwork.data.task_data import Split, TaskData
from graftwork.errors import DataError
from graftwork.kinds.heads import TaskHead
from graftwork.messages import shown
from graftwork.noise.applying import damage_tasks
from graftwork.recipe.recipe import Recipe

__all__ = ["EarlierRows"]

CURE = "give the rows as they were, or test rows of their own that it has not seen as test"
"""What to do about rows that change sides, for messages."""
CHANCE = 0.05
"""Part of the test texts that may be among train texts from another source: data sets have duplicates."""
Keys = set[tuple[str, ...]]


class EarlierRows:
    """The rows of a finished model, found again by its recipe and the digests in its report.

    Args:
        folder: of the model, for messages.
        recipe: its recipe.
        report: what its report says of its tasks.
        heads: its heads by task.
    """

    def __init__(
        self, folder: Path, recipe: Recipe, report: Mapping[str, Any], heads: Mapping[str, TaskHead]
    ) -> None:
        self.folder, self.recipe, self.report, self.heads = folder, recipe, report, heads

    def check(self, task: Task, clean: TaskData, data: TaskData) -> list[str]:
        """Compare the rows of a task with those of the model. Texts are equal up to case and white space.

        Args:
            task: as the new run has it.
            clean: its rows before noise.
            data: its rows with noise, as digests are of them.

        Returns:
            Notes on what cannot be known, may be chance, or touches the choice of the best step alone.

        Raises:
            DataError: test rows were train rows of the model, train rows were its test rows, or test rows are
                split off from other rows than its own, and those cannot be found again.
        """
        known = self.report.get(task.name)
        digests = known.get("sha256", {}) if isinstance(known, Mapping) else {}
        same = {split for split in SPLITS if digests.get(split) == data.sha256[split]}
        if same == set(SPLITS):
            return []
        keys = {split: set(text_keys(clean.splits[split].texts)) for split in SPLITS}
        train = keys["train"] if "train" in same else self._keys(task.name, "train", digests)
        test = keys["test"] if "test" in same else self._keys(task.name, "test", digests)
        what = f"task {task.name!r}"
        # Rows from sources of their own may be alike by chance; carved ones are only if they changed sides.
        few = 0 if carved_with(task, "test") else int(CHANCE * len(keys["test"]))
        changed = (
            ("train", "test", keys["train"] & (test or set()) - (train or set())),
            ("test", "train", keys["test"] & (train or set()) - (test or set())),
        )
        notes = []
        for now, then, texts in changed:
            said = f"{now} of {what}: {len(texts):,} of its texts are {then} rows of {self.folder}"
            if len(texts) > few:
                raise DataError(f"{said}, such as {shown(min(texts)[0])}; {CURE}.")
            if texts:
                notes.append(f"{said}, so that test scores may be a little too good")
        if test is None or (train is None and "test" not in same):
            risk = f"rows that {self.folder} was trained on may be among the test rows of {what}"
            if "test" not in same and carved_with(task, "test"):
                raise DataError(
                    f"{risk}: they are split off from the train rows, which are not those of the model, and "
                    f"its own cannot be found again; {CURE}."
                )
            notes.append(f"{risk}, or its test rows among the train rows: its own cannot be found again")
        chosen = keys["validation"] & (train or set()) if "validation" not in same else set()
        if chosen:
            notes.append(
                f"{self.folder} was trained on {len(chosen):,} of the validation texts of {what}, so that "
                "validation scores, and with them the choice of the best step, are too good"
            )
        return notes

    def _keys(self, name: str, split: str, digests: Mapping[str, Any]) -> Keys | None:
        """The texts of a split as the model had it; None if they cannot be found again."""
        task = next((task for task in self.recipe.tasks if task.name == name), None)
        if task is None:
            return None
        try:
            data = load_split(task, self.heads[name], split, self.recipe.seed)
            (damaged,), _ = damage_tasks([data], self.recipe.noise)
        except DataError:  # the source is gone, or has changed
            return None
        rows: Split = data.splits[split]
        return set(text_keys(rows.texts)) if damaged.splits[split].sha256 == digests.get(split) else None
