"""Removing a task from a trained model, and with it the adapters that nobody else uses.

The outputs of the other tasks stay equal up to rounding, for the sums in their products get shorter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

from graftwork.errors import StructureError
from graftwork.finished.extract import Cut, write_tasks
from graftwork.finished.reports import reduced_report
from graftwork.models.files import local_parts
from graftwork.models.folder import Loading
from graftwork.models.manifest import read_tasks_file

__all__ = ["remove_task"]


def remove_task(
    folder: str | Path,
    task: str,
    output: str | Path,
    *,
    overwrite: bool = False,
    **loading: Unpack[Loading],
) -> dict[str, Any]:
    """Remove a task from a trained model, and with it the adapters that no other task uses.

    The outputs of the other tasks stay equal up to rounding, not to the bit.

    Args:
        folder: the trained model, or `user/model` on the hub.
        task: the task to remove.
        output: folder to write, a model like any other.
        overwrite: replace the output folder if it exists.
        **loading: where the parts of the trained model are now (`graftwork.models.folder.Loading`).

    Returns:
        `{"task", "tasks", "reclaimed", "stored"}`: what was removed, what is left, and adapter parameters.

    Raises:
        StructureError: the task is unknown, or the only one.
        CheckpointError: the folder is not a complete model.
        DataError: the output exists.

    Example:
        >>> summary = gw.remove_task("runs/colours", "length", "runs/two-tasks")
        >>> summary["task"], summary["tasks"]
        ('length', ['colour', 'same'])
    """
    (folder, parts), output = local_parts(folder, loading), Path(output)
    names = [head.name for head in read_tasks_file(folder)["tasks"]]
    if task not in names:
        raise StructureError(f"unknown task {task!r}; the model has {', '.join(names)}.")
    if len(names) == 1:
        raise StructureError(f"{task!r} is the only task of {folder}; a model needs at least one.")

    def summary(cut: Cut) -> dict[str, Any]:
        stored = cut.structure.parameters()
        return {
            "task": task,
            "tasks": list(cut.structure.tasks),
            "reclaimed": cut.before - stored,
            "stored": stored,
        }

    def report(cut: Cut) -> dict[str, Any]:
        return reduced_report(cut.report, cut.model, cut.structure, summary(cut))

    left = [name for name in names if name != task]
    return summary(write_tasks(folder, left, output, report, overwrite=overwrite, **parts))
