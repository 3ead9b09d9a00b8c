"""`Grid`: methods x tasks x seeds x settings, read from a YAML file and expanded to runs."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from graftwork.errors import ConfigError, GraftworkError, RecipeError
from graftwork.experiments import adapters, baselines, grafts  # noqa: F401 - they register the methods
from graftwork.experiments.methods import Method, method_class
from graftwork.noise import Noise
from graftwork.recipe import override, read_tasks, read_yaml
from graftwork.schema import expand, read_fields
from graftwork.settings import GraftSettings, Training
from graftwork.sparsity import Schedule
from graftwork.tasks import Task

__all__ = ["Arrangement", "Cell", "Entry", "Grid", "Run", "Tune", "load_grid", "make_run"]

Arrangement = Literal["multi", "single"]

SECTIONS = {"training": Training, "graft": GraftSettings, "schedule": Schedule}
PATH_NOISE = ("path_drop", "path_redraw", "weights")
RATE = "training.learning_rate"


@dataclass(frozen=True)
class Tune:
    """How the learning rate of every method is chosen, on validation."""

    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3)
    """The rates that are tried."""
    seeds: tuple[int, ...] = (0,)
    """Each rate is tried with these seeds."""


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


@dataclass(frozen=True)
class Run:
    """One training run, complete in itself."""

    purpose: Literal["tune", "final"]
    method: Method
    label: str
    arrangement: Arrangement
    model: str
    tasks: tuple[Task, ...]
    training: Training
    graft: GraftSettings
    schedule: Schedule
    noise: tuple[Noise, ...]
    seed: int
    data_seed: int
    vary: Mapping[str, Any]
    shared: Mapping[str, Any]
    """The part of the settings that all methods of the comparison have in common."""

    @property
    def name(self) -> str:
        """For progress and messages."""
        tasks = f"{len(self.tasks)} tasks" if self.arrangement == "multi" else self.tasks[0].name
        swept = "".join(f", {key.rpartition('.')[2]} {value}" for key, value in self.vary.items())
        rate = f", rate {self.training.learning_rate:g}" if self.method.trained else ""
        return f"{self.label}, {tasks}{swept}{rate}, seed {self.seed}"


@dataclass(frozen=True)
class Cell:
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

    def cells(self) -> Iterator[Cell]:
        """Every place of the grid that the method has settings and tasks for, each once."""
        for entry, arrangement in itertools.product(self.methods, self.arrangements):
            cls = method_class(entry.name)
            swept = {key: values for key, values in self.vary.items() if _concerns(key, cls)} | dict(
                entry.vary
            )
            groups = [self.task_names] if arrangement == "multi" else [(name,) for name in self.task_names]
            for values in itertools.product(*swept.values()):
                vary = dict(zip(swept, values, strict=True))
                for tasks in groups:
                    if len(tasks) >= cls.least_tasks:
                        yield Cell(entry, arrangement, tasks, vary)

    def first(self, cell: Cell) -> Cell:
        """The place where the learning rate of a cell is tuned: every swept key at its first value."""
        first = {**self.vary, **cell.entry.vary}
        return dataclasses.replace(cell, vary={key: first[key][0] for key in cell.vary})

    def rates(self, cell: Cell) -> tuple[float, ...] | None:
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


def make_run(
    grid: Grid, cell: Cell, *, seed: int, purpose: Literal["tune", "final"], rate: float | None = None
) -> Run:
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
        raw[section] = {**(raw.get(section) or {}), **settings}
    raw["method"] = dict(cell.entry.method)
    for key, value in cell.vary.items():
        if key == "budget":
            key = "graft.budget" if "graft" in cls.sections else "method.budget"
        _set(raw, key, value, faults)
    if rate is not None:
        _set(raw, RATE, rate, faults)
    folder = grid.path.parent
    tasks = read_tasks(raw.pop("tasks"), folder, faults)
    read = {name: _section(raw, name, section, faults) for name, section in SECTIONS.items()}
    noise = _noise(raw.get("noise") or [], faults)
    options = read_fields(cls, raw["method"], f"method {cell.entry.name}", faults)
    model = expand(str(raw["model"]), folder, "model", faults)
    if faults:
        raise RecipeError(f"{grid.path}: {'; '.join(dict.fromkeys(faults))}")
    return Run(
        purpose=purpose,
        method=cls(**options),
        label=cell.entry.label or cls.label,
        arrangement=cell.arrangement,
        model=model,
        tasks=tasks,
        noise=noise,
        seed=seed,
        data_seed=grid.data_seed,
        vary=cell.vary,
        shared={key: common.get(key) for key in ("training", "tasks", "noise")},
        **read,
    )


def _set(raw: dict[str, Any], key: str, value: Any, faults: list[str]) -> None:
    """Set a swept key; `tasks.max_train` holds for every task and `noise.ratio` for every noise."""
    section, _, name = key.partition(".")
    entries = raw.get(section)
    if isinstance(entries, list) and "." not in name:
        for entry in entries:
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


def _noise(raw: Any, faults: list[str]) -> tuple[Noise, ...]:
    found = []
    for i, entry in enumerate(raw if isinstance(raw, list) else [raw]):
        if not isinstance(entry, Mapping):
            faults.append(f"noise[{i}]={entry!r} must be a mapping with kind and ratio")
            continue
        before = len(faults)
        settings = read_fields(Noise, entry, f"noise[{i}]", faults)
        if len(faults) == before:
            try:
                found.append(Noise(**settings))
            except ConfigError as error:
                faults.append(str(error).rstrip("."))
    return tuple(found)


@dataclass(frozen=True)
class _File:
    """The plain keys of a grid file."""

    model: str
    results: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    data_seed: int = 0
    arrangements: tuple[str, ...] = ("multi",)
    tune: Tune = field(default_factory=Tune)


def load_grid(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Grid:
    """Read a grid from a YAML file.

    Args:
        path: the file.
        overrides: values in place of those of the file, by dotted key.

    Raises:
        RecipeError: the file cannot be read as a grid; the message names every fault.
    """
    path = Path(path)
    raw = read_yaml(path, "grid", "model, tasks and methods")
    faults: list[str] = []
    for key, value in (overrides or {}).items():
        override(raw, key, value, faults)
    sections = {name: raw.pop(name, None) for name in ("tasks", *SECTIONS, "noise")}
    methods, swept = raw.pop("methods", None), raw.pop("vary", None)
    tuned = raw.get("tune", {}) is not None
    found = read_fields(_File, raw, "", faults)
    names = tuple(task.name for task in read_tasks(copy.deepcopy(sections["tasks"]), path.parent, faults))
    entries = _entries(methods, faults)
    vary = _vary(swept, "vary", faults)
    arrangements = tuple(dict.fromkeys(found.get("arrangements", ("multi",))))
    for arrangement in arrangements:
        if arrangement not in get_args(Arrangement):
            faults.append(f"arrangements: {arrangement!r} must be multi or single")
    for key in ("seeds", "arrangements"):
        if key in found and not found[key]:
            faults.append(f"{key} is empty")
    if faults:
        raise RecipeError(f"{path}: {'; '.join(faults)}")
    results = found.get("results") or f"results/{path.stem}"
    grid = Grid(
        path=path,
        raw={"model": found["model"], **{key: value for key, value in sections.items() if value is not None}},
        results=Path(expand(results, None, "results", faults)),
        methods=entries,
        task_names=names,
        seeds=tuple(found.get("seeds", (0, 1, 2))),
        data_seed=found.get("data_seed", 0),
        arrangements=arrangements,
        vary=vary,
        tune=found.get("tune", Tune()) if tuned else None,
    )
    for cell in grid.cells():
        make_run(grid, cell, seed=0, purpose="final")
    return grid


def _entries(raw: Any, faults: list[str]) -> tuple[Entry, ...]:
    if not isinstance(raw, list) or not raw:
        faults.append("methods must be a list of at least one method: a name, or a mapping with a name")
        return ()
    entries = []
    for item in raw:
        given = {"name": item} if isinstance(item, str) else dict(item) if isinstance(item, Mapping) else {}
        where = f"method {given.get('name', item)!r}"
        own = {key: given.pop(key, None) or {} for key in ("method", *SECTIONS, "vary")}
        settings = read_fields(Entry, given, where, faults, given=("method", "sections", "vary"))
        if "name" not in settings:
            continue
        try:
            cls = method_class(settings["name"])
        except ConfigError as error:
            faults.append(str(error).rstrip("."))
            continue
        unused = [key for key in ("graft", "schedule") if own[key] and key not in cls.sections]
        faults += [f"{where} has no section {key}; its own settings are under 'method'" for key in unused]
        entries.append(
            Entry(
                **settings,
                method=own["method"],
                sections={key: own[key] for key in SECTIONS if own[key]},
                vary=_vary(own["vary"], f"vary of {where}", faults),
            )
        )
    labels = [entry.label or method_class(entry.name).label for entry in entries]
    faults += [
        f"{labels.count(label)} methods have the label {label!r}; give each a label of its own"
        for label in dict.fromkeys(labels)
        if labels.count(label) > 1
    ]
    return tuple(entries)


def _vary(raw: Any, where: str, faults: list[str]) -> dict[str, tuple[Any, ...]]:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        faults.append(f"{where} must be a mapping of dotted keys to lists of values")
        return {}
    found = {}
    for key, values in raw.items():
        if not isinstance(values, list) or not values:
            faults.append(f"{where}: {key} must be a list of at least one value")
        else:
            found[str(key)] = tuple(values)
    return found
