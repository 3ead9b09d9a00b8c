"""`fit_family`: several budgets from one search, each with a nested structure and a tune phase of its own."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from graftwork.advice import called
from graftwork.diagnosis.diagnosis import DiagnosisCallback
from graftwork.diagnosis.floor import floor_notes
from graftwork.distributed.processes import is_main, join, on_all, on_main
from graftwork.errors import TrainingError
from graftwork.files.writing import check_target, staged_folder, storage_errors, write_text
from graftwork.fitting.fit import interruptible, left_out, only_writer, open_work_folder, resumed_from
from graftwork.fitting.session import Session
from graftwork.fitting.work_folder import WorkFolder
from graftwork.models.files import FILES
from graftwork.recipe.recipe import Recipe
from graftwork.search.callback import StructureCallback
from graftwork.search.discretise import set_structure_
from graftwork.search.nested import nested_structures
from graftwork.sparsity.budget import in_units_of_cost
from graftwork.structure.structure import Structure
from graftwork.training.interrupt import InterruptCallback
from graftwork.training.run import TrainingRun

__all__ = ["fit_family"]

SNAPSHOT = "snapshot.json"

SEARCH, TUNE, DONE = "search", "tune", "done"
"""Folders of an unfinished run."""


def fit_family(
    recipe: Recipe,
    *,
    overwrite: bool = False,
    resume: bool = False,
    probe: bool = True,
    diagnosis: bool = True,
    console: Console | None = None,
) -> dict[float, dict[str, Any]]:
    """Search once, then tune a model for every budget of the recipe.

    The search aims at the largest budget, so that all that any model keeps has been trained; the same
    ranking gives the smaller ones (`nested_structures`). Every tune phase starts from the weights, the
    optimizer and the random numbers of the step that decided: the model of the largest budget is the one
    that `fit` gives. Budgets that are finished are not repeated when an interrupted run goes on.

    Args:
        recipe: what to train, with `budgets`; model `i` is written into the folder OUTPUT/BUDGET.
        overwrite: replace the output folder if it exists.
        resume: go on with an interrupted run.
        probe: as for `fit`.
        diagnosis: as for `fit`.
        console: where to print; default standard output.

    Returns:
        Budget -> report, as written to its `report.json`, largest budget first.

    Raises:
        GraftworkError: bad input; nothing is written.
        Interrupted: Ctrl-C; checkpoints and finished budgets are kept.
    """
    if not recipe.budgets:
        raise TrainingError("the recipe has no budgets; give budgets such as [0.01, 0.003], or use fit.")
    join()
    console, work = console or Console(quiet=not is_main()), WorkFolder(recipe)
    given = called("fit_family", "recipe", *left_out(probe, diagnosis), overwrite=overwrite)
    with given, interruptible(work):
        make = partial(_Family, recipe, work, console, probe=probe, diagnosis=diagnosis)
        return _fit_family(make, recipe, work, console, overwrite=overwrite, resume=resume)


def _fit_family(
    make: Callable[..., _Family],
    recipe: Recipe,
    work: WorkFolder,
    console: Console,
    *,
    overwrite: bool,
    resume: bool,
) -> dict[float, dict[str, Any]]:
    budgets = sorted(recipe.budgets, reverse=True)

    def check() -> bool:
        """Whether the run was killed after its output was written."""
        if resume and work.finished_reports():
            work.check(resume=resume, overwrite=overwrite)
            work.remove()
            return True
        check_target(work.output, overwrite=overwrite)
        work.check(resume=resume, overwrite=overwrite)
        return False

    def finish() -> None:
        with staged_folder(work.output, overwrite=overwrite) as folder:
            for budget in budgets:  # not moved: a process that is killed here must find them again
                shutil.copytree(work.path / DONE / _name(budget), folder / _name(budget))
        work.remove()

    with only_writer(work.output):
        if on_main(check):
            reports = on_main(lambda: {budget: _report(work.output, budget) for budget in budgets})
        else:
            family = on_all(lambda: make(pairs=work.pairs if resume else None))
            on_main(lambda: open_work_folder(work, family.session, resume=resume))
            snapshot = family.search()
            reports = {budget: family.tune(budget, snapshot) for budget in family.budgets}
            on_main(finish)
    _print(reports, console, work.output)
    return reports


def _report(folder: Path, budget: float) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / _name(budget) / FILES.report).read_text(encoding="utf-8"))
    return report


def _name(budget: float) -> str:
    return f"{budget:g}"


@dataclass(frozen=True)
class _Snapshot:
    """Where the search ended."""

    checkpoint: str
    structures: dict[float, Structure]


class _Family:
    """The runs of one recipe with several budgets."""

    def __init__(
        self,
        recipe: Recipe,
        work: WorkFolder,
        console: Console,
        *,
        probe: bool,
        diagnosis: bool,
        pairs: Mapping[str, Any] | None = None,
    ) -> None:
        self.folders, self.work = work, work.path
        self.budgets = sorted(recipe.budgets, reverse=True)
        self.session = Session(recipe, console, probe=probe, diagnosis=diagnosis, pairs=pairs)

    def search(self) -> _Snapshot:
        """Warm-up and search, up to the step that decides, unless they are done already."""
        path = self.work / SNAPSHOT
        if not on_main(path.is_file):
            folder = self.work / SEARCH
            run = on_all(lambda: self._searching(folder))
            checkpoint = on_main(lambda: resumed_from(self.folders, self.session.console, SEARCH))
            run.train(checkpoint, self.work)
            search = run.structure.search
            assert search is not None
            structures = nested_structures(search, self.budgets)

            def write() -> None:
                last, _ = self.folders.checkpoint(SEARCH)
                assert last is not None, "the search ends with a checkpoint"
                found = {
                    "checkpoint": Path(last).name,
                    "structures": [structure.to_dict() for structure in structures],
                }
                with storage_errors(str(path), path):
                    write_text(path, json.dumps(found))

            on_main(write)
        found = on_main(lambda: json.loads(path.read_text(encoding="utf-8")))
        structures = [Structure.from_dict(data) for data in found["structures"]]
        checkpoint = self.work / SEARCH / found["checkpoint"]
        return _Snapshot(str(checkpoint), dict(zip(self.budgets, structures, strict=True)))

    def _searching(self, folder: Path) -> TrainingRun:
        model = self.session.build()
        for budget in self.budgets:
            in_units_of_cost(model, budget)  # one that is too small must fail before the search
        return self.session.trainer(
            model, folder, compact=False, further=lambda structure, _: _StopAtStructure(structure)
        )

    def tune(self, budget: float, snapshot: _Snapshot) -> dict[str, Any]:
        """The report of one budget's model, which is trained and written unless it is done already."""
        done = self.work / DONE / _name(budget)
        finished = on_main(
            lambda: _report(self.work / DONE, budget) if (done / FILES.report).is_file() else None
        )
        if finished is not None:
            return finished
        part = f"{TUNE}/{_name(budget)}"
        folder = self.work / part
        last = on_main(lambda: resumed_from(self.folders, self.session.console, part))
        structure, searched = snapshot.structures[budget], budget == self.budgets[0]
        run = on_all(
            lambda: self.session.trainer(
                self.session.build(budget),
                folder,
                further=lambda callback, watch: _TakeStructure(
                    callback, watch, structure, first=last is None, searched=searched
                ),
            )
        )
        run.train(last or snapshot.checkpoint, self.work)
        recipe = self.session.recipe
        graft = dataclasses.replace(recipe.graft, budget=budget)
        output = str(Path(recipe.output) / _name(budget))
        report, _ = self.session.write(
            run,
            done,
            recipe=dataclasses.replace(recipe, graft=graft, budgets=(), output=output),
            overwrite=True,
            further={"family": {"budgets": self.budgets, "searched": self.budgets[0]}},
        )
        on_main(lambda: shutil.rmtree(folder, ignore_errors=True))
        return report


