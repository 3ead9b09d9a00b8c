"""`fit`: from a recipe to a compact model with a report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers.trainer_utils import get_last_checkpoint

from graftwork.errors import TrainingError
from graftwork.persist import FILES, check_target
from graftwork.processes import is_main, join, on_main, together
from graftwork.recipe import Recipe, recipe_to_yaml
from graftwork.report import print_report
from graftwork.session import Interrupted, Session

__all__ = ["Interrupted", "fit", "open_work_folder", "work_folder"]


def work_folder(recipe: Recipe) -> Path:
    """Where the checkpoints of an unfinished run are kept: beside its output folder."""
    output = Path(recipe.output).expanduser()
    return output.with_name(output.name + ".partial")


def fit(
    recipe: Recipe, *, overwrite: bool = False, resume: bool = False, console: Console | None = None
) -> dict[str, Any]:
    """Train the recipe's tasks on its backbone, learn the structure, and write a compact model.

    Started on several processes (`torchrun`, `accelerate launch`) they train together; the main one writes.

    Args:
        recipe: what to train.
        overwrite: replace the output folder if it exists.
        resume: go on from the last checkpoint of an interrupted run.
        console: where to print; default standard output.

    Returns:
        The report, as written to `report.json`.

    Raises:
        GraftworkError: bad input; nothing is written.
        Interrupted: Ctrl-C; checkpoints are kept.
    """
    if recipe.budgets:
        raise TrainingError(
            "the recipe has several budgets; use graftwork.family.fit_family, or leave them out."
        )
    join()
    console = console or Console(quiet=not is_main())
    output, work = Path(recipe.output).expanduser(), work_folder(recipe)

    def check() -> str | None:
        check_target(output, overwrite=overwrite)
        check_work_folder(recipe, resume=resume, overwrite=overwrite)
        return _last_checkpoint(work) if resume else None

    checkpoint = on_main(check)
    session = together(lambda: Session(recipe, console))
    run = together(lambda: session.training(session.build(), work))
    on_main(lambda: open_work_folder(recipe, resume=resume))
    session.train(run, checkpoint, work)
    report, structure = session.write(run, output, recipe=recipe, overwrite=overwrite)
    on_main(lambda: shutil.rmtree(work, ignore_errors=True))
    print_report(report, structure, console, output)
    return report


def _last_checkpoint(folder: Path) -> str:
    last = get_last_checkpoint(str(folder))
    if last is None:
        raise TrainingError(f"nothing to resume: there is no checkpoint in {folder}; run without --resume.")
    return str(last)


def check_work_folder(recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    """Refuse to go on with another run's checkpoints, or to lose those of this one; nothing is written yet.

    Raises:
        TrainingError: there is an unfinished run and it is neither resumed nor overwritten, or there is none
            to resume, or it has another recipe.
    """
    folder = work_folder(recipe)
    if not resume:
        if folder.exists() and not overwrite:
            raise TrainingError(
                f"an unfinished run is in {folder}; pass --resume to go on with it, or --overwrite to start "
                "anew."
            )
        return
    if not folder.is_dir():
        raise TrainingError(f"nothing to resume: there is no checkpoint in {folder}; run without --resume.")
    saved = folder / FILES.recipe
    if saved.is_file() and saved.read_text(encoding="utf-8") != recipe_to_yaml(recipe):
        raise TrainingError(
            f"the unfinished run in {folder} has another recipe (its {FILES.recipe}); resume with that one, "
            "or pass --overwrite to start anew."
        )


def open_work_folder(recipe: Recipe, *, resume: bool) -> None:
    """Make the folder for checkpoints, empty unless a run goes on."""
    folder = work_folder(recipe)
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILES.recipe).write_text(recipe_to_yaml(recipe), encoding="utf-8")
