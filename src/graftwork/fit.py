"""`fit`: from a recipe to a compact model with a report."""

from __future__ import annotations

import functools
import json
import logging
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

from peft import get_peft_model
from rich.console import Console
from transformers import set_seed
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import get_last_checkpoint

from graftwork.callback import StructureCallback
from graftwork.compact import structure_of
from graftwork.data import collate, load_task
from graftwork.errors import TrainingError
from graftwork.evaluate import embed, linear_probe, majority_score
from graftwork.interrupt import InterruptCallback
from graftwork.multitask import MultiTaskModel
from graftwork.noise import damage_tasks, noisy_model
from graftwork.persist import FILES, check_target, save_model, staged_folder
from graftwork.recipe import Recipe, recipe_to_yaml
from graftwork.report import build_report, print_report
from graftwork.trainer import MultiTaskTrainer
from graftwork.training import Prepared, prepare, remove_default_output, split_scores, training_arguments
from graftwork.view import budget_parameters

__all__ = ["Interrupted", "fit", "work_folder"]


class Interrupted(TrainingError):
    """The user pressed Ctrl-C; the message says how to go on."""


def work_folder(recipe: Recipe) -> Path:
    """Where the checkpoints of an unfinished run are kept: beside its output folder."""
    output = Path(recipe.output).expanduser()
    return output.with_name(output.name + ".partial")


def fit(
    recipe: Recipe, *, overwrite: bool = False, resume: bool = False, console: Console | None = None
) -> dict[str, Any]:
    """Train the recipe's tasks on its backbone, learn the structure, and write a compact model.

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
    console = console or Console()
    output = Path(recipe.output).expanduser()
    check_target(output, overwrite=overwrite)
    checkpoint = _find_checkpoint(recipe, resume=resume, overwrite=overwrite)
    seconds: dict[str, float] = {}
    with _timed(seconds, "prepare"), console.status("reading and tokenising the tasks"):
        clean = [load_task(task, recipe.seed) for task in recipe.tasks]
        datas, noise = damage_tasks(clean, recipe.noise)
        prepared = prepare(recipe.model, recipe.tasks, max_length=recipe.training.max_length, datas=datas)
    set_seed(recipe.seed)
    model = _build(recipe, prepared)
    with _timed(seconds, "baselines"), model.backbone.disable_adapter():  # type: ignore[operator]
        baselines = _baselines(recipe, prepared, console)
    trainer, interrupt = _make_trainer(recipe, model, prepared)
    _open_work_folder(recipe, resume=resume)
    with interrupt.listening(), warnings.catch_warnings():
        # The loader of a machine without a GPU has no use for pinned memory, and says so every epoch.
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        with noisy_model(model, recipe.noise, "train", noise):
            result = trainer.train(resume_from_checkpoint=checkpoint)
    if interrupt.requested:
        raise Interrupted(
            f"interrupted at step {trainer.state.global_step} of {trainer.state.max_steps}; the checkpoint "
            f"is in {work_folder(recipe)}. Go on with: graftwork fit RECIPE --resume"
        )
    with _timed(seconds, "test"):
        scores = _test_scores(trainer, prepared, recipe, noise)
    callback = trainer.structure_callback
    assert callback is not None
    with staged_folder(output, overwrite=overwrite) as folder:
        save_model(model, folder, backbone_name=recipe.model)
        prepared.tokenizer.save_pretrained(str(folder))
        structure = callback.structure or structure_of(model)
        (folder / FILES.structure).write_text(structure.to_json() + "\n", encoding="utf-8")
        (folder / FILES.recipe).write_text(recipe_to_yaml(recipe), encoding="utf-8")
        _draw(structure, folder)
        report = build_report(
            recipe,
            model,
            structure=structure,
            datas=prepared.datas,
            scores=scores,
            baselines=baselines,
            callback=callback,
            seconds=seconds,
            train_loss=float(result.training_loss),
            noise=noise,
            folder=folder,
        )
        (folder / FILES.report).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(work_folder(recipe), ignore_errors=True)
    print_report(report, structure, console, output)
    return report


class _timed:
    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self.seconds, self.name = seconds, name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = time.perf_counter() - self.start


def _find_checkpoint(recipe: Recipe, *, resume: bool, overwrite: bool) -> str | None:
    """The checkpoint to go on from, or None to start; nothing is written yet."""
    folder = work_folder(recipe)
    if not resume:
        if folder.exists() and not overwrite:
            raise TrainingError(
                f"an unfinished run is in {folder}; pass --resume to go on with it, or --overwrite to start "
                "anew."
            )
        return None
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if last is None:
        raise TrainingError(f"nothing to resume: there is no checkpoint in {folder}; run without --resume.")
    saved = folder / FILES.recipe
    if saved.is_file() and saved.read_text(encoding="utf-8") != recipe_to_yaml(recipe):
        raise TrainingError(
            f"the unfinished run in {folder} has another recipe (its {FILES.recipe}); resume with that one, "
            "or pass --overwrite to start anew."
        )
    return str(last)


def _open_work_folder(recipe: Recipe, *, resume: bool) -> None:
    folder = work_folder(recipe)
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILES.recipe).write_text(recipe_to_yaml(recipe), encoding="utf-8")


def _build(recipe: Recipe, prepared: Prepared) -> MultiTaskModel:
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5.2x for a property by its old name whenever it wraps a model.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        adapted = get_peft_model(prepared.backbone, recipe.graft_config())
    model = MultiTaskModel(adapted, [data.head for data in prepared.datas], pooling=recipe.training.pooling)
    budget_parameters(model)  # an impossible budget must fail before the first step, not at discretisation
    return model


def _baselines(recipe: Recipe, prepared: Prepared, console: Console) -> dict[str, dict[str, float]]:
    """Majority class and linear probe on the frozen backbone, for every task."""
    from rich.progress import Progress

    embedder = functools.partial(
        embed,
        prepared.backbone,
        prepared.tokenizer,
        max_length=recipe.training.max_length,
        pooling=recipe.training.pooling,
    )
    results = {}
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("linear probes on the frozen backbone", total=len(prepared.datas))
        for data in prepared.datas:
            train, validation, test = (data.splits[name] for name in ("train", "validation", "test"))
            results[data.head.name] = {
                "majority": majority_score(data.head, train.targets, test.targets),
                "linear_probe": linear_probe(data.head, train, validation, test, embedder),
            }
            progress.advance(bar)
    return results


class _Progress(ProgressCallback):
    """Trainer's bars, with loss and phase beside them instead of a dictionary per log."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.training_bar is None or not logs:
            return
        shown = {
            "loss": logs.get("loss"),
            "mean": logs.get("eval_mean"),
            "size": logs.get("graft/expected_parameters"),
        }
        values = {name: float(value) for name, value in shown.items() if value is not None}
        self.training_bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()})


