"""Adding a task to a trained model, on its frozen pool: the older tasks keep their outputs to the bit."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import torch
from rich.console import Console
from torch import Tensor
from transformers import set_seed

from graftwork.advice import again, called
from graftwork.data.classes import class_notes
from graftwork.data.tokens import collate
from graftwork.diagnosis.diagnosis import DiagnosisCallback, diagnose
from graftwork.errors import DivergenceError
from graftwork.files.provenance import git_commits, versions
from graftwork.files.writing import check_target, output_lock, staged_folder
from graftwork.finished.new_task import PRIVATE, NewTask, check_answers
from graftwork.finished.older import outputs_of_older
from graftwork.finished.pairs import choose_way
from graftwork.finished.reports import extended_report, print_addition, read_report
from graftwork.models.files import FILES, Parts, local_parts, read_structure
from graftwork.models.folder import Loading, load_model, write_model
from graftwork.models.manifest import saved_backbone
from graftwork.models.outputs import forward_rows
from graftwork.noise.applying import noisy_model
from graftwork.pages.fit_page import write_page
from graftwork.progress import phase
from graftwork.recipe.length import added_floor, described_length, settle_length
from graftwork.recipe.loading import load_recipe, recipe_to_yaml
from graftwork.recipe.recipe import Recipe
from graftwork.recipe.task_recipe import TaskRecipe, load_task_recipe
from graftwork.search.callback import StructureCallback
from graftwork.search.discretise import structure_of
from graftwork.sparsity.budget import pool_note
from graftwork.training.answering.trained import answered
from graftwork.training.bars import PhaseLines
from graftwork.training.best import KeepBest
from graftwork.training.build import build_trainer
from graftwork.training.patience import Patience
from graftwork.training.preparation import baselines, prepare, probe_texts
from graftwork.training.run import train
from graftwork.tuner.route import route
from graftwork.tuner.view import graft_view

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from graftwork.models.multitask import MultiTaskModel

__all__ = ["add_task"]

CHECKED_ROWS = 32
"""Number of rows on which the outputs of the older tasks are compared before and after."""


def add_task(
    folder: str | Path,
    recipe: TaskRecipe | str | Path,
    output: str | Path,
    *,
    overwrite: bool = False,
    probe: bool = True,
    diagnosis: bool = True,
    console: Console | None = None,
    **loading: Unpack[Loading],
) -> dict[str, Any]:
    """Add a task to a trained model: its pool is frozen, only the new task's gates and head are learned.

    With `recipe.extend.private` the task also gets fresh adapters of its own. The path is discretised and the
    head tuned as in `fit`; of the evaluations after the discretisation the best is kept.

    Args:
        folder: the trained model, written by `fit`, `extract` or this function; or `user/model` on the hub.
        recipe: the new task and how to train it, or the path of its YAML file.
        output: folder to write, a model like any other.
        overwrite: replace the output folder if it exists.
        probe: fit a linear probe on the frozen backbone, to compare with.
        diagnosis: measure what the search has decided, and what each adapter is worth.
        console: where to print; default standard output.
        **loading: where the parts of the trained model are now (`graftwork.models.folder.Loading`).

    Returns:
        The report, as written to `report.json`: that of the model with the new task, and an entry in
        `additions`.

    Raises:
        GraftworkError: bad input, another process that writes the output, or a full disk; nothing is written.

    Example:
        >>> report = gw.add_task("runs/colours", "new-task.yaml", "runs/four-tasks")
        prepare: ...words: test accuracy ...written to runs/four-tasks
        >>> list(report["tasks"])
        ['colour', 'same', 'length', 'words']
        >>> report["additions"][0]["older_tasks_change"]
        0.0
    """
    output = Path(output)
    recipe = recipe if isinstance(recipe, TaskRecipe) else load_task_recipe(recipe)
    skipped = ["probe=False"] * (not probe) + ["diagnosis=False"] * (not diagnosis)
    given = called("add_task", "folder", "recipe", "output", *skipped, **loading, overwrite=overwrite)
    with given, output_lock(output):
        check_target(output, overwrite=overwrite)
        local, parts = local_parts(folder, loading)
        run = _Addition(local, recipe, parts, console or Console(), diagnosis=diagnosis)
        return _add_task(run, local, str(folder), output, overwrite, probe=probe)


def _add_task(
    run: _Addition, folder: Path, origin: str, output: Path, overwrite: bool, *, probe: bool
) -> dict[str, Any]:
    recipe, console = run.recipe, run.console
    with phase(console, "build", "passing a few rows through the model and back"):
        before = run.older_outputs(run.model)
        set_seed(run.recipe.seed)
        new = NewTask(run.model, run.data.head, recipe.extend, sites=list(read_structure(folder).sites))
        run.say(new)
        for note in run.prepared.preflight(new.learner):
            console.print(f"note: {note}", highlight=False, markup=False)
    trainable = sum(p.numel() for p in new.learner.parameters() if p.requires_grad)
    floor = run.baselines(new, probe)
    loss, watch = run.train(new)
    found = watch.structure.structure or structure_of(new.learner)
    diagnosis = None
    if run.diagnosis:
        with phase(console, "diagnosis", "closing adapters one by one on validation rows") as now:
            validation = run.prepared.tokens["validation"]
            diagnosis = diagnose(new.learner, found, watch, validation=validation, of="path", progress=now)
    model = new.finish_()
    with phase(console, "test", "scoring the task, and comparing the outputs of the older ones"):
        scores = run.scores(model)
        model.cpu()
        after = run.older_outputs(model)
    structure = structure_of(model)
    addition = {
        "task": run.data.head.name,
        "from": origin,
        **{
            name: dataclasses.asdict(getattr(run.recipe, name)) for name in ("extend", "training", "schedule")
        },
        "trainable": trainable,
        "older_tasks_change": float(torch.where(before == after, 0.0, before - after).abs().max()),
        "phases": watch.structure.phases,
        "seconds": round(time.perf_counter() - run.start, 2),
        "train_loss": loss,
        "diagnosis": diagnosis,
        "noise": run.reports,
        **({"pairs": run.pairs} if run.pairs else {}),
        "seed": recipe.seed,
        "versions": versions(),
        "git": git_commits(),
    }
    merged = run.merged_recipe(output)
    report = extended_report(
        read_report(folder),
        model,
        structure,
        data=run.data,
        scores={**scores, **floor},
        recipe=merged,
        addition=addition,
        texts=run.texts,
    )
    with phase(console, "write", "weights and report"), staged_folder(output, overwrite=overwrite) as staged:
        report = write_model(
            model,
            run.prepared.tokenizer,
            staged,
            backbone_name=run.name,
            place=output,
            structure=structure,
            recipe=recipe_to_yaml(merged, output),
            report=report,
        )
        write_page(staged, output)
    print_addition(report, run.data.head.name, console, output)
    return report


class _Addition:
    """The parts of one `add_task`: what is read, and what is done with it."""

    def __init__(
        self, folder: Path, recipe: TaskRecipe, loading: Parts, console: Console, *, diagnosis: bool
    ) -> None:
        self.start, self.diagnosis = time.perf_counter(), diagnosis
        self.name = saved_backbone(folder, loading.get("backbone"))
        file = folder / FILES.recipe
        self.old = load_recipe(file, saved=True, places=False) if file.is_file() else None
        self.noise = () if self.old is None else self.old.noise
        seed = recipe.seed if self.old is None else self.old.seed
        with phase(console, "prepare", "reading model and task") as now:
            self.model, tokenizer = load_model(folder, **loading)
            check_answers(self.model, recipe.task.name, recipe.task.kind)
            backbone = cast("PreTrainedModel", graft_view(self.model).backbone)
            with route(self.model, self.model.heads.heads[0].name):
                self.prepared = prepare(
                    self.name,
                    [recipe.task],
                    self.noise,
                    seed,
                    max_length=self.model.max_length,
                    loaded=(backbone, tokenizer),
                    at=now.at,
                )
            now.found_out(f"task {recipe.task.name}, {self.prepared.rows:,} training rows")
        training = dataclasses.replace(
            recipe.training, max_length=self.prepared.max_length, pooling=self.model.pooling
        )
        self.recipe = dataclasses.replace(recipe, training=training)
        self.pairs: dict[str, dict[str, Any]] = {}  # how two texts are read, if that was found out
        if not self.model.causal:  # which reads them as one sequence
            self.prepared, self.pairs = choose_way(self.prepared, self.recipe, self.name, self.old, console)
        (self.data,) = self.prepared.datas
        self.texts: dict[str, dict[str, Any]] = {}
        """Split -> figures of what the language model answers."""
        self.reports = list(self.prepared.noise)
        for note in self.prepared.told(training):
            console.print(f"note: {note}", highlight=False, markup=False)
        rows = self.prepared.rows
        self.settings = settle_length(added_floor(training, rows), rows)
        if training.epochs is None:
            console.print(f"training: {described_length(self.settings, rows)}", highlight=False)
        self.older = len(self.model.heads.heads)
        self.console = console

    def say(self, new: NewTask) -> None:
        """Print what may go wrong, before the first step."""
        notes: list[str | None] = [*class_notes(self.prepared.clean[0])]
        if PRIVATE in new.searched:
            settings = {"budget": "extend.private_budget", "larger": "extend.private"}
            notes.append(pool_note(new.learner, PRIVATE, **settings))
        for note in filter(None, notes):
            self.console.print(f"note: {note}", highlight=False, markup=False)

    def older_outputs(self, model: MultiTaskModel) -> Tensor:
        """Outputs of the older tasks for some rows of the new one."""
        tokens = self.prepared.tokens["validation"]
        batch = collate(self.prepared.tokenizer)([tokens[i] for i in range(min(CHECKED_ROWS, len(tokens)))])
        del batch["labels"]
        del batch["graft_rows"]
        return outputs_of_older(model, batch, self.older)

    def baselines(self, new: NewTask, probe: bool) -> dict[str, float]:
        """Majority class, and linear probe on the frozen backbone if asked for."""
        prepared, pooling = self.prepared, self.recipe.training.pooling
        total = probe_texts(prepared) if probe else None
        doing = "linear probe on the frozen backbone, texts"
        with (
            phase(self.console, "baselines", doing, total) as now,
            new.learner.backbone.disable_adapter(),  # type: ignore[operator]
        ):
            found = baselines(prepared, pooling, texts=now.advance, probe=probe)[self.data.head.name]
            told = ", ".join(f"{name.replace('_', ' ')} {score:.3f}" for name, score in found.items())
            now.found_out(f"test scores without training: {told}")
        return found

    def train(self, new: NewTask) -> tuple[float, DiagnosisCallback]:
        """Learn path, private adapters and head; returns the mean loss, and what watched the search."""
        prepared, settings, seed = self.prepared, self.settings, self.recipe.seed
        phases = dataclasses.asdict(self.recipe.schedule)
        kinds = (StructureCallback, _PrivateSearch)
        searches = [
            kind(**phases, compact=False, adapter_name=name)
            for kind, name in zip(kinds, new.searched, strict=False)
        ]
        watch = DiagnosisCallback(
            searches[0], prepared.tokens["validation"], prepared.tokenizer, seed=seed, gap=self.diagnosis
        )
        lines = PhaseLines(self.console, searches, watch)
        best = KeepBest(lambda state: all(_decided(item) for item in searches))
        with tempfile.TemporaryDirectory(prefix="graftwork-") as work:
            trainer = build_trainer(
                new.learner,
                prepared,
                settings,
                folder=Path(work),
                seed=seed,
                bars=not self.console.quiet,
                schedule=self.recipe.schedule,
                callbacks=[best, *searches, watch, Patience(settings.patience or 0, searches), lines],
            )
            try:
                loss = train(trainer, self.noise, self.reports)
            except DivergenceError as error:
                lower = {"training.learning_rate": f"{settings.learning_rate / 3:.2g}"}
                raise DivergenceError(
                    f"{error} Nothing is kept of an added task. Begin again with: {again(changes=lower)}"
                ) from error
        return loss, watch

    def scores(self, model: MultiTaskModel) -> dict[str, float]:
        """Scores of the new task in the model of all tasks, with the model's noise on test."""
        found = {}
        for split in ("validation", "test"):
            noise = self.noise if split == "test" else ()
            with noisy_model(model, noise, "test", self.reports):
                outputs = forward_rows(
                    model, self.prepared.tokens[split], collate(self.prepared.tokenizer), row=self.older
                )
                most = self.prepared.most_written
                self.texts |= answered(model, self.prepared.tokenizer, self.data, split, most)
            if split == "validation":
                model.heads.heads = outputs.settled(model)
            found[split] = outputs.scores(model)[self.data.head.name]
            if split in self.texts:
                found[split] = self.texts[split][self.data.head.metric]
        return found

    def merged_recipe(self, output: Path) -> Recipe:
        """The recipe of the model with the new task, from which `evaluate` reads where the data are."""
        recipe = self.recipe
        if self.old is None:
            return Recipe(
                model=self.name,
                tasks=(recipe.task,),
                output=str(output),
                schedule=recipe.schedule,
                training=recipe.training,
                seed=recipe.seed,
            )
        names = [head.name for head in self.model.heads.heads]
        older = tuple(task for task in self.old.tasks if task.name in names)
        return dataclasses.replace(self.old, tasks=(*older, recipe.task), output=str(output))


class _PrivateSearch(StructureCallback):
    """The search beside the first; Trainer warns of two callbacks of one class."""


def _decided(callback: StructureCallback) -> bool:
    """Whether the gates of a search are decided, or there is nothing to search."""
    return callback.search is None or callback.search.control is None
