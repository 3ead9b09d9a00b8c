"""`Recipe`: everything one run needs, checked once and never changed."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from graftwork.data.task import Task
from graftwork.errors import ConfigError, RecipeError
from graftwork.files.later import LATER
from graftwork.kinds.registry import KINDS
from graftwork.messages import shown
from graftwork.noise.kinds import Noise
from graftwork.recipe.schema import joined
from graftwork.recipe.settings import GraftSettings, TrainingSettings
from graftwork.recipe.shares import SHARE
from graftwork.search.schedule import Schedule
from graftwork.structure.fixed import GROUPED
from graftwork.structure.groups import check_groups
from graftwork.tuner.config_checks import check_adapters, check_sites, check_tasks

__all__ = ["Recipe", "finds_groups", "graft_values"]


@dataclass(frozen=True)
class Recipe:
    """One run: a backbone, its tasks and how to train them.

    Raises:
        RecipeError: there is no task, task names repeat, or a setting is out of range.
    """

    model: str
    """Backbone: a hub id, a folder, or `package:NAME/sub/folder` inside an installed package."""
    tasks: tuple[Task, ...]
    """Tasks, in the order of the rows of every gate table."""
    output: str
    """Folder the run writes."""
    graft: GraftSettings = field(default_factory=GraftSettings)
    """Adapter pool, gates and sites."""
    schedule: Schedule = field(default_factory=Schedule)
    """Phases of the search."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """Training loop."""
    budgets: tuple[float, ...] = field(default=(), metadata=SHARE)
    """experimental: several budgets such as [1%, 0.3%], in place of `graft.budget`: one search, at the
    largest, and a model tuned for each."""
    noise: tuple[Noise, ...] = ()
    """Noise in training, in testing or in both: a list of mappings with kind, ratio, when and seed."""
    seed: int = 0
    """Seed of everything random: splits, order of rows, initial weights, gate noise."""
    start: str | None = field(default=None, metadata=LATER)
    """Folder of a finished model to go on from: its structure is kept, its adapters and heads are trained
    further, on these tasks, each of which it has; `graft` and `schedule` stay those of that model."""

    def __post_init__(self) -> None:
        """Check what concerns several values at once."""
        faults = [f"{name} is empty" for name in ("model", "output") if not getattr(self, name).strip()]
        faults += ["start is empty"] if self.start is not None and not self.start.strip() else []
        faults += self._output_faults()
        if not self.tasks:
            faults.append("tasks is empty; give at least one")
        faults += self._reads_faults()
        if any(KINDS[task.kind].written for task in self.tasks):  # the only way that is left
            joint = [replace(task, pairs="joint") if task.pairs == "auto" else task for task in self.tasks]
            object.__setattr__(self, "tasks", tuple(joint))
        counts = Counter(task.name for task in self.tasks)
        faults += [
            f"task name {shown(name)} is given {count} times; names must differ"
            for name, count in counts.items()
            if count > 1
        ]
        if not 0 <= self.seed < 2**32:
            faults.append(f"seed={self.seed} must be a whole number from 0 to {2**32 - 1}")
        faults += self._budget_faults()
        if not faults:
            try:
                self._check_graft()
                if self.graft.groups is not None:
                    check_groups(_lists(self.graft.groups), self._names())
            except ConfigError as error:
                faults.append(f"graft: {str(error).rstrip('.')}")
        if faults:
            raise RecipeError(joined(faults))

    def _reads_faults(self) -> list[str]:
        reads = {task.reads: task.name for task in self.tasks}
        if len(reads) > 1:
            return [
                f"task {shown(reads['image'])} reads images and task {shown(reads['text'])} texts; a "
                "backbone reads one of them, so train them in two recipes"
            ]
        writers = [task.name for task in self.tasks if KINDS[task.kind].written]
        pairs = [task for task in self.tasks if task.pairs == "separate"]
        if writers and pairs:
            said, cure = "pairs: separate", "leave pairs out, or train"
            if KINDS[pairs[0].kind].per == "pair":
                said, cure = f"kind: {pairs[0].kind}", "train"
            return [
                f"task {shown(pairs[0].name)} has {said}, but a language model that writes, as for task "
                f"{shown(writers[0])}, reads pairs as one sequence; {cure} them in two recipes"
            ]
        training = self.training
        given = [name for name in ("image_size", "augment") if getattr(training, name)]
        if given and "image" not in reads:
            return [f"training.{given[0]} is for tasks that read images, and none does; leave it out"]
        texts = [noise.kind for noise in self.noise if noise.target == "text"]
        if texts and "image" in reads:
            return [f"{texts[0]} noise is for texts, and the tasks read images; leave it out"]
        return []

    def _output_faults(self) -> list[str]:
        if self.output.strip() and (Path(self.output).name in ("", "..") or "\0" in self.output):
            return [f"output={shown(self.output)} must end in the name of a folder"]
        return []

    def _budget_faults(self) -> list[str]:
        faults = [
            f"budgets: {budget!r} must be above 0 and below 1, a fraction of the backbone such as 0.3%"
            for budget in self.budgets
            if not 0 < budget < 1
        ]
        if len({f"{budget:g}" for budget in self.budgets}) < len(self.budgets):
            faults.append(f"budgets={list(self.budgets)} must differ (in their first 6 digits)")
        if self.budgets and self.start is not None:
            faults.append("budgets are chosen by a search, but start keeps the structure; leave one out")
        if self.budgets:
            graft = self.graft
            given = {"penalty": graft.penalty is not None, "structure": graft.structure is not None}
            given["gates"] = graft.gates == "fixed"
            faults += [
                f"budgets are chosen from one search, which graft.{name}={getattr(graft, name)!r} rules out; "
                "leave one of them out"
                for name, found in given.items()
                if found
            ]
        return faults

    @property
    def finds_groups(self) -> bool:
        """The groups of tasks are to be found from the rows."""
        return finds_groups(self.graft)

    def graft_values(self) -> dict[str, Any]:
        """The arguments of `GraftConfig` for this run; of several budgets, the largest is searched."""
        return graft_values(self._names(), self.graft, **self._changes())

    def _check_graft(self) -> None:
        """What `GraftConfig` would refuse, without PEFT and torch."""
        values = SimpleNamespace(**self.graft_values())
        for check in (check_sites, check_tasks, check_adapters):
            check(values)

    def _names(self) -> list[str]:
        return [task.name for task in self.tasks]

    def _changes(self) -> dict[str, Any]:
        return {"start_seed": self.seed, **({"budget": max(self.budgets)} if self.budgets else {})}


def finds_groups(settings: GraftSettings) -> bool:
    """The groups of tasks are to be found from the rows."""
    learned = settings.structure is None and settings.gates != "fixed"
    needed = settings.structure == GROUPED or (learned and settings.gate_start == "grouped")
    return needed and settings.groups is None


def graft_values(tasks: Sequence[str], settings: GraftSettings, **changes: Any) -> dict[str, Any]:
    """The arguments of `GraftConfig` for a section `graft`; with a structure given, no gate is learned."""
    plain = {name: _lists(value) for name, value in dataclasses.asdict(settings).items()}
    if plain.pop("structure") is not None:
        plain["gates"] = "fixed"
    return {"tasks": list(tasks), **plain, **changes}


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value
