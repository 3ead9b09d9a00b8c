"""What training a recipe is made of, from reading its tasks to writing a model.

session = Session(recipe, console)                 # prepare: the rows of the tasks, as tokens
run = session.trainer(session.build(), folder)     # build: backbone, pool and heads; their trainer
run.train(checkpoint, folder)                      # train
session.write(run, output, recipe=session.recipe)  # score and write
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from peft import get_peft_model
from rich.console import Console
from transformers import TrainerCallback, set_seed

from graftwork.data.classes import class_notes
from graftwork.diagnosis.diagnosis import DiagnosisCallback, Searched
from graftwork.distributed.processes import on_main
from graftwork.edges import quiet_peft
from graftwork.files.reading import user_path
from graftwork.files.writing import staged_folder
from graftwork.fitting.measuring import final_diagnosis, final_scores, timed
from graftwork.fitting.pairs import choose_ways
from graftwork.fitting.report import build_report, cost_figures
from graftwork.fitting.start import Start
from graftwork.fitting.words import baselines_in_words, rows_in_words, size_in_words
from graftwork.models.backbone import load_backbone
from graftwork.models.causal.model import make_model
from graftwork.models.folder import write_model
from graftwork.noise.state import NoiseState
from graftwork.pages.fit_page import write_page
from graftwork.pages.history import curves
from graftwork.progress import Phase, phase
from graftwork.recipe.length import described_length, settle_length
from graftwork.recipe.loading import recipe_to_yaml
from graftwork.recipe.recipe import Recipe
from graftwork.search.callback import StructureCallback
from graftwork.search.discretise import set_fixed_structure_, structure_of
from graftwork.search.parting import check_trunk
from graftwork.search.tracking import event_folder
from graftwork.sparsity.budget import budget_cost, check_budgets, pool_note
from graftwork.structure.file import named_file, read_structure_file
from graftwork.structure.structure import Structure
from graftwork.training.arguments import trackers
from graftwork.training.bars import PhaseLines
from graftwork.training.build import build_trainer
from graftwork.training.interrupt import InterruptCallback
from graftwork.training.patience import Patience
from graftwork.training.preparation import Grouping, baselines, find_groups, prepare, probe_texts
from graftwork.training.run import TrainingRun
from graftwork.tuner.config import GraftConfig
from graftwork.tuner.view import graft_view

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from graftwork.models.multitask import MultiTaskModel

__all__ = ["Session"]


class Session:
    """What all training runs of a recipe share: its data, backbone and baselines.

    Args:
        recipe: what to train.
        console: where to show how it goes.
        probe: fit a linear probe on the frozen backbone for every task.
        diagnosis: measure what the search has decided.
        pairs: what was chosen for `pairs: auto` when the run was started, if it goes on.

    Raises:
        GraftworkError: the data or a file that the recipe names cannot be read.
    """

    def __init__(
        self,
        recipe: Recipe,
        console: Console,
        *,
        probe: bool = True,
        diagnosis: bool = True,
        pairs: Mapping[str, Any] | None = None,
    ) -> None:
        self.recipe, self.console = recipe, console
        self.probe, self.diagnosis = probe, diagnosis
        self.seconds: dict[str, float] = {}
        self.given: Structure | None = None
        """The structure of `graft.structure`."""
        self.baselines: dict[str, dict[str, float]] = {}
        self.grouping: Grouping | None = None
        """The groups of tasks, if they were found from the rows."""
        self.budget: float | None = None
        """In the unit of `graft.cost`."""
        self.origin: dict[str, Any] = {}
        """When the run was `started`, and the steps at which it was `resumed`: for the report."""
        self.further: dict[str, Any] = {}
        """What the report says of the model it started from."""
        self._said: set[str] = set()
        trackers(recipe.training.report_to)  # here too, what is not installed must show at once
        self.start = None if recipe.start is None else Start(recipe)
        """The model that is trained further."""
        if self.start is not None:
            recipe = self.start.settled(recipe)
        source = named_file(recipe.graft.structure)
        if source is not None and self.start is None:
            read_structure_file(user_path(source[1]))  # before the tasks are read, which takes longer
        with (
            timed(self.seconds, "prepare"),
            phase(console, "prepare", "reading and tokenising the tasks") as now,
        ):
            self.prepared = prepare(
                recipe.model,
                recipe.tasks,
                recipe.noise,
                recipe.seed,
                max_length=recipe.training.max_length,
                image_size=recipe.training.image_size,
                at=now.at,
                loaded=None if self.start is None else self.start.backbone(recipe.model),
                heads=None if self.start is None else self.start.heads,
            )
            now.found_out(rows_in_words(self.prepared))
        self.prepared, self.pairs = choose_ways(self.prepared, recipe, pairs, console, self.seconds)
        training = dataclasses.replace(recipe.training, max_length=self.prepared.max_length)
        # What is trained, scored and saved: with the length that the backbone allows.
        self.recipe = dataclasses.replace(recipe, training=training)
        rows = self.prepared.rows
        self.settings = settle_length(training, rows)
        """The training loop, its length settled."""
        if training.epochs is None:
            console.print(f"training: {described_length(self.settings, rows)}", highlight=False)
        self._say(self.prepared.told(training))
        if self.start is not None:
            self._say(self.start.notes(self.recipe, self.prepared))
        for data in self.prepared.clean:
            self._say(class_notes(data))

    def _say(self, notes: Iterable[str | None]) -> None:
        """Print notes, each once."""
        for note in notes:
            if note is not None and note not in self._said:
                self._said.add(note)
                self.console.print(f"note: {note}", highlight=False, markup=False)

    def build(self, budget: float | None = None) -> MultiTaskModel:
        """A model before its first step; every call gives an equal one, with a backbone of its own.

        Args:
            budget: in place of that of the recipe.
        """
        first = not self.baselines
        with phase(self.console, "build", "putting adapters into the backbone") as now:
            model = self._build(budget, now) if self.start is None else self._continued(self.start, now)
            now.found_out(size_in_words(model))
        if first:
            with timed(self.seconds, "baselines"), cast("PeftModel", model.backbone).disable_adapter():
                self.baselines = on_main(self._baselines)
        if self.start is not None:
            start, doing = self.start, "scoring the model that is trained further"
            with timed(self.seconds, "start"), phase(self.console, "start", doing):
                facts = on_main(lambda: start.facts(model, self.prepared, self.recipe.noise))
            self.further = {"start": facts}
        return model

    def _build(self, budget: float | None, now: Phase) -> MultiTaskModel:
        recipe, prepared = self.recipe, self.prepared
        backbone = prepared.backbone
        if self.baselines:
            backbone = load_backbone(recipe.model, recipe.tasks[0].reads, causal=prepared.causal)[0]
        set_seed(recipe.seed)
        with quiet_peft():
            config = GraftConfig(**recipe.graft_values())
            config.budget = config.budget if budget is None else budget
            if recipe.finds_groups:
                self.grouping = self.grouping or find_groups(prepared, recipe.seed)
                config.groups = self.grouping.groups
            adapted = get_peft_model(backbone, config)
        heads = [data.head for data in prepared.datas]
        settings = recipe.training
        model = make_model(
            adapted,
            heads,
            pooling=settings.pooling,
            max_length=settings.max_length,
            causal=prepared.causal,
        )
        check_budgets(model)
        check_trunk(model)
        if named_file(recipe.graft.structure) is None:
            self._say([pool_note(model)])
        self.budget = budget_cost(model)
        if recipe.graft.structure is not None:
            self.given = set_fixed_structure_(model, recipe.graft.structure, seed=recipe.seed)
        self._look(model, now)
        return model

    def _continued(self, start: Start, now: Phase) -> MultiTaskModel:
        """The model that is trained further."""
        prepared = self.prepared
        model = start.model(self.recipe, [data.head for data in prepared.datas])
        prepared.backbone = cast("PreTrainedModel", graft_view(model).backbone)
        self.budget = budget_cost(model)
        self._look(model, now)
        return model

    def _look(self, model: MultiTaskModel, now: Phase) -> None:
        """Pass rows through the first model."""
        if not self.baselines:
            now.at("passing a few rows through the model and back")
            self._say(self.prepared.preflight(model))

    def _baselines(self) -> dict[str, dict[str, float]]:
        """Majority class and linear probe on the frozen backbone, for every task."""
        prepared, pooling = self.prepared, self.recipe.training.pooling
        doing = "what the frozen backbone can do, texts"
        with phase(self.console, "baselines", doing, probe_texts(prepared) if self.probe else None) as now:
            found = baselines(prepared, pooling, texts=now.advance, probe=self.probe)
            now.found_out(baselines_in_words(found))
        return found

    def trainer(
        self,
        model: MultiTaskModel,
        folder: Path,
        *,
        compact: bool = True,
        further: Callable[[StructureCallback, DiagnosisCallback], TrainerCallback] | None = None,
    ) -> TrainingRun:
        """A trainer with the recipe's settings.

        Args:
            model: made by `build`.
            folder: for checkpoints.
            compact: compact the model when training ends.
            further: makes another callback from the two that search and measure.
        """
        recipe, settings, prepared = self.recipe, self.settings, self.prepared
        structure = StructureCallback(**dataclasses.asdict(recipe.schedule), compact=compact)
        watch = DiagnosisCallback(
            structure,
            prepared.tokens["validation"],
            prepared.tokenizer,
            seed=recipe.seed,
            gap=self.diagnosis,
        )
        draws, interrupt = NoiseState(), InterruptCallback()
        patience = Patience(settings.patience or 0, [structure])
        added = [] if further is None else [further(structure, watch)]
        lines = PhaseLines(self.console, [structure], watch)
        trainer = build_trainer(
            model,
            prepared,
            settings,
            folder=folder,
            seed=recipe.seed,
            callbacks=[structure, watch, draws, patience, *added, lines, interrupt],
            checkpoints=True,
            bars=not self.console.quiet,
            schedule=recipe.schedule,
            events=event_folder(user_path(recipe.output)),
        )
        return TrainingRun(
            recipe, trainer, structure, watch, interrupt, draws, list(prepared.noise), dict(self.seconds)
        )

    def write(
        self,
        run: TrainingRun,
        output: Path,
        *,
        recipe: Recipe,
        overwrite: bool = False,
        further: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Any], Structure]:
        """Score a trained model and write it with its report.

        Args:
            run: after `train`.
            output: folder to write.
            recipe: that of the model, to be written beside it.
            overwrite: replace the folder if it exists.
            further: keys to add to the report.

        Returns:
            The report, and the structure with the adapters that were closed.
        """
        with timed(run.seconds, "test"):
            scores, texts = final_scores(run, self.prepared, self.recipe.noise, self.console)
        further = {**(further or {}), **({"texts": texts} if texts else {})}
        return on_main(lambda: self._write(run, output, scores, recipe, overwrite, further))

    def _write(
        self,
        run: TrainingRun,
        output: Path,
        scores: dict[str, dict[str, float]],
        recipe: Recipe,
        overwrite: bool,
        further: Mapping[str, Any],
    ) -> tuple[dict[str, Any], Structure]:
        model = run.model
        structure = run.structure.structure or self.given or structure_of(model)
        diagnosis = None
        if self.diagnosis:
            with timed(run.seconds, "diagnosis"):
                of: Searched = "structure" if self.start is None else "kept"
                validation = self.prepared.tokens["validation"]
                diagnosis = final_diagnosis(run, structure, validation, of, self.console)
        report = build_report(
            recipe,
            model,
            structure=structure,
            datas=self.prepared.datas,
            scores=scores,
            baselines=self.baselines,
            callback=run.structure,
            seconds=run.seconds,
            train_loss=run.loss,
            noise=run.noise,
            diagnosis=diagnosis,
        )
        report |= {} if self.grouping is None else {"grouping": self.grouping.as_dict()}
        report |= {"curves": curves(run.trainer.state.log_history)} | self.origin | self.further
        report |= {"pairs": self.pairs} if self.pairs else {}
        report |= cost_figures(model, structure, self.budget)
        report |= further
        place = user_path(recipe.output)
        with (
            phase(self.console, "write", "weights, report and page"),
            staged_folder(output, overwrite=overwrite) as folder,
        ):
            report = write_model(
                model,
                self.prepared.tokenizer,
                folder,
                backbone_name=recipe.model,
                place=place,
                structure=structure,
                recipe=recipe_to_yaml(recipe, place),
                report=report,
                picture=True,
            )
            write_page(folder, place)
        return report, structure
