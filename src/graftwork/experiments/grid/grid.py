"""`Grid`: methods x tasks x seeds x settings, and the runs that it consists of."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from graftwork.data.task import Task
from graftwork.errors import GraftworkError, RecipeError
from graftwork.experiments.grid.places import as_given
from graftwork.experiments.methods.method import Method
from graftwork.experiments.methods.registry import method_class
from graftwork.files.places import expand
from graftwork.noise.kinds import Noise
from graftwork.recipe.length import EPOCHS as DEFAULT_EPOCHS
from graftwork.recipe.loading import find_files, override, read_noise, read_tasks
from graftwork.recipe.schema import joined, read_fields
from graftwork.recipe.settings import GraftSettings, TrainingSettings
from graftwork.recipe.shares import plain_share, share_slips
from graftwork.search.schedule import Schedule

__all__ = ["Arrangement", "Entry", "Grid", "Place", "Trial", "Tune", "make_trial"]

Arrangement = Literal["multi", "single"]

SECTIONS = {"training": TrainingSettings, "graft": GraftSettings, "schedule": Schedule}
"""Sections of a grid whose settings can be swept."""
PATH_NOISE = ("path_drop", "path_redraw", "weights")
"""Kinds of noise that only methods with paths can have."""
RATE = "training.learning_rate"
EPOCHS = "training.epochs"


@dataclass(frozen=True)
class Tune:
    """How the learning rate of every method is chosen, on validation."""

    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    """The rates that are tried."""
    seeds: tuple[int, ...] = (0,)
    """Each rate is tried with these seeds."""
    every_value: bool = False
    """Tune at every value of the swept settings; else once, with every swept setting at its first value."""
    epochs: float | None = None
    """Epochs of a tuning run, above 0; null: those of a final run."""

    def __post_init__(self) -> None:
        """Check the range.

        Raises:
            RecipeError: the tuning runs have no steps.
        """
        if self.epochs is not None and not (math.isfinite(self.epochs) and self.epochs > 0):
            raise RecipeError(f"tune.epochs={self.epochs!r} must be above 0")


@dataclass(frozen=True)
class Entry:
    """One method of a grid, as the file gives it."""

    name: str
    """Registered name of the method."""
    label: str | None = None
    """Name in reports."""
    learning_rates: tuple[float, ...] | None = None
    """Rates to try in place of those of `tune`."""
    method: Mapping[str, Any] = field(default_factory=dict)
    """The method's own settings."""
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of `training`, `graft` and `schedule` for this method alone."""
    vary: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Keys swept for this method alone."""

    @property
    def title(self) -> str:
        """Its own label, or that of the method."""
        return self.label or str(method_class(self.name).label)


@dataclass(frozen=True)
class Trial:
    """One training run, complete in itself."""

    purpose: Literal["tune", "final"]
    method: Method
    label: str
    arrangement: Arrangement
    model: str
    tasks: tuple[Task, ...]
    training: TrainingSettings
    graft: GraftSettings
    schedule: Schedule
    noise: tuple[Noise, ...]
    seed: int
    data_seed: int
    vary: Mapping[str, Any]
    shared: Mapping[str, Any]
    """The part of the settings that all methods of the comparison have in common."""
    sources: Mapping[str, Any]
    """The `model` and the sources of training rows of all `tasks`, as the grid names them."""

    @property
    def places(self) -> dict[str, str]:
        """Where the model and the training rows are on this machine, and what the grid calls it."""
        known = {task.train: str(self.sources["tasks"][task.name]) for task in self.tasks if task.train}
        return {self.model: str(self.sources["model"]), **known}

    @property
    def name(self) -> str:
        """For progress and messages."""
        tasks = f"{len(self.tasks)} tasks" if self.arrangement == "multi" else self.tasks[0].name
        swept = "".join(f", {key.rpartition('.')[2]} {value}" for key, value in self.vary.items())
        rate = f", rate {self.training.learning_rate:g}" if self.method.trained else ""
        return f"{self.label}, {tasks}{swept}{rate}, seed {self.seed}"


@dataclass(frozen=True)
class Place:
    """A place of the grid: everything but the learning rate and the seed."""

    entry: Entry
    arrangement: Arrangement
    tasks: tuple[str, ...]
    vary: Mapping[str, Any]


@dataclass(frozen=True)
class Grid:
    """A comparison: what is run, and where results go."""

    path: Path
    raw: Mapping[str, Any]
    """Sections `model`, `tasks`, `training`, `graft`, `schedule` and `noise` as the file gives them."""
    results: Path
    methods: tuple[Entry, ...]
    task_names: tuple[str, ...]
    seeds: tuple[int, ...]
    data_seed: int
    arrangements: tuple[Arrangement, ...]
    vary: Mapping[str, tuple[Any, ...]]
    tune: Tune | None

    def _swept(self, entry: Entry) -> dict[str, tuple[Any, ...]]:
        cls = method_class(entry.name)
        return {key: values for key, values in self.vary.items() if _concerns(key, cls)} | dict(entry.vary)

    def size(self) -> int:
        """Places of the grid, counted without making them, and those that a method has too few tasks for."""
        groups = sum(
            1 if arrangement == "multi" else len(self.task_names) for arrangement in self.arrangements
        )
        return groups * sum(math.prod(map(len, self._swept(entry).values())) for entry in self.methods)

    def cells(self) -> Iterator[Place]:
        """Every place of the grid that the method has settings and tasks for, each once."""
        for entry, arrangement in itertools.product(self.methods, self.arrangements):
            cls = method_class(entry.name)
            swept = self._swept(entry)
            groups = [self.task_names] if arrangement == "multi" else [(name,) for name in self.task_names]
            for values in itertools.product(*swept.values()):
                vary = dict(zip(swept, values, strict=True))
                for tasks in groups:
                    if len(tasks) >= cls.least_tasks:
                        yield Place(entry, arrangement, tasks, vary)

    def left_out(self) -> Iterator[str]:
        """The methods that have no run in an arrangement of the grid, and why."""
        for entry, arrangement in itertools.product(self.methods, self.arrangements):
            least = method_class(entry.name).least_tasks
            tasks = len(self.task_names) if arrangement == "multi" else 1
            if tasks < least:
                runs = "a run of all tasks" if arrangement == "multi" else "runs of a single task"
                yield f"{entry.title}: left out of {runs}, for it needs at least {least} tasks"

    def first(self, cell: Place) -> Place:
        """The place where the learning rate of a cell is tuned (see `Tune.every_value`)."""
        if self.tune is not None and self.tune.every_value:
            return cell
        first = {**self.vary, **cell.entry.vary}
        return dataclasses.replace(cell, vary={key: first[key][0] for key in cell.vary})

    def rates(self, cell: Place) -> tuple[float, ...] | None:
        """The learning rates to choose from; None if the rate is given."""
        cls = method_class(cell.entry.name)
        given = RATE in cell.vary or "learning_rate" in cell.entry.sections.get("training", {})
        if self.tune is None or given or not cls.trained:
            return None
        return cell.entry.learning_rates or self.tune.learning_rates


