"""`pairs: auto`: a task reads its two texts in the way that scores better after a short training with each.

Both trainings are alike but for the way: all tasks that ask for it together, the same train rows in the same
order, the same start and rates, and uniform adapters of the run's own size in place of a search. They leave
nothing behind, so that a run goes on as if the ways had been given.
"""

from __future__ import annotations

import dataclasses
import gc
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from peft import get_peft_model
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from graftwork.data.task_data import Split, TaskData
from graftwork.data.tokens import collate, longest_first, tokenise
from graftwork.diagnosis.stalled import StalledCallback
from graftwork.distributed.processes import from_main
from graftwork.edges import quiet_peft
from graftwork.errors import StructureError
from graftwork.files.hashing import stable_key
from graftwork.kinds.pairs.setting import Pairs
from graftwork.models.backbone import load_backbone
from graftwork.models.multitask import MultiTaskModel
from graftwork.models.outputs import forward_rows
from graftwork.preflight.preflight import fitting_tokens
from graftwork.progress import phase
from graftwork.recipe.length import settle_length, total_steps
from graftwork.recipe.recipe import graft_values
from graftwork.search.discretise import set_fixed_structure_, set_structure_, structure_of
from graftwork.structure.structure import Structure
from graftwork.training.build import build_trainer
from graftwork.training.preparation import Prepared, cache_folder
from graftwork.training.run import train
from graftwork.tuner.config import GraftConfig
from graftwork.tuner.config_checks import DEFAULT_BUDGET

if TYPE_CHECKING:
    from rich.console import Console

    from graftwork.data.task import Task
    from graftwork.recipe.settings import GraftSettings, TrainingSettings

__all__ = ["PairsChoice", "Pilot", "choose_pairs", "read_pairs", "settle_pairs"]

SHARE = 1 / 8
"""Steps of a short training, as a part of those of the run."""
STEPS = (30, 150)
"""The fewest and the most steps of a short training. After fewer than 30 hardly any task is above chance;
150 of 32 rows tell the ways apart, and are little beside a run that would have more."""
ROWS = 500
"""Validation rows of a task on which the ways are compared."""
WAYS: tuple[Pairs, ...] = get_args(Pairs)


@dataclass(frozen=True)
class PairsChoice:
    """How a task reads its two texts, and what says so.

    Attributes:
        pairs: the way that was chosen; of equals `joint`.
        scores: of every way, on validation rows, under the metric of the task.
        metric: that metric.
        steps: of the training with each way.
        rows: that were scored.
    """

    pairs: Pairs
    scores: Mapping[str, float]
    metric: str
    steps: int
    rows: int

    def as_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {**dataclasses.asdict(self), "scores": dict(self.scores)}

    def in_words(self, task: str) -> str:
        """The decision and both scores."""
        scores = ", ".join(f"{way} {score:.3f}" for way, score in self.scores.items())
        return f"{task} {self.pairs} ({self.metric} on {self.rows:,} validation rows: {scores})"


@dataclass(frozen=True)
class Pilot:
    """What the short trainings have in common with the run.

    Attributes:
        model: name of the backbone.
        graft: adapters of the run.
        training: its loop.
        seed: of the run.
    """

    model: str
    graft: GraftSettings
    training: TrainingSettings
    seed: int


def settle_pairs(
    prepared: Prepared,
    tasks: Sequence[Task],
    pilot: Pilot,
    *,
    known: Mapping[str, Mapping[str, Any]] | None = None,
    console: Console | None = None,
) -> tuple[Prepared, dict[str, PairsChoice]]:
    """The rows of a run with every pair read in one of the ways, and what was chosen where tasks say `auto`.

    Args:
        prepared: the rows, with pairs of such tasks as one sequence.
        tasks: of the run.
        pilot: what the short trainings are like.
        known: what was chosen when the run was started, if it goes on (`PairsChoice.as_dict` by task).
        console: where to show how it goes.

    Several processes train as they do in the run; all of them have to call this.
    """
    names = [task.name for task in tasks if task.pairs == "auto"]
    if not names:
        return prepared, {}
    if known:
        choices = {name: PairsChoice(**known[name]) for name in names}
    else:
        doing = "a short training with each way to read two texts, steps"
        with phase(console, "pairs", doing) as now:
            found = choose_pairs(prepared, names, pilot, expect=now.expect, advance=now.advance)
            choices = from_main(found)
            now.found_out("; ".join(choice.in_words(name) for name, choice in choices.items()))
    return read_pairs(prepared, {name: choice.pairs for name, choice in choices.items()}), choices


def read_pairs(prepared: Prepared, ways: Mapping[str, Pairs]) -> Prepared:
    """The same rows with the pairs of some tasks read in the given way."""

    def changed(datas: Sequence[TaskData]) -> list[TaskData]:
        return [_read(data, ways.get(data.head.name, data.head.pairs)) for data in datas]

    datas = changed(prepared.datas)
    if [data.head for data in datas] == [data.head for data in prepared.datas]:
        return prepared
    found = fitting_tokens(datas, prepared.backbone, prepared.tokenizer, prepared.max_length, cache_folder())
    return dataclasses.replace(prepared, datas=datas, clean=changed(prepared.clean), tokens=found.splits)