def _make_trainer(
    recipe: Recipe, model: MultiTaskModel, prepared: Prepared
) -> tuple[MultiTaskTrainer, InterruptCallback]:
    settings = recipe.training
    arguments = training_arguments(
        settings,
        folder=work_folder(recipe),
        rows=len(prepared.tokens["train"]),
        seed=recipe.seed,
        changes={
            "save_strategy": "epoch" if settings.eval_steps is None else "steps",
            "save_steps": settings.eval_steps or 500,
            "save_total_limit": 2,
            "load_best_model_at_end": True,
            "metric_for_best_model": "mean",
            "greater_is_better": True,
        },
    )
    interrupt = InterruptCallback()
    schedule = recipe.schedule
    structure = StructureCallback(warmup=schedule.warmup, ramp=schedule.ramp, discretise=schedule.discretise)
    logging.getLogger("transformers.trainer").setLevel(logging.ERROR)
    trainer = MultiTaskTrainer(
        model,
        arguments,
        train_dataset=prepared.tokens["train"],
        eval_dataset=prepared.tokens["validation"],
        data_collator=collate(prepared.tokenizer),
        backbone_name=recipe.model,
        temperature=settings.temperature,
        head_learning_rate=settings.head_learning_rate,
        callbacks=[structure, interrupt],
    )
    remove_default_output(trainer)
    trainer.add_callback(_Progress())
    return trainer, interrupt


def _test_scores(
    trainer: MultiTaskTrainer, prepared: Prepared, recipe: Recipe, noise: list[dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """Scores of the final, compact model on validation, and on test with the noise asked for there."""
    names = [data.head.name for data in prepared.datas]
    scores = {"validation": split_scores(trainer, prepared.tokens["validation"], "validation", names)}
    model = trainer.accelerator.unwrap_model(trainer.model)
    with noisy_model(model, recipe.noise, "test", noise):
        scores["test"] = split_scores(trainer, prepared.tokens["test"], "test", names)
    return {name: {split: found[name] for split, found in scores.items()} for name in names}


def _draw(structure: Any, folder: Path) -> None:
    from graftwork.draw import structure_png

    structure_png(structure, folder / FILES.picture)
