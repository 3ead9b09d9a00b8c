"""Using a saved model again: score it on its recipe's data, or cut one task out of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graftwork.compact import compact_, structure_of
from graftwork.data import collate, load_task, longest_first, tokenise
from graftwork.errors import CheckpointError, DataError
from graftwork.forward import forward_rows
from graftwork.multitask import MultiTaskModel
from graftwork.noise import damage_tasks, noisy_model
from graftwork.persist import FILES, load_model, read_tasks, save_model
from graftwork.recipe import load_recipe
from graftwork.storage import staged_folder
from graftwork.structure import Structure
from graftwork.tasks import SPLITS

__all__ = ["extract", "keep_tasks", "rescore", "write_tasks"]


def rescore(folder: Path, *, backbone: str | None = None, split: str = "test") -> dict[str, Any]:
    """Score a saved model on a split of its recipe's data, with the recipe's noise.

    Returns:
        `{"split", "tasks": {name: {"metric", "score", "rows"}}}`.

    Raises:
        CheckpointError: the folder is not a complete model.
        DataError: no such split, or the data have changed or are gone.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; allowed: {', '.join(SPLITS)}.")
    model, tokenizer = load_model(folder, backbone=backbone)
    if not (Path(folder) / FILES.recipe).is_file():
        raise CheckpointError(
            f"{folder} has no {FILES.recipe}, so its data are not known; use `graftwork predict`."
        )
    recipe = load_recipe(Path(folder) / FILES.recipe, saved=True)
    wanted = {head.name for head in model.heads.heads}
    clean = [load_task(task, recipe.seed) for task in recipe.tasks if task.name in wanted]
    datas, noise = damage_tasks(clean, recipe.noise)
    tokens = longest_first(tokenise(datas, tokenizer, recipe.training.max_length, None)[split])
    # As in `fit`, noise in the model is for the test rows; noise in the data is in the splits already.
    in_model = recipe.noise if split == "test" else ()
    with noisy_model(model, in_model, "test", noise):
        scores = forward_rows(model, tokens, collate(tokenizer)).scores(model)
    return {
        "split": split,
        "tasks": {
            data.head.name: {
                "metric": data.head.metric,
                "score": scores[data.head.name],
                "rows": len(data.splits[split]),
            }
            for data in datas
        },
    }


def extract(
    folder: Path, task: str, output: Path, *, backbone: str | None = None, overwrite: bool = False
) -> int:
    """Write the model of one task of a multi-task model.

    Returns:
        Its adapter parameters.

    Raises:
        StructureError: the task is unknown.
        DataError: the output exists.
    """
    with staged_folder(Path(output), overwrite=overwrite) as staged:
        _, _, structure = write_tasks(Path(folder), [task], staged, backbone=backbone)
    return structure.parameters()


def write_tasks(
    folder: Path, tasks: Sequence[str], staged: Path, *, backbone: str | None = None
) -> tuple[int, MultiTaskModel, Structure]:
    """Write the model of some tasks of a multi-task model, without the adapters only others use.

    Args:
        folder: the whole model.
        tasks: what to keep, in this order.
        staged: an existing folder to write into.
        backbone: where the backbone is now, if it has moved.

    Returns:
        Adapter parameters before, the model, and its structure.

    Raises:
        StructureError: a task is unknown.
    """
    name = str(backbone or read_tasks(folder)["model"])
    model, tokenizer = load_model(folder, backbone=backbone)
    before = structure_of(model).parameters()
    small, structure = keep_tasks(model, tasks)
    save_model(small, staged, backbone_name=name)
    tokenizer.save_pretrained(str(staged))
    (staged / FILES.structure).write_text(structure.to_json() + "\n", encoding="utf-8")
    recipe = folder / FILES.recipe
    if recipe.is_file():
        (staged / FILES.recipe).write_bytes(recipe.read_bytes())
    return before, small, structure


def keep_tasks(model: MultiTaskModel, tasks: Sequence[str]) -> tuple[MultiTaskModel, Structure]:
    """The model of some tasks of a multi-task model, around the same backbone, which is changed in place.

    Raises:
        StructureError: a task is unknown.
    """
    structure = compact_(model, tasks)
    heads = {head.name: head for head in model.heads.heads}
    small = MultiTaskModel(model.backbone, [heads[task] for task in tasks], pooling=model.pooling)
    small.heads.load(model.heads.export())
    return small.eval(), structure
