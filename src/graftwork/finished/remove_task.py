"""Removing a task from a trained model, and with it the adapters that nobody else uses.

The outputs of the other tasks stay equal up to rounding, for the sums in their products get shorter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Unpack

from graftwork.errors import StructureError
from graftwork.files.writing import staged_folder
from graftwork.finished.extract import write_tasks
from graftwork.finished.reports import read_report, reduced_report
from graftwork.models.files import FILES
from graftwork.models.folder import Loading
from graftwork.models.manifest import read_tasks_file
from graftwork.recipe.moving import moved_recipe

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
        folder: the trained model.
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
    folder, output = Path(folder), Path(output)
    names = [head.name for head in read_tasks_file(folder)["tasks"]]
    if task not in names:
        raise StructureError(f"unknown task {task!r}; the model has {', '.join(names)}.")
    if len(names) == 1:
        raise StructureError(f"{task!r} is the only task of {folder}; a model needs at least one.")
    with staged_folder(output, overwrite=overwrite) as staged:
        before, model, structure = write_tasks(
            folder, [name for name in names if name != task], staged, output, **loading
        )
        summary = {
            "task": task,
            "tasks": list(structure.tasks),
            "reclaimed": before - structure.parameters(),
            "stored": structure.parameters(),
        }
        report = reduced_report(read_report(folder), model, structure, summary, staged)
        if isinstance(report.get("recipe"), dict):
            report["recipe"] = moved_recipe(report["recipe"], output, folder)
        (staged / FILES.report).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return summary
