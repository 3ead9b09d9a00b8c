"""Using a saved model again: score it on its recipe's data or on new rows, or cut one task out of it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from graftwork.class_figures import figures_of
from graftwork.compact import compact_, structure_of
from graftwork.errors import DataError
from graftwork.manifest import saved_backbone
from graftwork.multitask import MultiTaskModel
from graftwork.noise import noisy_model
from graftwork.persist import FILES, Loading, load_model, read_tasks, save_model
from graftwork.places import moved_recipe
from graftwork.progress import scoring_bar
from graftwork.recipe import read_yaml, values_to_yaml
from graftwork.report_tasks import extracted_report, read_report
from graftwork.scored_rows import SavedData, note_of_score
from graftwork.scoring import predictions
from graftwork.storage import staged_folder
from graftwork.structure import Structure
from graftwork.tasks import SPLITS

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["extract", "keep_tasks", "rescore", "write_tasks"]


def rescore(
    folder: Path,
    *,
    split: str = "test",
    data: str | None = None,
    task: str | None = None,
    details: bool = False,
    console: Console | None = None,
    **loading: Unpack[Loading],
) -> dict[str, Any]:
    """Score a saved model on a split of its recipe's data, with the recipe's noise, or on new rows.

    Fields, classes, scale and metric are those of the saved heads. The rows of the recipe are compared with
    the digests in the report: a split that was carved out of a train source that has changed is refused.

    Args:
        folder: written by `graftwork fit`.
        split: train, validation or test.
        data: a source as in a recipe, in place of the recipe's; of a folder, the file of `split`.
        task: score this task alone; needed with `data` if there are several.
        details: add the figures of `graftwork.class_figures`.
        console: where to show a bar; default none.
        **loading: where the parts of the model are now (`graftwork.persist.Loading`).

    Returns:
        `{"split", "data", "tasks": {name: {"metric", "score", "rows"}}, "notes"}`, the tasks perhaps with
        `details`; `notes` say what is not as it was when the model was made.

    Raises:
        CheckpointError: the folder is not a complete model, or does not say where its data are.
        DataError: no such split or task, rows that cannot be read, a class that the model does not know, or
            a split that cannot be found again.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; allowed: {', '.join(SPLITS)}.")
    folder = Path(folder)
    names = _wanted([head.name for head in read_tasks(folder)["tasks"]], task, data)
    model, tokenizer = load_model(folder, **loading)
    saved = SavedData(folder)
    heads = [head for head in model.heads.heads if head.name in names]
    found = [saved.split(head, split) if data is None else saved.file(head, data, split) for head in heads]
    several = [rows for rows in found if rows is not None]
    if not several:
        raise DataError(f"{saved.notes[0]}.")
    # As in `fit`, noise in the model is for the test rows; noise in the data is in the splits already.
    noise = saved.recipe.noise if saved.recipe is not None and split == "test" and data is None else ()
    tasks: dict[str, Any] = {}
    with (
        scoring_bar(sum(len(rows.rows) for rows in several), console) as advance,
        noisy_model(model, noise, "test", []),
    ):
        for rows in several:
            made = predictions(model, tokenizer, rows.head, rows.rows, model.max_length, advance)
            result: dict[str, Any] = {
                "metric": rows.head.metric,
                "score": made.score(),
                "rows": len(rows.rows),
            }
            tasks[rows.head.name] = result
            saved.notes += filter(None, (note_of_score(rows, split, made.score()), made.one_value()))
            if details:
                result["details"] = figures_of(rows.head, *made.in_units())
    return {"split": split, "data": data, "tasks": tasks, "notes": saved.notes}


def _wanted(names: Sequence[str], task: str | None, data: str | None) -> Sequence[str]:
    """The tasks to score."""
    if task is not None and task not in names:
        near = difflib.get_close_matches(task, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"unknown task {task!r}{hint} The model has {', '.join(names)}.")
    if data is not None and task is None and len(names) > 1:
        raise DataError(f"the rows of {data} are of one task; pass --task with one of {', '.join(names)}.")
    return names if task is None else [task]


def extract(
    folder: Path, task: str, output: Path, *, overwrite: bool = False, **loading: Unpack[Loading]
) -> int:
    """Write the model of one task of a multi-task model.

    Args:
        folder: the whole model.
        task: what to keep.
        output: folder to write.
        overwrite: replace the output folder if it exists.
        **loading: where the parts of the whole model are now (`graftwork.persist.Loading`).

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
        **loading: where the parts of the whole model are now (`graftwork.persist.Loading`).

    Returns:
        Adapter parameters before, the model, and its structure.

    Raises:
        StructureError: a task is unknown.
    """
    name = saved_backbone(folder, loading.get("backbone"))
    model, tokenizer = load_model(folder, **loading)
    before = structure_of(model).parameters()
    small, structure = keep_tasks(model, tasks)
    save_model(small, staged, backbone_name=name, place=output)
    tokenizer.save_pretrained(str(staged))
    (staged / FILES.structure).write_text(structure.to_json() + "\n", encoding="utf-8")
    recipe = folder / FILES.recipe
    if recipe.is_file():
        text = values_to_yaml(moved_recipe(read_yaml(recipe), output, folder))
        (staged / FILES.recipe).write_text(text, encoding="utf-8")
    return before, small, structure


def keep_tasks(model: MultiTaskModel, tasks: Sequence[str]) -> tuple[MultiTaskModel, Structure]:
    """The model of some tasks of a multi-task model, around the same backbone, which is changed in place.

    Raises:
        StructureError: a task is unknown.
    """
    structure = compact_(model, tasks)
    heads = {head.name: head for head in model.heads.heads}
    small = MultiTaskModel(
        model.backbone,
        [heads[task] for task in tasks],
        pooling=model.pooling,
        max_length=model.max_length,
    )
    small.heads.load(model.heads.export())
    return small.eval(), structure
