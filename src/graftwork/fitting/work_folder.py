"""`WorkFolder`: the checkpoints of an unfinished run, and what must be the same when it goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from graftwork.advice import option
from graftwork.data.task import Task
from graftwork.errors import StorageError, TrainingError
from graftwork.files.later import settled, with_earlier, without_later
from graftwork.files.provenance import versions
from graftwork.files.reading import user_path
from graftwork.files.writing import storage_errors, write_text
from graftwork.files.yaml_file import plain
from graftwork.messages import listed, shown
from graftwork.models.files import FILES
from graftwork.recipe.loading import recipe_to_yaml
from graftwork.recipe.recipe import Recipe
from graftwork.recipe.settings import GraftSettings, TrainingSettings
from graftwork.recipe.shares import plain_share
from graftwork.training.checkpoints import last_checkpoint, remove_faulty, step_of

__all__ = ["MENDABLE", "WorkFolder"]

RUN = "run.json"
MENDABLE = ("learning_rate", "head_learning_rate", "max_grad_norm")
"""Settings of `training` that may change when a run goes on: those that help one that diverged."""


class WorkFolder:
    """The folder beside an output in which a run works until it is finished.

    Args:
        recipe: of the run.

    Attributes:
        path: the folder, `<output>.partial`.
        output: the folder the run will write.
        run: after `open`, what `run.json` says: when the run was `started`, the `versions` and digests of the
            `data` it was started with, how `pairs` are read if that was found out, and a list `resumed` of
            the steps at which it went on, with the settings that were changed.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.output = user_path(recipe.output)
        self.path = self.output.with_name(self.output.name + ".partial")
        self.run: dict[str, Any] = {}

    @property
    def unfinished(self) -> bool:
        """Is there a run to go on with, or one that has not come to its first checkpoint?"""
        return self.path.is_dir() and any(self.path.iterdir())

    def finished_reports(self) -> list[Path]:
        """The reports of a run that was killed after its output was written; empty if it has to go on.

        The output may be that of an earlier run: its report says when that was started.
        """
        started = self._read_run().get("started")
        if started is None:
            return []
        found = sorted((*self.output.glob(FILES.report), *self.output.glob(f"*/{FILES.report}")))
        return [path for path in found if _json(path).get("started") == started]

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse to go on with another run's checkpoints, or to lose those of this one, before any writing.

        Raises:
            TrainingError: there is an unfinished run and it is neither resumed nor overwritten, or there is
                none to resume, or it has another recipe.
        """
        if not resume:
            if self.unfinished and not overwrite:
                raise TrainingError(
                    f"an unfinished run is in {self.path}; pass {option('resume')} to go on with it, or "
                    f"{option('overwrite')} to start anew."
                )
            return
        if not self.unfinished:
            raise TrainingError(
                f"nothing to resume: there is no run in {self.path}; run without {option('resume')}."
            )
        self._changes()

    def _changes(self) -> dict[str, list[Any]]:
        """Settings that the recipe has now, and those of the unfinished run; only some may differ."""
        file = self.path / FILES.recipe
        if not file.is_file():
            return {}
        before = _settled(yaml.safe_load(file.read_text(encoding="utf-8")))
        now = plain(settled(self.recipe))
        changes = {
            f"training.{name}": [before["training"][name], now["training"].get(name)]
            for name in MENDABLE
            if before["training"].get(name) != now["training"].get(name)
        }
        for values in (before, now):
            for name in MENDABLE:
                values["training"].pop(name, None)
        if before != now:
            others = listed(_values(before, now))
            raise TrainingError(
                f"the unfinished run in {self.path} has another recipe (its {FILES.recipe}: {others}); "
                f"resume with that one (of `training`, {', '.join(MENDABLE)} may change), or pass "
                f"{option('overwrite')} to start anew."
            )
        return changes

    def checkpoint(self, part: str = "") -> tuple[str | None, list[str]]:
        """The checkpoint to go on from, None to begin at the first step, and notes on what was passed over.

        Args:
            part: sub-folder of a part of the run.

        Raises:
            TrainingError: there are checkpoints, but none is whole.
        """
        folder = self.path / part
        if not folder.is_dir():
            return None, []
        found, faults = last_checkpoint(folder)
        notes = [f"{name} is passed over: {fault}" for name, fault in faults.items()]
        if found is None and faults:
            raise TrainingError(
                f"no checkpoint in {folder} is whole ({'; '.join(notes)}); pass {option('overwrite')} to "
                "start anew."
            )
        return (None if found is None else str(found)), notes

    @property
    def pairs(self) -> dict[str, Any] | None:
        """What the unfinished run has chosen for `pairs: auto`; None if there is nothing."""
        found = self._read_run().get("pairs")
        return found if isinstance(found, dict) else None

    def open(
        self,
        data: Mapping[str, Mapping[str, str]],
        *,
        resume: bool,
        start: str | None = None,
        pairs: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Make the folder, empty unless a run goes on.

        Args:
            data: digests of the splits of every task.
            resume: go on with the run that is there.
            start: digest of the model that is trained further, if there is one.
            pairs: what was chosen for `pairs: auto`, if anything.

        Returns:
            Notes on what is not as it was.

        Raises:
            TrainingError: the data, or the model that is trained further, are not those the run was started
                with.
            StorageError: the folder cannot be written.
        """
        new = {"started": datetime.now(UTC).isoformat(), "versions": versions(), "data": plain(data)}
        new |= {} if start is None else {"start": start}
        new |= {"pairs": dict(pairs)} if pairs else {}
        notes = []
        if resume:
            self.run = {**new, "resumed": [], **self._read_run()}
            if self.run["data"] != new["data"]:
                changed = [task for task in data if self.run["data"].get(task) != new["data"][task]]
                raise TrainingError(
                    f"the data of {', '.join(changed)} are not those the run in {self.path} was started "
                    f"with; put them back, or pass {option('overwrite')} to start anew."
                )
            if self.run.get("start") != start:
                raise TrainingError(
                    f"{self.recipe.start} is not the model the run in {self.path} was started from; put it "
                    f"back, or pass {option('overwrite')} to start anew."
                )
            for name, version in new["versions"].items():
                if self.run["versions"].get(name) != version:
                    notes.append(
                        f"the run was started with {name} {self.run['versions'].get(name)} and goes on with "
                        f"{version}; its last bits may differ"
                    )
            parts = {path.parent for path in self.path.rglob(f"{PREFIX_CHECKPOINT_DIR}-*")} | {self.path}
            step = max(step_of(last_checkpoint(part)[0]) for part in parts)
            self.run["resumed"].append({"step": step, "changes": self._changes()})
            for part in parts:
                remove_faulty(part)
        else:
            self.run = {**new, "resumed": []}
            shutil.rmtree(self.path, ignore_errors=True)
        try:
            with storage_errors(str(self.path), self.path, resume=resume):
                self.path.mkdir(parents=True, exist_ok=True)
                write_text(self.path / FILES.recipe, recipe_to_yaml(self.recipe))
                write_text(self.path / RUN, json.dumps(self.run, indent=1) + "\n")
        except StorageError:
            self.run = {}
            if not resume:
                shutil.rmtree(self.path, ignore_errors=True)
            raise
        return notes

    def _read_run(self) -> dict[str, Any]:
        return _json(self.path / RUN)

    def remove(self) -> None:
        """Remove the folder, last of all the file that says which run it was."""
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != RUN:
                path.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)


