"""The structure of another run, read from its files and fitted to this one."""

from __future__ import annotations

import re
from pathlib import Path

from graftwork.errors import StructureError
from graftwork.files.reading import read_json
from graftwork.messages import listed, shown
from graftwork.structure.choosing import paths_structure
from graftwork.structure.structure import Structure

__all__ = ["adopt", "named_file", "read_structure_file"]


def named_file(value: object) -> tuple[str, str] | None:
    """Prefix and path of `file:PATH` or `task:NAME:PATH`; None if the value names no file."""
    found = re.fullmatch(r"(file:|task:[^:]+:)(.+)", value) if isinstance(value, str) else None
    return None if found is None else (found[1], found[2])


def read_structure_file(path: Path) -> Structure:
    """A structure from `structure.json`, `report.json`, a result of `graftwork compare`, or a model's folder.

    Raises:
        StructureError: there is no such file, or it holds no structure.
    """
    try:
        path = path / "structure.json" if path.is_dir() else path
        found = read_json(path)
    except FileNotFoundError:
        raise StructureError(
            f"there is no structure file {path}; give a structure.json or report.json of a finished run, "
            "or its folder."
        ) from None
    except (OSError, ValueError) as error:
        raise StructureError(f"the structure file {path} cannot be read as JSON ({error}).") from error
    if isinstance(found, dict) and "structure" in found:
        found = found["structure"]
    try:
        return Structure.from_dict(found)
    except StructureError as error:
        raise StructureError(f"{path}: {error}") from error


def adopt(found: Structure, whole: Structure, path: str, task: str | None = None) -> Structure:
    """The structure of another run in the shape of this one.

    Args:
        found: of the other run.
        whole: the structure of this run with everything open.
        path: where `found` comes from, for messages.
        task: all tasks take the path of this task of the other run.

    Raises:
        StructureError: tasks, sites or adapters differ.
    """
    _check_sites(path, found, whole)
    if task is not None:
        if task not in found.tasks:
            raise StructureError(f"{path} has no task {task!r}; it has {listed(found.tasks)}.")
        return paths_structure(whole, [found.paths(task)] * len(whole.tasks))
    if set(found.tasks) != set(whole.tasks):
        raise StructureError(
            f"{path} is for the tasks {listed(found.tasks)}, this run has {listed(whole.tasks)}; use "
            "task:NAME:PATH to give all tasks the path of one."
        )
    return paths_structure(whole, [found.paths(task) for task in whole.tasks])


def _check_sites(path: str, found: Structure, whole: Structure) -> None:
    """Refuse a structure of other sites or adapters; a pool may be smaller, as in a compact model."""
    for name, site in found.sites.items():
        if name not in whole.sites:
            raise StructureError(
                f"{path} has the site {shown(name)}, which this run has not; it has "
                f"{', '.join(list(whole.sites)[:3])}, ..."
            )
        mine = whole.sites[name]
        if (site.r, site.cost) != (mine.r, mine.cost) or site.pool_size > mine.pool_size:
            raise StructureError(
                f"{path} has {site.pool_size} adapters of rank {site.r} ({site.cost:,} parameters) at site "
                f"{name!r}, this run {mine.pool_size} of rank {mine.r} ({mine.cost:,}); take the same "
                "backbone, graft.r and graft.pool_size."
            )