def _read(data: TaskData, way: Pairs) -> TaskData:
    return dataclasses.replace(data, head=dataclasses.replace(data.head, pairs=way))


def choose_pairs(
    prepared: Prepared,
    names: Sequence[str],
    pilot: Pilot,
    *,
    expect: Callable[[int], None] = lambda total: None,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, PairsChoice]:
    """Train for a short time with each way, and score.

    Args:
        prepared: rows of a run.
        names: the tasks to choose for.
        pilot: what the trainings are like.
        expect: told how many steps there will be.
        advance: told how many were done since the last time.
    """
    length = total_steps(settle_length(pilot.training, prepared.rows), prepared.rows)
    steps = min(max(round(SHARE * length), STEPS[0]), STEPS[1])
    expect(len(WAYS) * steps)
    batch = pilot.training.batch_size * pilot.training.gradient_accumulation
    most = {"train": steps * batch, "validation": ROWS}
    small = [_few(data, most, pilot.seed) for data in prepared.datas if data.head.name in names]
    scores = {way: _scores(prepared, small, way, pilot, steps, advance) for way in WAYS}
    found = {}
    for data in small:
        name = data.head.name
        own: dict[str, float] = {way: round(scores[way].get(name, float("nan")), 6) for way in WAYS}
        better = own["separate"] > own["joint"] or own["joint"] != own["joint"]
        rows = len(data.splits["validation"])
        way: Pairs = "separate" if better else "joint"
        found[name] = PairsChoice(way, own, data.head.metric, steps, rows)
    return found


def _few(data: TaskData, most: Mapping[str, int], seed: int) -> TaskData:
    """A task with a seeded draw of its rows."""
    splits = {}
    for split, count in most.items():
        rows = data.splits[split]
        draw = np.random.default_rng([seed, stable_key("pairs", data.head.name, split)])
        kept = np.sort(draw.permutation(len(rows))[:count])
        texts = tuple([column[i] for i in kept] for column in rows.texts)
        splits[split] = Split(texts, rows.targets[kept], "")
    return TaskData(data.head, splits)


def _scores(
    prepared: Prepared,
    datas: Sequence[TaskData],
    way: Pairs,
    pilot: Pilot,
    steps: int,
    advance: Callable[[int], None],
) -> dict[str, float]:
    """Validation scores after a short training with one way."""
    datas = [_read(data, way) for data in datas]
    tokens = tokenise(datas, prepared.tokenizer, prepared.max_length, None, ("train", "validation"))
    model = _model(datas, pilot, prepared.max_length)
    rows = dataclasses.replace(prepared, datas=datas, clean=datas, tokens={"train": tokens["train"]})
    settings = settle_length(pilot.training, rows.rows)
    with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
        trainer = build_trainer(
            model,
            rows,
            settings,
            folder=Path(folder),
            seed=pilot.seed,
            callbacks=[_Steps(advance)],
            changes={
                "max_steps": steps,
                "warmup_steps": round(settings.warmup_ratio * steps),
                "disable_tqdm": True,
            },
        )
        trainer.remove_callback(StalledCallback)  # too short to judge
        train(trainer, (), [])
    outputs = forward_rows(model, longest_first(tokens["validation"]), collate(prepared.tokenizer))
    found = outputs.scores(model)
    del trainer, model
    gc.collect()
    return found


def _model(datas: Sequence[TaskData], pilot: Pilot, max_length: int) -> MultiTaskModel:
    """A model of these tasks with uniform adapters of the run's size, on a backbone of its own."""
    backbone, _ = load_backbone(pilot.model)
    set_seed(pilot.seed)
    heads = [data.head for data in datas]
    budget = DEFAULT_BUDGET if pilot.graft.budget is None else pilot.graft.budget
    graft = dataclasses.replace(
        pilot.graft, structure="uniform", budget=budget, penalty=None, task_budget=None, groups=None
    )
    values = graft_values([head.name for head in heads], graft, start_seed=pilot.seed)
    with quiet_peft():
        adapted = get_peft_model(backbone, GraftConfig(**values))
    try:
        set_fixed_structure_(adapted, "uniform", seed=pilot.seed)
    except (
        StructureError
    ):  # the budget does not reach for every site, but the smallest that does tells as much
        one = structure_of(adapted).to_dict()
        for site in one["sites"].values():
            site["open"] = [[place == 0 for place in range(site["pool_size"])] for _ in heads]
        set_structure_(adapted, Structure.from_dict(one))
    return MultiTaskModel(adapted, heads, pooling=pilot.training.pooling, max_length=max_length)


class _Steps(TrainerCallback):
    """Tells every step."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance = advance

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell."""
        self.advance(1)
