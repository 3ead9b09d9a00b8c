"""Reading a `Grid` from a YAML file; all faults of the file are reported together."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from graftwork.data.task import Task
from graftwork.errors import ConfigError, RecipeError
from graftwork.experiments.grid.grid import SECTIONS, Arrangement, Entry, Grid, Tune, make_trial
from graftwork.experiments.methods.registry import METHODS, method_class
from graftwork.files.places import expand
from graftwork.files.yaml_file import read_yaml
from graftwork.kinds.registry import KINDS
from graftwork.messages import shown
from graftwork.recipe.loading import override, read_tasks
from graftwork.recipe.moving import moved_recipe
from graftwork.recipe.schema import joined, read_fields

__all__ = ["load_grid"]

MOST_CELLS = 1000
"""Largest number of cells of a grid; each has runs for every seed and learning rate."""


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
        path: the file. Its key `base` names another YAML file beside it, whose keys it takes over; what
            that one finds beside itself is found there.
        overrides: values in place of those of the file, by dotted key.

    Raises:
        RecipeError: the file cannot be read as a grid; the message names every fault.
    """
    path = Path(path)
    raw = read_yaml(path, "grid", "model, tasks and methods")
    if isinstance(raw.get("base"), str):
        # What several grids share; the keys of this file win.
        base = path.parent / raw.pop("base")
        shared = read_yaml(base, "grid", "model and tasks")
        shared.pop("output", None)  # of a recipe, which a grid may take its tasks from
        if base.parent != path.parent:
            shared = moved_recipe(shared, path.parent, base.parent, current=False)
        raw = {**shared, **raw}
    faults: list[str] = []
    for key, value in (overrides or {}).items():
        override(raw, key, value, faults)
    sections = {name: raw.pop(name, None) for name in ("tasks", *SECTIONS, "noise")}
    methods, swept = raw.pop("methods", None), raw.pop("vary", None)
    tuned = raw.get("tune", {}) is not None
    found = read_fields(_File, raw, "", faults)
    tasks = read_tasks(copy.deepcopy(sections["tasks"]), path.parent, faults)
    names = tuple(task.name for task in tasks)
    entries = _entries(methods, faults)
    faults += _writing_faults(tasks, entries)
    vary = _vary(swept, "vary", faults)
    arrangements = tuple(dict.fromkeys(found.get("arrangements", ("multi",))))
    for arrangement in arrangements:
        if arrangement not in get_args(Arrangement):
            faults.append(f"arrangements: {arrangement!r} must be multi or single")
    for key in ("seeds", "arrangements"):
        if key in found and not found[key]:
            faults.append(f"{key} is empty")
    if faults:
        raise RecipeError(f"{path}: {joined(faults)}")
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
    if grid.size() > MOST_CELLS:
        raise RecipeError(
            f"{path}: methods, swept values and tasks come to {grid.size():,} places of the grid; at most "
            f"{MOST_CELLS:,} are allowed, split it"
        )
    for cell in grid.cells():
        make_trial(grid, cell, seed=0, purpose="final")
    return grid


def _entries(raw: Any, faults: list[str]) -> tuple[Entry, ...]:
    if not isinstance(raw, list) or not raw:
        faults.append("methods must be a list of at least one method: a name, or a mapping with a name")
        return ()
    entries = []
    for item in raw:
        given: dict[str, Any] = (
            {"name": item} if isinstance(item, str) else dict(item) if isinstance(item, Mapping) else {}
        )
        where = f"method {shown(given.get('name', item))}"
        own = {key: given.pop(key, None) or {} for key in ("method", *SECTIONS, "vary")}
        wrong = [key for key in ("method", *SECTIONS) if not isinstance(own[key], Mapping)]
        if wrong:
            faults += [f"{key} of {where} must be a mapping, not {shown(own[key])}" for key in wrong]
            continue
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
    labels = [entry.title for entry in entries]
    faults += [
        f"{labels.count(label)} methods have the label {label!r}; give each a label of its own"
        for label in dict.fromkeys(labels)
        if labels.count(label) > 1
    ]
    return tuple(entries)


def _writing_faults(tasks: Sequence[Task], entries: Sequence[Entry]) -> list[str]:
    """Methods that cannot do the tasks that a language model itself answers, or that have no weights."""
    written = [task for task in tasks if KINDS[task.kind].written]
    others = [task for task in tasks if not KINDS[task.kind].written]
    able = ", ".join(sorted(name for name, cls in METHODS.items() if cls.writes))
    faults = [
        f"method {name!r} cannot do task {written[0].name!r} of kind: {written[0].kind}; allowed are {able}"
        for name in dict.fromkeys(entry.name for entry in entries)
        if written and not METHODS[name].writes
    ]
    if tasks and all(KINDS[task.kind].per == "pair" for task in tasks):
        faults += [
            f"method 'heads' trains heads alone, and those of kind: {tasks[0].kind} have no weights; "
            "leave it out, for linear_probe has the same scores"
            for entry in entries
            if entry.name == "heads"
        ][:1]
    if any(entry.name == "frozen" for entry in entries):
        faults += [
            f"method 'frozen' has no answer to task {task.name!r} of kind: {task.kind}; leave it out, or the "
            "task"
            for task in others[:1]
        ]
        faults += [
            f"method 'frozen' writes answers, and metric: likelihood of task {task.name!r} scores none; "
            "leave it out, or choose another metric"
            for task in written
            if task.metric == "likelihood"
        ]
    return faults


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