def _concerns(key: str, cls: type[Any]) -> bool:
    """Whether a swept key is a setting of the method."""
    section, _, name = key.partition(".")
    fields = {item.name for item in dataclasses.fields(cls)}
    if key == "budget":
        return "graft" in cls.sections or "budget" in fields
    if section == "method":
        return name in fields
    if section == "noise":
        return True
    if section == "training":
        return bool(cls.trained)
    return section not in SECTIONS or section in cls.sections


def make_trial(
    grid: Grid, cell: Place, *, seed: int, purpose: Literal["tune", "final"], rate: float | None = None
) -> Trial:
    """The run of a cell.

    Raises:
        RecipeError: a setting is wrong; the message names all that are.
    """
    faults: list[str] = []
    cls = method_class(cell.entry.name)
    raw = copy.deepcopy(dict(grid.raw))
    raw["tasks"] = [task for task in raw["tasks"] if task["name"] in cell.tasks]
    common = copy.deepcopy(raw)
    for key, value in cell.vary.items():
        if key in grid.vary and key.partition(".")[0] in ("training", "tasks", "noise"):
            _set(common, key, value, faults)
    for section, settings in cell.entry.sections.items():
        whole = raw.get(section) or {}
        if isinstance(whole, Mapping):  # anything else is refused when it is read
            raw[section] = {**whole, **settings}
    raw["method"] = dict(cell.entry.method)
    for key, value in cell.vary.items():
        if key == "budget":
            key = "graft.budget" if "graft" in cls.sections else "method.budget"
        _set(raw, key, value, faults)
    if rate is not None:
        _set(raw, RATE, rate, faults)
    if purpose == "tune" and grid.tune is not None and grid.tune.epochs is not None:
        _set(raw, EPOCHS, grid.tune.epochs, faults)
    folder = grid.path.parent
    sources = {
        "model": as_given(str(raw["model"]), folder),
        "tasks": {
            task["name"]: as_given(task["train"], folder) if isinstance(task.get("train"), str) else None
            for task in raw["tasks"]
        },
    }
    for name in ("graft", "method"):
        find_files(raw.get(name), folder, faults)
    tasks = read_tasks(raw.pop("tasks"), folder, faults)
    read = {name: _section(raw, name, section, faults) for name, section in SECTIONS.items()}
    noise = read_noise(raw.get("noise") or [], faults)
    faults += [
        f"method {cell.entry.name!r} has no adapter paths that {item.kind} noise could damage; leave it out"
        for item in noise
        if item.kind in PATH_NOISE and not cls.paths
    ]
    if read["training"] is not None and read["training"].epochs is None:
        # Every method trains as long, and as long as its key says.
        read["training"] = dataclasses.replace(read["training"], epochs=DEFAULT_EPOCHS)
    faults += share_slips(GraftSettings, raw.get("graft"), "graft.")
    faults += share_slips(cls, raw["method"], f"{cell.entry.name}: method.", below=math.inf)
    options = read_fields(cls, raw["method"], f"method {cell.entry.name}", faults)
    model = expand(str(raw["model"]), folder, "model", faults)
    if faults:
        raise RecipeError(f"{grid.path}: {joined(faults)}")
    return Trial(
        purpose=purpose,
        method=cls(**options),
        label=cell.entry.title,
        arrangement=cell.arrangement,
        model=model,
        tasks=tasks,
        noise=noise,
        seed=seed,
        data_seed=grid.data_seed,
        vary={key: plain_share(value, key) for key, value in cell.vary.items()},
        shared={key: common.get(key) for key in ("training", "noise")},
        sources=sources,
        **read,
    )


def _set(raw: dict[str, Any], key: str, value: Any, faults: list[str]) -> None:
    """Set a swept key; `tasks.max_train` holds for every task and `noise.ratio` for every noise."""
    section, _, name = key.partition(".")
    entries = raw.get(section)
    if isinstance(entries, list) and "." not in name:
        for entry in entries:
            if isinstance(entry, dict):  # others are refused when they are read
                entry[name] = value
    else:
        override(raw, key, value, faults)


def _section(raw: Mapping[str, Any], name: str, cls: type[Any], faults: list[str]) -> Any:
    before = len(faults)
    settings = read_fields(cls, raw.get(name) or {}, name, faults)
    if len(faults) == before:
        try:
            return cls(**settings)
        except GraftworkError as error:
            faults.append(str(error).rstrip("."))
    return None