def _settled(recipe: dict[str, Any]) -> dict[str, Any]:
    """The values of a `recipe.yaml` as this version would write them: an older one wrote every default."""
    graft = {key: plain_share(value, key) for key, value in recipe["graft"].items()}
    recipe = {**recipe, "graft": graft, "budgets": plain_share(recipe["budgets"])}
    sections = {"training": TrainingSettings, "graft": GraftSettings}
    found = {name: without_later(recipe[name], cls) for name, cls in sections.items()}
    return {**recipe, **found, "tasks": [without_later(task, Task) for task in recipe["tasks"]]}


def _values(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """The values of an unfinished run that are others now, also those that its file leaves out."""
    before, now = map(_by_section, (before, now))
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if not (isinstance(old, dict) and isinstance(new, dict)):
            old, new, prefix = {name: old}, {name: new}, ""
        else:
            prefix = f"{name}."
        yield from (
            f"{prefix}{key}: {shown(old[key])}" if key in old else f"no {prefix}{key}"
            for key in {**old, **new}
            if old.get(key) != new.get(key)
        )


def _by_section(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a recipe with those that its file leaves out, every task as a section of its own."""
    tasks = {f"task {task['name']}": with_earlier(task, Task) for task in recipe["tasks"]}
    rest = {name: value for name, value in recipe.items() if name != "tasks"}
    return {**rest, "graft": with_earlier(recipe["graft"], GraftSettings), **tasks}


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
