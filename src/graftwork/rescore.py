"""Using a saved model again: score it on its recipe's data, or cut one task out of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from graftwork.compact import compact_, structure_of
from graftwork.data import collate, load_task, longest_first, tokenise
from graftwork.errors import CheckpointError, DataError
from graftwork.forward import forward_rows
from graftwork.manifest import saved_backbone
from graftwork.multitask import MultiTaskModel
from graftwork.noise import damage_tasks, noisy_model
from graftwork.persist import FILES, Loading, load_model, save_model
from graftwork.places import moved_recipe
from graftwork.recipe import load_recipe, read_yaml, values_to_yaml
from graftwork.storage import staged_folder
from graftwork.structure import Structure
from graftwork.tasks import SPLITS

__all__ = ["extract", "keep_tasks", "rescore", "write_tasks"]


def rescore(folder: Path, *, split: str = "test", **loading: Unpack[Loading]) -> dict[str, Any]:
    """Score a saved model on a split of its recipe's data, with the recipe's noise.

    Args:
        folder: written by `graftwork fit`.
        split: train, validation or test.
        **loading: where the parts of the model are now (`graftwork.persist.Loading`).

    Returns:
        `{"split", "tasks": {name: {"metric", "score", "rows"}}}`.

    Raises:
        CheckpointError: the folder is not a complete model.
        DataError: no such split, or the data have changed or are gone.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; allowed: {', '.join(SPLITS)}.")
    model, tokenizer = load_model(folder, **loading)
    if not (Path(folder) / FILES.recipe).is_file():
        raise CheckpointError(
            f"{folder} has no {FILES.recipe}, so its data are not known; use `graftwork predict`."
        )
    recipe = load_recipe(Path(folder) / FILES.recipe)
    wanted = {head.name for head in model.heads.heads}
    clean = [load_task(task, recipe.seed) for task in recipe.tasks if task.name in wanted]
    datas, noise = damage_tasks(clean, recipe.noise)
    tokens = longest_first(tokenise(datas, tokenizer, model.max_length, None)[split])
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
        _, _, structure = write_tasks(Path(folder), [task], staged, Path(output), **loading)
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
