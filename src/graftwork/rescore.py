"""Using a saved model again: score it on its recipe's data, or cut one task out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from graftwork.compact import compact_
from graftwork.data import collate, load_task, longest_first, tokenise
from graftwork.errors import CheckpointError, DataError
from graftwork.evaluate import per_task_scores
from graftwork.multitask import MultiTaskModel
from graftwork.noise import damage_tasks, noisy_model
from graftwork.persist import FILES, load_model, read_tasks, save_model, staged_folder
from graftwork.recipe import load_recipe
from graftwork.tasks import SPLITS

__all__ = ["extract", "rescore"]

BATCH = 64


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
    recipe = load_recipe(Path(folder) / FILES.recipe)
    heads = model.heads.heads
    wanted = {head.name for head in heads}
    clean = [load_task(task, recipe.seed) for task in recipe.tasks if task.name in wanted]
    datas, noise = damage_tasks(clean, recipe.noise)
    tokens = longest_first(tokenise(datas, tokenizer, recipe.training.max_length, None)[split])
    make_batch = collate(tokenizer)
    logits, labels, rows = [], [], []
    # As in `fit`, noise in the model is for the test rows; noise in the data is in the splits already.
    in_model = recipe.noise if split == "test" else ()
    with noisy_model(model, in_model, "test", noise), torch.inference_mode():
        for start in range(0, len(tokens), BATCH):
            batch = make_batch([tokens[index] for index in range(start, min(start + BATCH, len(tokens)))])
            labels.append(batch.pop("labels"))
            rows.append(batch["graft_rows"])
            logits.append(model(**batch).logits)
    scores = per_task_scores(
        torch.cat(logits).numpy(), torch.cat(labels).numpy(), torch.cat(rows).numpy(), heads
    )
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
    name = str(backbone or read_tasks(Path(folder))["model"])
    with staged_folder(Path(output), overwrite=overwrite) as staged:
        model, tokenizer = load_model(folder, backbone=backbone)
        structure = compact_(model, [task])
        position = [head.name for head in model.heads.heads].index(task)
        small = MultiTaskModel(model.backbone, [model.heads.heads[position]], pooling=model.pooling)
        small.heads.load(model.heads.export())
        save_model(small, staged, backbone_name=name)
        tokenizer.save_pretrained(str(staged))
        (staged / FILES.structure).write_text(structure.to_json() + "\n", encoding="utf-8")
        recipe = Path(folder) / FILES.recipe
        if recipe.is_file():
            (staged / FILES.recipe).write_bytes(recipe.read_bytes())
    return structure.parameters()
