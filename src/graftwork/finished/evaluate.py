"""Scoring a saved model on its recipe's data or on new rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from graftwork.data.encoding.notes import length_note
from graftwork.data.images.reader import ImageReader
from graftwork.data.targets.words import word_notes
from graftwork.data.task import SPLITS
from graftwork.data.task_data import TaskData
from graftwork.errors import DataError
from graftwork.finished.scored_rows import SavedData, ScoredRows, note_of_score
from graftwork.finished.scoring import predictions
from graftwork.kinds.scores import figures_of
from graftwork.messages import did_you_mean
from graftwork.models.causal.scoring import losses_of, score_texts
from graftwork.models.files import local_parts
from graftwork.models.folder import Loading, load_model
from graftwork.models.manifest import read_tasks_file
from graftwork.noise.applying import noisy_model
from graftwork.training.bars import scoring_bar

if TYPE_CHECKING:
    from rich.console import Console

    from graftwork.data.images.reader import InputReader
    from graftwork.models.multitask import MultiTaskModel

__all__ = ["rescore"]


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
        folder: written by `graftwork fit`, or `user/model` on the hub.
        split: train, validation or test.
        data: a source as in a recipe, in place of the recipe's; of a folder, the file of `split`.
        task: score this task alone; needed with `data` if there are several.
        details: add the figures of `graftwork.kinds.scoring.figures`.
        console: where to show a bar; default none.
        **loading: where the parts of the model are now (`graftwork.models.folder.Loading`).

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
    folder, parts = local_parts(folder, loading)
    names = _wanted([head.name for head in read_tasks_file(folder)["tasks"]], task, data)
    model, tokenizer = load_model(folder, **parts)
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
            if rows.head.written:
                tasks[rows.head.name] = _written(model, tokenizer, rows, saved, split, details, advance)
                continue
            made = predictions(model, tokenizer, rows.head, rows.rows, model.max_length, advance, split)
            result: dict[str, Any] = {
                "metric": rows.head.metric,
                "score": made.score(),
                "rows": len(rows.rows),
            }
            tasks[rows.head.name] = result
            about = TaskData(rows.head, {split: rows.rows})
            if not isinstance(tokenizer, ImageReader):
                saved.notes += word_notes(tokenizer, about, model.max_length)
                told = length_note(rows.head, [made.long], model.max_length)
                saved.notes += [] if told is None else [told]
            saved.notes += filter(None, (note_of_score(rows, split, made.score()), made.one_value()))
            if details:
                result["details"] = figures_of(rows.head, *made.in_units())
    return {"split": split, "data": data, "tasks": tasks, "notes": saved.notes}


def _written(
    model: MultiTaskModel,
    tokenizer: InputReader,
    rows: ScoredRows,
    saved: SavedData,
    split: str,
    details: bool,
    advance: Callable[[int], object],
) -> dict[str, Any]:
    """The score of a task that the language model itself answers."""
    head, known = rows.head, saved.recipe.tasks if saved.recipe is not None else ()
    most = {task.name: task.max_generate for task in known}
    losses = losses_of(model, tokenizer, head, rows.rows, advance)
    if head.metric == "likelihood":
        score, figures, count = losses["likelihood"], losses, len(rows.rows)
    else:
        data = TaskData(head, {split: rows.rows})
        order = [one.name for one in model.heads.heads]
        made = score_texts(model.backbone, tokenizer, [data], split, most=most, order=order)[head.name]
        score, figures, count = made.score, {**losses, **made.figures, **made.details}, made.rows
        saved.notes += made.notes
    note = note_of_score(rows, split, score)
    saved.notes += [] if note is None else [note]
    result: dict[str, Any] = {"metric": head.metric, "score": score, "rows": count}
    return {**result, "details": figures} if details else result


def _wanted(names: Sequence[str], task: str | None, data: str | None) -> Sequence[str]:
    """The tasks to score."""
    if task is not None and task not in names:
        raise DataError(f"unknown task {task!r}{did_you_mean(task, names)} The model has {', '.join(names)}.")
    if data is not None and task is None and len(names) > 1:
        raise DataError(f"the rows of {data} are of one task; pass --task with one of {', '.join(names)}.")
    return names if task is None else [task]