class _StopAtStructure(InterruptCallback):
    """Ends the search with a checkpoint on the step that decided the structure."""

    def __init__(self, structure: StructureCallback) -> None:
        super().__init__()
        self.structure = structure
        self.follows = (*self.follows, structure)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop, if the structure is decided."""
        self.requested = self.structure.structure is not None
        super().on_step_end(args, state, control, **kwargs)


class _TakeStructure(TrainerCallback):
    """Puts the structure of a budget in the place of the one that the search decided.

    Args:
        callback: what drove the search.
        watch: what measures the gap between soft and hard gates.
        structure: to be tuned.
        first: training goes on from the end of the search, not from a checkpoint of this tune phase.
        searched: it is the structure that the search decided.
    """

    def __init__(
        self,
        callback: StructureCallback,
        watch: DiagnosisCallback,
        structure: Structure,
        *,
        first: bool,
        searched: bool,
    ) -> None:
        self.callback, self.watch, self.structure = callback, watch, structure
        self.first, self.searched = first, searched
        self.follows = (callback, watch)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the structure; what was best before does not count for it."""
        search = self.callback.search
        assert search is not None
        set_structure_(search.model, self.structure, search.adapter_name)
        search.structure = self.callback.structure = self.structure
        if not self.searched:
            search.soft_size = None  # the search expected the size of the largest budget
        if self.first:
            state.best_metric = state.best_model_checkpoint = state.best_global_step = None
            if not self.searched and self.watch.measures_gap:
                self.watch.measure(kwargs["model"])


def _print(reports: dict[float, dict[str, Any]], console: Console, output: Path) -> None:
    """Test scores of every budget's model."""
    tasks = list(next(iter(reports.values()))["tasks"])
    table = Table(title="test scores of the models of one search")
    for column in ("budget", "stored", *tasks, "mean"):
        table.add_column(column, justify="right", no_wrap=True)
    for budget, report in reports.items():
        scores = [report["tasks"][task]["test"] for task in tasks]
        shown = [f"{score:.3f}" for score in (*scores, sum(scores) / len(scores))]
        table.add_row(_name(budget), f"{report['parameters']['stored']:,}", *shown)
    console.print(table)
    for budget, report in reports.items():
        for note in floor_notes(report["tasks"]):
            console.print(f"note: budget {_name(budget)}: {note}", highlight=False, markup=False)
    places = ", ".join(str(output / _name(budget)) for budget in reports)
    console.print(f"written to {places}", markup=False)
