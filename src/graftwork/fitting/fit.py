"""`fit`: from a recipe to a compact model with a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from graftwork.advice import again, called
from graftwork.distributed.processes import is_main, join, on_all, on_main
from graftwork.errors import Interrupted, TrainingError
from graftwork.files.writing import check_target, output_lock
from graftwork.fitting.report import print_report
from graftwork.fitting.session import Session
from graftwork.fitting.work_folder import WorkFolder
from graftwork.recipe.recipe import Recipe
from graftwork.structure.structure import Structure

__all__ = [
    "Interrupted",
    "fit",
    "interruptible",
    "left_out",
    "only_writer",
    "open_work_folder",
    "resumed_from",
]


def fit(
    recipe: Recipe,
    *,
    overwrite: bool = False,
    resume: bool = False,
    probe: bool = True,
    diagnosis: bool = True,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train the recipe's tasks on its backbone, learn the structure, and write a compact model.

    Started on several processes (`torchrun`, `accelerate launch`) they train together; the main one writes.

    Args:
        recipe: what to train.
        overwrite: replace the output folder if it exists.
        resume: go on from the last whole checkpoint of an unfinished run, whatever ended it, or from its
            first step if it has none. The recipe must be the same, but for the settings in
            `graftwork.fitting.work_folder.MENDABLE`.
        probe: fit a linear probe on the frozen backbone for every task, to compare with.
        diagnosis: measure what the search has decided, and what each adapter is worth.
        console: where to print; default standard output.

    Returns:
        The report, as written to `report.json`.

    Raises:
        GraftworkError: bad input; nothing is written.
        StorageError: another process writes the same output, or the disk is full; checkpoints are kept.
        DivergenceError: the loss or a weight is not finite; checkpoints from before are kept.
        Interrupted: Ctrl-C; checkpoints are kept.
    """
    if recipe.budgets:
        raise TrainingError(
            "the recipe has several budgets; use graftwork.fitting.family.fit_family, or leave them out."
        )
    join()
    console, work = console or Console(quiet=not is_main()), WorkFolder(recipe)
    given = called("fit", "recipe", *left_out(probe, diagnosis), overwrite=overwrite)
    with given, interruptible(work):
        session = partial(Session, recipe, console, probe=probe, diagnosis=diagnosis)
        return _fit(session, work, console, overwrite=overwrite, resume=resume)


def left_out(probe: bool, diagnosis: bool) -> list[str]:
    """The arguments of a call that leave something out, to be told in an advice."""
    return ["probe=False"] * (not probe) + ["diagnosis=False"] * (not diagnosis)


def _fit(
    make: Callable[..., Session], work: WorkFolder, console: Console, *, overwrite: bool, resume: bool
) -> dict[str, Any]:
    with only_writer(work.output):
        finished = on_main(lambda: work.finished_reports() if resume else [])
        if finished:
            report = on_main(lambda: _finish(work, finished[0], overwrite=overwrite))
            print_report(report, Structure.from_dict(report["structure"]), console, work.output)
            return report

        def check() -> str | None:
            check_target(work.output, overwrite=overwrite)
            work.check(resume=resume, overwrite=overwrite)
            return resumed_from(work, console) if resume else None

        checkpoint = on_main(check)
        session = on_all(lambda: make(pairs=work.pairs if resume else None))
        run = on_all(lambda: session.trainer(session.build(), work.path))
        on_main(lambda: open_work_folder(work, session, resume=resume))
        run.train(checkpoint, work.path)
        report, structure = session.write(run, work.output, recipe=session.recipe, overwrite=overwrite)
        on_main(work.remove)
    print_report(report, structure, console, work.output)
    return report


@contextmanager
def interruptible(work: WorkFolder) -> Iterator[None]:
    """Say how to go on if Ctrl-C comes before, between or after the steps, or a second time.

    Raises:
        Interrupted: there is a run to go on with, or its output is written.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not work.run:
            raise
        if not work.unfinished:
            raise Interrupted(f"interrupted; the run was finished: see {work.output}.") from None
        raise Interrupted(
            f"interrupted; the unfinished run is in {work.path}. Go on with: {again()}"
        ) from None


@contextmanager
def only_writer(output: Path) -> Iterator[None]:
    """`output_lock`, held by the main process for all of them.

    Raises:
        StorageError: another run writes the output.
    """
    with ExitStack() as stack:
        on_main(lambda: stack.enter_context(output_lock(output)))
        yield


def _finish(work: WorkFolder, path: Path, *, overwrite: bool) -> dict[str, Any]:
    """The report of a run that was killed after its output was written."""
    work.check(resume=True, overwrite=overwrite)
    work.remove()
    return dict(json.loads(path.read_text(encoding="utf-8")))


def resumed_from(work: WorkFolder, console: Console, part: str = "") -> str | None:
    """The checkpoint to go on from, if there is one yet; what is passed over is printed.

    Raises:
        TrainingError: there are checkpoints, but none is whole.
    """
    checkpoint, notes = work.checkpoint(part)
    for note in notes:
        console.print(f"note: {note}", highlight=False)
    return checkpoint


def open_work_folder(work: WorkFolder, session: Session, *, resume: bool) -> None:
    """Make the folder for checkpoints, or check that it fits the session; what differs is printed.

    Raises:
        TrainingError: the data are not those of the run that goes on.
        StorageError: the folder cannot be written.
    """
    digests = {data.head.name: data.sha256 for data in session.prepared.datas}
    start = None if session.start is None else session.start.sha256
    for note in work.open(digests, resume=resume, start=start, pairs=session.pairs):
        session.console.print(f"note: {note}", highlight=False)
    session.origin = {name: work.run[name] for name in ("started", "resumed")}
