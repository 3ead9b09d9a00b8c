"""One run of a grid: train, score, measure, and say it all as the dictionary that becomes its file."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from transformers import set_seed

from graftwork.data import collate
from graftwork.errors import TrainingError
from graftwork.experiments.grid import Run
from graftwork.experiments.loop import Interval, TrialTrainer
from graftwork.experiments.measure import bytes_on_disk, curves, host, peak_memory, reset_peak_memory
from graftwork.experiments.methods import Adapted, Setup, count, kept
from graftwork.experiments.settings import load_data, run_settings
from graftwork.experiments.store import FORMAT
from graftwork.multitask import MultiTaskModel
from graftwork.noise import damage_tasks, noisy_model
from graftwork.report import versions
from graftwork.training import (
    Prepared,
    prepare,
    split_scores,
    total_steps,
    training_arguments,
)

__all__ = ["run_trial"]


def run_trial(run: Run, *, interval: Callable[[float], None] | None = None) -> dict[str, Any]:
    """Do one run.

    Args:
        run: what to do.
        interval: called with the fraction of the steps that are done.

    Returns:
        The result, as plain JSON types.

    Raises:
        GraftworkError: the data, settings or sizes do not fit.
        TrainingError: the training diverged.
    """
    started = datetime.now(UTC)
    clock = time.perf_counter()
    reset_peak_memory()
    clean = load_data(run.tasks, run.data_seed)
    identity = run_settings(run, clean)
    datas, noise = damage_tasks(clean, run.noise)
    prepared = prepare(run.model, run.tasks, max_length=run.training.max_length, datas=datas)
    trial = _Trial(run, prepared, interval)
    if run.method.trained:
        found = trial.trained()
    else:
        found = trial.probed()
    scores: dict[str, dict[str, float | None]] = found.pop("scores")
    noise += found.pop("noise")
    splits = ("validation", "test")
    return {
        **identity,
        "format": FORMAT,
        "status": "done",
        "error": None,
        "tasks": {
            data.head.name: {
                "metric": data.head.metric,
                **scores[data.head.name],
                "rows": data.counts,
                "sha256": before.sha256,
            }
            for before, data in zip(clean, datas, strict=True)
        },
        "suite": {split: _mean([score[split] for score in scores.values()]) for split in splits},
        **found,
        "memory_peak_bytes": peak_memory(),
        "seconds": {**found["seconds"], "total": round(time.perf_counter() - clock, 3)},
        "noise": noise,
        "versions": versions(),
        "started": started.isoformat(timespec="seconds"),
        "host": host(),
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


class _Trial:
    """The parts of a run that need its model."""

    def __init__(self, run: Run, prepared: Prepared, interval: Callable[[float], None] | None) -> None:
        self.run, self.prepared, self.interval = run, prepared, interval
        self.names = tuple(data.head.name for data in prepared.datas)
        self.backbone_size = count(prepared.backbone, trainable=False)

    def trained(self) -> dict[str, Any]:
        """Adapt, train, score."""
        run, prepared = self.run, self.prepared
        set_seed(run.seed)
        tokens = prepared.tokens["train"]
        setup = Setup(
            tasks=self.names,
            steps=total_steps(run.training, len(tokens)),
            seed=run.seed,
            graft=run.graft,
            schedule=run.schedule,
            pretrain=self.pretrain,
        )
        original = {id(parameter) for parameter in prepared.backbone.parameters()}
        with warnings.catch_warnings():
            # peft 0.21 asks transformers 5.2x for a property by its old name whenever it wraps a model.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            adapted = run.method.adapt(prepared.backbone, setup)
        model = MultiTaskModel(
            adapted.backbone, [data.head for data in prepared.datas], pooling=run.training.pooling
        )
        adapted.attach(model)
        peak = max(adapted.peak, count(model))
        noise: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
            trainer = self.trainer(model, adapted, tokens, Path(folder))
            with noisy_model(model, self.run.noise, "train", noise):
                train_loss, seconds = self.train(trainer)
            scores = self.scores(trainer, model, noise)
            parameters = kept(model.backbone, original)
            stored = adapted.stored() if adapted.stored else sum(p.numel() for p in parameters.values())
            on_disk = bytes_on_disk(model, parameters, Path(folder))
        active = adapted.active or (lambda task: stored)
        structure = adapted.structure()
        return {
            "scores": scores,
            "parameters": {
                "backbone": self.backbone_size,
                "stored": stored,
                "active": {name: active(name) for name in self.names},
                "heads": model.heads.count(),
                "peak_trainable": peak,
            },
            "bytes_on_disk": on_disk,
            "seconds": {"train": round(seconds + adapted.seconds, 3)},
            "train_loss": train_loss,
            "curves": curves(trainer.state.log_history),
            "structure": None if structure is None else structure.to_dict(),
            "noise": noise,
        }

    def pretrain(self, task: int, adapted: Adapted) -> float:
        """Train on one task alone, in place."""
        tokens = self.prepared.tokens["train"]
        rows = np.flatnonzero(np.asarray(tokens.data.column("graft_rows").to_numpy()) == task)
        chosen = tokens.data.table.take(rows)
        import pyarrow  # type: ignore[import-untyped]
        from datasets import Dataset

        index = chosen.column_names.index("graft_rows")
        own = Dataset(
            chosen.set_column(index, "graft_rows", pyarrow.array(np.zeros(len(rows), dtype=np.int64)))
        )
        model = MultiTaskModel(
            adapted.backbone, [self.prepared.datas[task].head], pooling=self.run.training.pooling
        )
        with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
            trainer = self.trainer(model, adapted, own, Path(folder), evaluated=False)
            return self.train(trainer)[1]

    def trainer(
        self, model: MultiTaskModel, adapted: Adapted, tokens: Any, folder: Path, *, evaluated: bool = True
    ) -> TrialTrainer:
        """A trainer with the run's settings."""
        run, prepared = self.run, self.prepared
        changes: dict[str, Any] = {"save_strategy": "no", "disable_tqdm": True}
        if not evaluated:
            changes["eval_strategy"] = "no"
        arguments = training_arguments(
            run.training, folder=folder, rows=len(tokens), seed=run.seed, changes=changes
        )
        logging.getLogger("transformers.trainer").setLevel(logging.ERROR)
        trainer = TrialTrainer(
            model,
            arguments,
            adapted=adapted,
            train_dataset=tokens,
            eval_dataset=prepared.tokens["validation"] if evaluated else None,
            data_collator=collate(prepared.tokenizer),
            backbone_name=run.model,
            temperature=run.training.temperature,
            head_learning_rate=run.training.head_learning_rate,
        )
        if self.interval is not None and evaluated:
            trainer.add_callback(Interval(self.interval))
        return trainer

    def train(self, trainer: TrialTrainer) -> tuple[float, float]:
        """Train; returns the mean loss and the seconds without evaluations."""
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*pin_memory.*")
            result = trainer.train()
        seconds = time.perf_counter() - start - trainer.evaluation_seconds
        loss = float(result.training_loss)
        if not np.isfinite(loss):
            rate = self.run.training.learning_rate
            raise TrainingError(
                f"training diverged: the loss is {loss}; lower the learning rate of {rate:g}."
            )
        return loss, seconds

    def scores(
        self, trainer: TrialTrainer, model: MultiTaskModel, noise: list[dict[str, Any]]
    ) -> dict[str, dict[str, float | None]]:
        """Scores of every task: on validation, and in a final run on test."""
        found = {
            "validation": split_scores(trainer, self.prepared.tokens["validation"], "validation", self.names)
        }
        if self.run.purpose == "final":
            with noisy_model(model, self.run.noise, "test", noise):
                found["test"] = split_scores(trainer, self.prepared.tokens["test"], "test", self.names)
        if not np.isfinite([score for split in found.values() for score in split.values()]).all():
            raise TrainingError("training diverged: a score is not a number; lower the learning rate.")
        return {
            name: {split: found[split][name] if split in found else None for split in ("validation", "test")}
            for name in self.names
        }

    def probed(self) -> dict[str, Any]:
        """Score linear models on frozen embeddings."""
        from graftwork.experiments.probe import probe

        noise: list[dict[str, Any]] = []
        start = time.perf_counter()
        scores, size = probe(
            self.run,
            self.prepared,
            lambda: noisy_model(self.prepared.backbone, self.run.noise, "test", noise),
        )
        return {
            "scores": scores,
            "parameters": {
                "backbone": self.backbone_size,
                "stored": 0,
                "active": dict.fromkeys(self.names, 0),
                "heads": size,
                "peak_trainable": size,
            },
            "bytes_on_disk": 4 * size,
            "seconds": {"train": round(time.perf_counter() - start, 3)},
            "train_loss": None,
            "curves": [],
            "structure": None,
            "noise": noise,
        }
