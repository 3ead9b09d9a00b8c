"""`Recipe`: everything one run needs, read from a YAML file, checked once and never changed.

All faults of a recipe are reported together: unknown keys with the nearest right one, values of a wrong
type with what is allowed, missing values, settings out of range.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from graftwork.config_checks import check_adapters, check_sites, check_tasks
from graftwork.controls import GROUPED
from graftwork.errors import ConfigError, GraftworkError, RecipeError
from graftwork.files import shown
from graftwork.groups import check_groups
from graftwork.later import settled
from graftwork.noise_kinds import Noise
from graftwork.places import Given, moved_recipe
from graftwork.schedule import Schedule
from graftwork.schema import expand, read_fields, together
from graftwork.settings import GraftSettings, Training
from graftwork.shares import SHARE, share_slips, spelled_share
from graftwork.structure_file import named_file
from graftwork.tasks import Task
from graftwork.yamlfile import plain, read_yaml, values_to_yaml

if TYPE_CHECKING:
    from graftwork.config import GraftConfig

__all__ = [
    "Recipe",
    "find_files",
    "graft_config",
    "load_recipe",
    "override",
    "plain",
    "read_tasks",
    "read_yaml",
    "recipe_to_yaml",
    "values_to_yaml",
]


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
    training: Training = field(default_factory=Training)
    """Training loop."""
    budgets: tuple[float, ...] = field(default=(), metadata=SHARE)
    """Several budgets such as [1%, 0.3%], in place of `graft.budget`: one search, at the largest, and a model
    tuned for each."""
    noise: tuple[Noise, ...] = ()
    """Noise in training, in testing or in both: a list of mappings with kind, ratio, when and seed."""
    seed: int = 0
    """Seed of everything random: splits, order of rows, initial weights, gate noise."""

    def __post_init__(self) -> None:
        """Check what concerns several values at once."""
        faults = [f"{name} is empty" for name in ("model", "output") if not getattr(self, name).strip()]
        faults += self._output_faults()
        if not self.tasks:
            faults.append("tasks is empty; give at least one")
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
            raise RecipeError(together(faults))

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

    def graft_config(self) -> GraftConfig:
        """The PEFT settings of this run; of several budgets, the largest is searched."""
        return graft_config(self._names(), self.graft, **self._changes())

    def _check_graft(self) -> None:
        """What `GraftConfig` would refuse, without PEFT and torch."""
        values = SimpleNamespace(**_graft_values(self._names(), self.graft, **self._changes()))
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


def graft_config(tasks: Sequence[str], settings: GraftSettings, **changes: Any) -> GraftConfig:
    """The PEFT settings of a section `graft`; with a structure given, no gate is learned."""
    from graftwork.config import GraftConfig

    return GraftConfig(**_graft_values(tasks, settings, **changes))


def _graft_values(tasks: Sequence[str], settings: GraftSettings, **changes: Any) -> dict[str, Any]:
    plain = {name: _lists(value) for name, value in dataclasses.asdict(settings).items()}
    if plain.pop("structure") is not None:
        plain["gates"] = "fixed"
    return {"tasks": list(tasks), **plain, **changes}


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


def load_recipe(
    path: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    saved: bool = False,
    places: bool = True,
) -> Recipe:
    """Read a recipe from a YAML file.

    `$NAME`, `${NAME}` and `${NAME:-default}` in `model`, `output` and the sources of tasks are environment
    variables. A relative model folder or source is looked for beside the recipe first, then in the current
    folder.

    Args:
        path: The YAML file.
        overrides: Values that replace those of the file, by dotted key: `training.epochs`, `seed`, or
            `tasks.NAME.max_train`.
        saved: The file is that of a saved model, so that no budget of a tenth or more is a slip.
        places: Refuse environment variables that are not set; False: backbone and data are not needed.

    Raises:
        RecipeError: the file cannot be read as a recipe; the message names every fault.
    """
    path = Path(path)
    raw = read_yaml(path)
    faults: list[str] = []
    unset = faults if places else []
    for key, value in (overrides or {}).items():
        override(raw, key, value, faults)
    folder = path.parent
    for name in ("model", "output"):
        if isinstance(raw.get(name), str):
            raw[name] = expand(raw[name], folder if name == "model" else None, name, unset)
    if not saved:
        faults += share_slips(Recipe, raw, "") + share_slips(GraftSettings, raw.get("graft"), "graft.")
    find_files(raw.get("graft"), folder, unset)
    tasks = read_tasks(raw.pop("tasks", None), folder, faults, unset)
    noise = read_noise(raw.pop("noise", None) or [], faults)
    settings = read_fields(Recipe, raw, "", faults, given=("tasks", "noise"))
    if not faults:
        try:
            return Recipe(tasks=tasks, noise=noise, **settings)
        except RecipeError as error:
            faults.append(str(error))
    raise RecipeError(f"{path}: {together(faults)}")


def recipe_to_yaml(recipe: Recipe, folder: Path | None = None) -> str:
    """The recipe as YAML that `load_recipe` reads back.

    Values at their default are written too, but for those of settings that came later (`graftwork.later`).

    Args:
        recipe: The recipe.
        folder: Where the YAML is to lie: relative paths of backbone and data are written relative to it,
            others as they were given. Without it, all are written as this process uses them.
    """
    values = settled(recipe)
    graft = values["graft"]
    for section, key in ((values, "budgets"), (graft, "budget"), (graft, "task_budget")):
        if key in section:
            section[key] = spelled_share(section[key])
    return values_to_yaml(values if folder is None else moved_recipe(values, folder))


def override(raw: dict[str, Any], key: str, value: Any, faults: list[str]) -> None:
    """Set a dotted key in the raw recipe; the tasks of the list are addressed by name."""
    *sections, last = key.split(".")
    target: Any = raw
    for i, section in enumerate(sections):
        if i == 1 and sections[0] == "tasks":
            tasks = target if isinstance(target, Sequence) else ()
            target = next(
                (task for task in tasks if isinstance(task, dict) and task.get("name") == section), None
            )
        else:
            target = target.setdefault(section, {}) if isinstance(target, dict) else None
    if not isinstance(target, dict):
        faults.append(f"cannot set {key!r}: the recipe has no {'.'.join(sections)!r}")
    else:
        target[last] = value


def find_files(section: Any, folder: Path, faults: list[str]) -> None:
    """Look beside the recipe for the files that `structure` and `cost` of a section name, in place."""
    for key in ("structure", "cost"):
        found = named_file(section.get(key)) if isinstance(section, dict) else None
        if found is not None:
            place = expand(found[1], folder, key, faults)
            section[key] = Given(found[0] + place, section[key], folder)


def read_tasks(raw: Any, folder: Path, faults: list[str], unset: list[str] | None = None) -> tuple[Task, ...]:
    """The tasks of a recipe or grid; every fault is appended as one phrase.

    Args:
        raw: The list of the file.
        folder: The folder of the file.
        faults: Every fault is appended.
        unset: Environment variables that are not set are appended here, in place of `faults`.
    """
    unset = faults if unset is None else unset
    if raw is None:
        faults.append("tasks is missing; give a list of at least one task")
        return ()
    if not isinstance(raw, list):
        faults.append(f"tasks={shown(raw)} must be a list of tasks, each with at least a name")
        return ()
    tasks = []
    for i, entry in enumerate(raw):
        if not isinstance(entry, dict):
            faults.append(f"tasks[{i}]={shown(entry)} must be a mapping with at least a name")
            continue
        where = f"task {shown(entry['name'])}" if isinstance(entry.get("name"), str) else f"tasks[{i}]"
        entry = dict(entry)
        for split in ("train", "validation", "test"):
            if isinstance(entry.get(split), str):
                entry[split] = expand(entry[split], folder, f"{split} of {where}", unset)
        if isinstance(
            entry.get("labels"), list
        ):  # whole numbers are good class names; booleans are a trap of YAML
            entry["labels"] = [str(label) if type(label) is int else label for label in entry["labels"]]
        if isinstance(entry.get("class_weights"), dict):
            entry["class_weights"] = {
                str(label) if type(label) is int else label: value
                for label, value in entry["class_weights"].items()
            }
        before = len(faults)
        settings = read_fields(Task, entry, where, faults)
        if len(faults) == before:
            try:
                tasks.append(Task(**settings))
            except GraftworkError as error:
                faults.append(str(error).rstrip("."))
    return tuple(tasks)


def read_noise(raw: Any, faults: list[str]) -> tuple[Noise, ...]:
    """The noise of a recipe or grid: a mapping with kind and ratio, or a list of them."""
    found = []
    for i, entry in enumerate(raw if isinstance(raw, list) else [raw]):
        if not isinstance(entry, Mapping):
            faults.append(f"noise[{i}]={shown(entry)} must be a mapping with kind and ratio")
            continue
        before = len(faults)
        settings = read_fields(Noise, entry, f"noise[{i}]", faults)
        if len(faults) == before:
            try:
                found.append(Noise(**settings))
            except ConfigError as error:
                faults.append(str(error).rstrip("."))
    return tuple(found)
