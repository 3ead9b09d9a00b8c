"""The part of a run that needs its model: adapt, train, score, measure."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from graftwork.data.task_data import TaskData
from graftwork.data.tokens import tokenise
from graftwork.diagnosis.diagnosis import DiagnosisCallback
from graftwork.edges import quiet_peft
from graftwork.errors import TrainingError
from graftwork.experiments.grid.grid import Trial
from graftwork.experiments.methods.frozen import Frozen, FrozenFloor
from graftwork.experiments.methods.method import Adapted, Setup, count, kept
from graftwork.experiments.methods.probe import Probe
from graftwork.experiments.running.forgetting import embed_general, forgetting
from graftwork.experiments.running.measure import bytes_on_disk
from graftwork.models.causal.model import make_model
from graftwork.models.multitask import MultiTaskModel
from graftwork.noise.applying import noisy_model
from graftwork.noise.kinds import Noise
from graftwork.pages.history import curves
from graftwork.recipe.length import settle_length, total_steps
from graftwork.search.callback import StructureCallback
from graftwork.training.answering.trained import trained_answers, with_precision
from graftwork.training.best import KeepBest
from graftwork.training.build import build_trainer
from graftwork.training.patience import Patience
from graftwork.training.preparation import Grouping, Prepared, cache_folder, find_groups, split_scores
from graftwork.training.run import train
from graftwork.training.trainer import MultiTaskTrainer
from graftwork.trunk.trunk import find_trunk, trunk_facts

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Workbench"]

_LOG = logging.getLogger(__name__)
_SAID: set[str] = set()
"""Notes on the data that this process has told."""


class Workbench:
    """The parts of a run that need its model."""

    def __init__(
        self, run: Trial, key: str, prepared: Prepared, interval: Callable[[float], None] | None
    ) -> None:
        self.run, self.key, self.prepared, self.interval = run, key, prepared, interval
        self.training = settle_length(run.training, prepared.rows)
        self.names = tuple(prepared.names)
        self.backbone_size = count(prepared.backbone, trainable=False)
        self.noise: list[dict[str, Any]] = []
        """Noise in the model while it was trained."""
        self.found: dict[str, Any] = {}
        """The part of the result that does not depend on noise at test time."""
        self.trainer: MultiTaskTrainer | None = None
        self.watch: DiagnosisCallback | None = None
        """Sees what a structure search decides."""
        self.grouping: Grouping | None = None
        self.floor: Probe | FrozenFloor | None = None
        """A method without training."""
        self.validation: dict[str, float] = {}
        self.texts: dict[str, dict[str, dict[str, Any]]] = {}
        """Split -> task -> figures and examples of what a language model has answered."""

    def train_model(self) -> None:
        """Adapt, train, score on validation, measure."""
        run, prepared = self.run, self.prepared
        for note in prepared.told(run.training):
            if note not in _SAID:  # most are the same for every run of a grid
                _SAID.add(note)
                _LOG.warning("%s: %s", run.name, note)
        before = embed_general(prepared, run.training)
        set_seed(run.seed)
        setup = Setup(
            tasks=self.names,
            steps=total_steps(self.training, prepared.rows),
            seed=run.seed,
            graft=run.graft,
            schedule=run.schedule,
            find_groups=self.find_groups,
            pretrain=self.pretrain,
        )
        original = {id(parameter) for parameter in prepared.backbone.parameters()}
        with quiet_peft():
            adapted = run.method.adapt(prepared.backbone, setup)
        model = make_model(
            adapted.backbone,
            [data.head for data in prepared.datas],
            pooling=run.training.pooling,
            max_length=prepared.max_length,
            causal=prepared.causal,
        )
        adapted.attach(model)
        for note in prepared.preflight(model):
            _LOG.warning("%s: %s", run.name, note)
        peak = max(adapted.peak, count(model))
        with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
            self.trainer = trainer = self.make_trainer(model, adapted, prepared, Path(folder))
            train_loss, seconds = self.train(trainer, run.noise)
            validation = prepared.tokens["validation"]
            self.validation = self.trained_scores(prepared.datas, validation, "validation")
            parameters = kept(model.backbone, original)
            stored = adapted.stored() if adapted.stored else sum(p.numel() for p in parameters.values())
            on_disk = bytes_on_disk(model, parameters, Path(folder))
        active = adapted.active or (lambda task: stored)
        structure = adapted.structure()
        self.found = {
            "forgetting": forgetting(model, prepared, run.training, before),
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
            "search": self.searched(),
            **({} if structure is None or find_trunk(model) is None else {"trunk": trunk_facts(model)}),
        }

    def find_groups(self) -> list[list[str]]:
        """The tasks that share adapters from the start."""
        self.grouping = find_groups(self.prepared, self.run.seed)
        return self.grouping.groups

    def searched(self) -> dict[str, Any] | None:
        """The groups of tasks, and what the discretisation of a search cost; None without either."""
        gap = None if self.watch is None else self.watch.gap
        found: dict[str, Any] = {} if gap is None else {"gap": gap}
        found |= {} if self.grouping is None else self.grouping.as_dict()
        return found or None

    def pretrain(self, task: int, adapted: Adapted) -> float:
        """Train on one task alone, in place."""
        chosen = rows_of(self.prepared.tokens["train"], [task]).data.table
        import pyarrow  # type: ignore[import-untyped]
        from datasets import Dataset

        index = chosen.column_names.index("graft_rows")
        own = Dataset(
            chosen.set_column(index, "graft_rows", pyarrow.array(np.zeros(len(chosen), dtype=np.int64)))
        )
        model = MultiTaskModel(
            adapted.backbone, [self.prepared.datas[task].head], pooling=self.run.training.pooling
        )
        with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
            alone = dataclasses.replace(self.prepared, tokens={"train": own})
            return self.train(self.make_trainer(model, adapted, alone, Path(folder)), ())[1]

    def make_trainer(
        self, model: MultiTaskModel, adapted: Adapted, prepared: Prepared, folder: Path
    ) -> MultiTaskTrainer:
        """A trainer with the run's settings, and what the method wishes for."""
        run, callbacks = self.run, [KeepBest(adapted.era), *adapted.callbacks]
        if "validation" in prepared.tokens:
            searches = [item for item in adapted.callbacks if isinstance(item, StructureCallback)]
            if searches:
                self.watch = DiagnosisCallback(
                    searches[0], prepared.tokens["validation"], prepared.tokenizer, seed=run.seed
                )
                callbacks.append(self.watch)
            callbacks.append(Patience(self.training.patience or 0, searches))
            if self.interval is not None:
                callbacks.append(Progress(self.interval))
        return build_trainer(
            model,
            prepared,
            self.training,
            folder=folder,
            seed=run.seed,
            callbacks=callbacks,
            schedule=run.schedule,
            stop_stalled=False,
            events=Path(os.environ.get("TENSORBOARD_LOGGING_DIR", "runs")) / self.key,
            changes={"disable_tqdm": True, "run_name": run.name},
            extra_loss=adapted.extra_loss,
            rates=adapted.rates,
        )

    def train(self, trainer: MultiTaskTrainer, noise: Sequence[Noise]) -> tuple[float, float]:
        """Train; returns the mean loss and the seconds without evaluations."""
        start = time.perf_counter()
        loss = train(trainer, noise, self.noise)
        seconds = time.perf_counter() - start - trainer.evaluation_seconds
        if not np.isfinite(loss):
            rate = self.run.training.learning_rate
            raise TrainingError(
                f"training diverged: the loss is {loss}; lower the learning rate of {rate:g}."
            )
        return loss, seconds

    def scores(
        self, run: Trial, datas: Sequence[TaskData], noise: list[dict[str, Any]]
    ) -> dict[str, dict[str, float | None]]:
        """Scores of every task: on validation, and in a final run on test, with its noise there."""
        found = {"validation": self.validation}
        if run.purpose == "final":
            found["test"] = self.test_scores(run, datas, noise)
        if not np.isfinite([score for split in found.values() for score in split.values()]).all():
            raise TrainingError("training diverged: a score is not a number; lower the learning rate.")
        return {
            name: {split: found[split][name] if split in found else None for split in ("validation", "test")}
            for name in self.names
        }

    def test_scores(
        self, run: Trial, datas: Sequence[TaskData], noise: list[dict[str, Any]]
    ) -> dict[str, float]:
        """Scores on the test split of noisy tasks."""
        prepared = self.prepared
        if self.floor is not None:
            with_noise = functools.partial(noisy_model, prepared.backbone, run.noise, "test", noise)
            scores = self.floor.test_scores(datas, with_noise)
            self._take_texts("test")
            return scores
        assert self.trainer is not None
        tokens = tokenise(datas, prepared.tokenizer, prepared.max_length, cache_folder())["test"]
        with noisy_model(self.trainer.model, run.noise, "test", noise):
            return self.trained_scores(datas, tokens, "test")

    def trained_scores(self, datas: Sequence[TaskData], tokens: Dataset, split: str) -> dict[str, float]:
        """Score of every task: of its head, or of what the language model answers."""
        trainer, prepared = self.trainer, self.prepared
        assert trainer is not None
        if not prepared.causal:
            return split_scores(trainer, tokens, split, self.names)
        model: Any = trainer.model
        with with_precision(prepared.backbone, self.training.bf16):
            texts = trained_answers(model, prepared.tokenizer, datas, split, most=prepared.most_written)
        self.texts[split] = {name: found.as_dict() for name, found in texts.items()}
        scores = {name: found.score for name, found in texts.items()}
        # What is answered need not be read by the trainer, too, unless its likelihood is the score.
        heads = [data.head for data in datas]
        read = [i for i, head in enumerate(heads) if not head.written or head.metric == "likelihood"]
        if read:
            own = rows_of(tokens, read)
            scores |= split_scores(trainer, own, split, [self.names[i] for i in read])
        return scores

    def answered(self) -> dict[str, Any]:
        """For the file of a run: what a language model has answered, by task and split; else nothing."""
        names = {name for found in self.texts.values() for name in found}
        texts = {
            name: {split: found[name] for split, found in self.texts.items() if name in found}
            for name in self.names
            if name in names
        }
        return {"texts": texts} if texts else {}

    def measure_floor(self) -> None:
        """Fit linear models on frozen embeddings, or ask the frozen language model."""
        start = time.perf_counter()
        method = self.run.method
        self.floor = (
            FrozenFloor(method, self.run.training, self.prepared)
            if isinstance(method, Frozen)
            else Probe(self.run.training, self.prepared)
        )
        self.validation = self.floor.validation_scores()
        self._take_texts("validation")
        size = self.floor.size()
        self.found = {
            "forgetting": 0.0,
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
            "search": None,
        }

    def _take_texts(self, split: str) -> None:
        """What the frozen language model has answered."""
        if isinstance(self.floor, FrozenFloor):
            texts = self.floor.texts[split]
            self.texts[split] = {name: found.as_dict() for name, found in texts.items()}


def rows_of(tokens: Dataset, tasks: Sequence[int]) -> Dataset:
    """The rows of some tasks, by index, as a table of their own."""
    from datasets import Dataset

    rows = np.flatnonzero(np.isin(tokens.data.column("graft_rows").to_numpy(), tasks))
    return Dataset(tokens.data.table.take(rows))


class Progress(TrainerCallback):
    """Tells how far the training is.

    Args:
        tell: called with the fraction of the steps that are done.
    """

    def __init__(self, tell: Callable[[float], None]) -> None:
        self.tell = tell

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell."""
        self.tell(state.global_step / state.max_steps)
