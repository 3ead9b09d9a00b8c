"""Cutting tasks out of a saved model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from graftwork.files.writing import staged_folder
from graftwork.files.yaml_file import read_yaml, values_to_yaml
from graftwork.finished.reports import extracted_report, read_report
from graftwork.models.files import FILES
from graftwork.models.folder import Loading, load_model, save_model
from graftwork.models.manifest import saved_backbone
from graftwork.models.multitask import MultiTaskModel, select_tasks_
from graftwork.recipe.moving import moved_recipe
from graftwork.search.discretise import structure_of
from graftwork.structure.structure import Structure

__all__ = ["extract", "write_tasks"]


def extract(
    folder: Path, task: str, output: Path, *, overwrite: bool = False, **loading: Unpack[Loading]
) -> int:
    """Write the model of one task of a multi-task model.

    Args:
        folder: the whole model.
        task: what to keep.
        output: folder to write.
        overwrite: replace the output folder if it exists.
        **loading: where the parts of the whole model are now (`graftwork.models.folder.Loading`).

    Returns:
        Its adapter parameters.

    Raises:
        StructureError: the task is unknown.
        DataError: the output exists.
    """
    with staged_folder(Path(output), overwrite=overwrite) as staged:
        _, small, structure = write_tasks(Path(folder), [task], staged, Path(output), **loading)
        report = read_report(Path(folder))
        if report:
            report = extracted_report(report, small, structure, staged)
            if isinstance(report.get("recipe"), dict):
                report["recipe"] = moved_recipe(report["recipe"], Path(output), Path(folder))
            (staged / FILES.report).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return structure.parameters()


def write_tasks(
    folder: Path, tasks: Sequence[str], staged: Path, output: Path, **loading: Unpack[Loading]
) -> tuple[int, MultiTaskModel, Structure]:
    """Write the model of some tasks of a multi-task model, without the adapters only others use.

    Args:
        folder: the whole model.
        tasks: what to keep, in this order.
        staged: an existing folder to write into.
        output: where that folder will lie.
        **loading: where the parts of the whole model are now (`graftwork.models.folder.Loading`).

    Returns:
        Adapter parameters before, the model, and its structure.

    Raises:
        StructureError: a task is unknown.
    """
    name = saved_backbone(folder, loading.get("backbone"))
    model, tokenizer = load_model(folder, **loading)
    before = structure_of(model).parameters()
    small, structure = select_tasks_(model, tasks)
    save_model(small, staged, backbone_name=name, place=output)
    tokenizer.save_pretrained(str(staged))
    (staged / FILES.structure).write_text(structure.to_json() + "\n", encoding="utf-8")
    recipe = folder / FILES.recipe
    if recipe.is_file():
        text = values_to_yaml(moved_recipe(read_yaml(recipe), output, folder))
        (staged / FILES.recipe).write_text(text, encoding="utf-8")
    return before, small, structure
