"""Cutting tasks out of a saved model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from graftwork.files.writing import staged_folder
from graftwork.files.yaml_file import read_yaml, values_to_yaml
from graftwork.finished.reports import extracted_report, read_report
from graftwork.models.files import FILES, local_parts
from graftwork.models.folder import Loading, load_model, write_model
from graftwork.models.manifest import saved_backbone
from graftwork.models.multitask import MultiTaskModel, select_tasks_
from graftwork.pages.fit_page import write_page
from graftwork.recipe.moving import moved_recipe
from graftwork.search.discretise import structure_of
from graftwork.structure.structure import Structure

__all__ = ["Cut", "extract", "write_tasks"]


@dataclass(frozen=True)
class Cut:
    """The model of some tasks of another."""

    model: MultiTaskModel
    structure: Structure
    before: int
    """Adapter parameters of the whole model."""
    report: dict[str, Any]
    """Of the whole model."""


def extract(
    folder: Path, task: str, output: Path, *, overwrite: bool = False, **loading: Unpack[Loading]
) -> int:
    """Write the model of one task of a multi-task model.

    Args:
        folder: the whole model, or `user/model` on the hub.
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

    def report(cut: Cut) -> dict[str, Any]:
        return extracted_report(cut.report, cut.model, cut.structure) if cut.report else {}

    cut = write_tasks(Path(folder), [task], Path(output), report, overwrite=overwrite, **loading)
    return cut.structure.parameters()


def write_tasks(
    folder: Path,
    tasks: Sequence[str],
    output: Path,
    report: Callable[[Cut], dict[str, Any]],
    *,
    overwrite: bool,
    **loading: Unpack[Loading],
) -> Cut:
    """Write the model of some tasks of a multi-task model, without the adapters only others use.

    Args:
        folder: the whole model, or `user/model` on the hub.
        tasks: what to keep, in this order.
        output: folder to write.
        report: gives the report of the new model; an empty one is not written.
        overwrite: replace the output folder if it exists.
        **loading: where the parts of the whole model are now (`graftwork.models.folder.Loading`).

    Raises:
        StructureError: a task is unknown.
        DataError: the output exists.
    """
    folder, parts = local_parts(folder, loading)
    with staged_folder(output, overwrite=overwrite) as staged:
        name = saved_backbone(folder, parts.get("backbone"))
        model, tokenizer = load_model(folder, **parts)
        before = structure_of(model).parameters()
        cut = Cut(*select_tasks_(model, tasks), before, read_report(folder))
        recipe, values = folder / FILES.recipe, report(cut)
        if isinstance(values.get("recipe"), dict):
            values["recipe"] = moved_recipe(values["recipe"], output, folder)
        write_model(
            cut.model,
            tokenizer,
            staged,
            backbone_name=name,
            place=output,
            structure=cut.structure,
            recipe=values_to_yaml(moved_recipe(read_yaml(recipe), output, folder))
            if recipe.is_file()
            else None,
            report=values,
        )
        write_page(staged, output)
    return cut
