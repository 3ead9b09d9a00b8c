"""What every training run shares, whatever adapts the backbone: its data, their baselines and scores."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import Trainer

from graftwork.data.images.reader import ImageReader
from graftwork.data.pairs.negatives import negative_notes
from graftwork.data.splits import load_task
from graftwork.data.targets.words import tags_of_rows, word_notes
from graftwork.data.task_data import TaskData
from graftwork.data.tokens import longest_first
from graftwork.distributed.processes import main_first, on_main
from graftwork.errors import RecipeError
from graftwork.kinds.registry import KINDS
from graftwork.kinds.scores import majority_score, per_task_scores, settled_heads
from graftwork.models.backbone import load_backbone
from graftwork.models.causal.scoring import constant_score, written_rows
from graftwork.models.first_pass import hidden_part
from graftwork.models.identity import CACHE
from graftwork.models.outputs import RowSample
from graftwork.models.pooling import Embedder, Pooling, embed
from graftwork.models.probe import linear_probe
from graftwork.noise.applying import damage_tasks
from graftwork.preflight.neighbours import check_neighbours
from graftwork.preflight.positions import fitting_lengths
from graftwork.preflight.preflight import check_size, fitting_tokens, preflight
from graftwork.search.grouping import ROWS, group_tasks, input_distances
from graftwork.texts.scores import check_packages
from graftwork.training.answering.frozen import frozen_scores

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from graftwork.data.images.reader import InputReader
    from graftwork.data.task import Task
    from graftwork.data.task_data import Split
    from graftwork.kinds.heads import TaskHead
    from graftwork.kinds.linear_heads import TaskHeads
    from graftwork.models.multitask import MultiTaskModel
    from graftwork.noise.kinds import Noise
    from graftwork.recipe.settings import TrainingSettings

__all__ = [
    "Grouping",
    "Prepared",
    "baselines",
    "cache_folder",
    "find_groups",
    "prepare",
    "probe_texts",
    "split_scores",
]


@dataclass
class Prepared:
    """Everything a run needs before its first step, but for what adapts the backbone."""

    name: str
    """Of the backbone, as it was given."""
    backbone: PreTrainedModel
    tokenizer: InputReader
    """The tokenizer, or the reader of images."""
    clean: list[TaskData]
    """The tasks before any noise."""
    datas: list[TaskData]
    """The tasks as they are trained on."""
    noise: list[dict[str, Any]]
    """What noise is in the rows: a report per task and noise."""
    tokens: dict[str, Dataset]
    """The rows of all tasks, by split."""
    max_length: int
    """Tokens of a row: what was asked for, or all that the backbone has positions for."""
    notes: list[str]
    """What the user should know."""
    most_written: dict[str, int | None] = field(default_factory=dict)
    """Rows of every task whose answers are written for a score, if the recipe says so."""

    @property
    def causal(self) -> bool:
        """Whether the backbone is a language model with its head."""
        return bool(self.backbone.can_generate())

    @property
    def names(self) -> list[str]:
        """Of the tasks."""
        return [data.head.name for data in self.datas]

    @property
    def rows(self) -> int:
        """Training rows of all tasks together."""
        return len(self.tokens["train"])

    def told(self, settings: TrainingSettings) -> list[str]:
        """What the user should know of the rows, and of the batches that a training loop makes of them."""
        batches = ("batch_size", "temperature", "gradient_accumulation")
        known = {name: getattr(settings, name) for name in batches}
        return [*self.notes, *negative_notes(self.datas, **known)]

    def embedder(self, pooling: Pooling, advance: Callable[[int], None] = lambda count: None) -> Embedder:
        """Texts to vectors of the backbone as it is when called, shape [texts, d]; see `embed`."""
        return functools.partial(
            embed,
            hidden_part(self.backbone),
            self.tokenizer,
            max_length=self.max_length,
            pooling="last" if self.causal else pooling,
            advance=advance,
        )

    def frozen_scores(self, advance: Callable[[int], object]) -> dict[str, dict[str, float]]:
        """Test scores of the frozen backbone's own answers (`graftwork.training.answering.frozen`)."""
        return frozen_scores(
            self.backbone,
            self.tokenizer,
            self.datas,
            most=self.most_written,
            folder=cache_folder(),
            advance=advance,
        )

    def preflight(self, model: MultiTaskModel) -> list[str]:
        """Pass a few rows through the model that will be trained; notes on what can never learn.

        Raises:
            TrainingError: the rows cannot be passed through, or their loss is not finite.
            SiteError: no adapter at all would learn.
        """
        return preflight(model, self.tokens, self.tokenizer)


def prepare(
    model: str,
    tasks: Sequence[Task],
    noise: Sequence[Noise] = (),
    seed: int = 0,
    *,
    max_length: int,
    image_size: int | None = None,
    loaded: tuple[PreTrainedModel, InputReader] | None = None,
    heads: Mapping[str, TaskHead] | None = None,
    at: Callable[[str], None] = lambda doing: None,
) -> Prepared:
    """Load the tasks, put noise into their rows, load the backbone, and tokenise.

    Args:
        model: hub id, folder, or `package:NAME/sub/folder`.
        tasks: what to train on.
        noise: what is meant for data is put into the rows; what is meant for a model changes nothing here.
        seed: of the splits and sub-samples that are drawn.
        max_length: tokens of a row; no more are used than the backbone has positions for.
        image_size: pixels of a side of an image, if not those of the image processor.
        loaded: backbone and tokenizer of a model that was trained before, in place of those of `model`.
        heads: trained heads by task, whose classes and scales are kept.
        at: told in words what is done from now on.

    Raises:
        DataError: a task cannot be read.
        RecipeError: the backbone cannot be loaded, or its outputs for a row depend on the rows beside it.
    """
    reads = tasks[0].reads
    if loaded is not None:
        _check_reads(tasks, loaded[1])
    clean = []
    for task in tasks:
        check_packages(str(task.metric))
    for task in tasks:
        at(f"reading task {task.name}")
        clean.append(load_task(task, seed, (heads or {}).get(task.name)))
    datas, reports = damage_tasks(clean, noise)
    if loaded is None:
        at("loading the backbone")
        backbone, tokenizer = load_backbone(model, reads, causal=any(data.head.written for data in datas))
        if not isinstance(tokenizer, ImageReader):  # images are all of one size, without padding
            check_neighbours(hidden_part(backbone), tokenizer, model, max_length)
    else:  # its rows were checked when it was trained
        backbone, tokenizer = loaded
    if isinstance(tokenizer, ImageReader):
        tokenizer = tokenizer.sized(image_size)
        check_size(tokenizer, backbone, model)
    else:
        clean, datas = (fitting_lengths(some, backbone, tokenizer) for some in (clean, datas))
    at("tokenising")
    # The main process makes the cache, the others find it.
    found = main_first(lambda: fitting_tokens(datas, backbone, tokenizer, max_length, cache_folder()))
    words = (
        []
        if isinstance(tokenizer, ImageReader)
        else [note for data in datas for note in word_notes(tokenizer, data, found.max_length)]
    )
    return Prepared(
        name=model,
        backbone=backbone,
        tokenizer=tokenizer,
        clean=clean,
        datas=datas,
        noise=reports,
        tokens=found.splits,
        max_length=found.max_length,
        notes=[*found.notes, *words],
        most_written={task.name: task.max_generate for task in tasks},
    )


def _check_reads(tasks: Sequence[Task], reader: InputReader) -> None:
    """Refuse tasks that the model which is trained further cannot read.

    Raises:
        RecipeError: there is one.
    """
    images = isinstance(reader, ImageReader)
    for task in tasks:
        if (task.reads == "image") != images:
            model = "images" if images else "texts"
            raise RecipeError(
                f"task {task.name!r} reads {task.reads}s, but the model {model}; a model reads one of them."
            )


def baselines(
    prepared: Prepared,
    pooling: Pooling,
    advance: Callable[[], None] = lambda: None,
    *,
    texts: Callable[[int], None] = lambda count: None,
    probe: bool = True,
) -> dict[str, dict[str, float]]:
    """Test scores of every task without any training: the majority class, and a linear probe.

    Args:
        prepared: with the backbone frozen, its adapters disabled.
        pooling: how the vectors of a row's tokens become one.
        advance: called after every task.
        texts: told how many texts were embedded since the last time (`probe_texts` has their number).
        probe: fit the linear probes, too.

    Returns:
        Task -> `{"majority", "linear_probe"}`, or only the first of them; of tasks that the language model
        itself answers `{"majority", "zero_shot", "few_shot"}`: the most frequent train answer for every row,
        what the frozen model answers to the same prompts, and behind three train rows with their answers. Of
        tasks that compare texts `{"chance", "frozen_cosine"}`: a random order, and that of frozen vectors.
    """
    embedder = prepared.embedder(pooling, texts)
    found = prepared.frozen_scores(texts) if probe else {}
    for data in prepared.datas:
        if data.head.written:
            found.setdefault(data.head.name, {})["majority"] = constant_score(data)
            advance()
            continue
        train, validation, test = (data.splits[name] for name in ("train", "validation", "test"))
        constant = [_compared(prepared, data, split) for split in (train, test)]
        guess, fitted = ("chance", "frozen_cosine") if data.head.compared else ("majority", "linear_probe")
        own = {guess: majority_score(data.head, *constant)}
        if probe:
            own[fitted] = linear_probe(data.head, train, validation, test, embedder)
        found[data.head.name] = own
        advance()
    return found


def _compared(prepared: Prepared, data: TaskData, split: Split) -> NDArray[Any]:
    """Targets from which a constant guess is made: of tokens the tags of the words."""
    if KINDS[data.head.kind].per != "token":
        return split.targets
    assert not isinstance(prepared.tokenizer, ImageReader)
    return tags_of_rows(prepared.tokenizer, data.head, split, prepared.max_length)


def probe_texts(prepared: Prepared) -> int:
    """How many texts the probes of all tasks embed, and how many the frozen model answers, each twice."""
    return sum(
        2 * len(written_rows(data, "test", prepared.most_written.get(data.head.name)))
        if data.head.written
        else sum(
            len(column)
            for name, split in data.splits.items()
            for column in split.texts
            if name == "test" or not data.head.compared  # of which nothing is fitted
        )
        for data in prepared.datas
    )


@dataclass(frozen=True)
class Grouping:
    """Which tasks share adapters from the start, and the distances between their inputs that say so."""

    groups: list[list[str]]
    distances: list[list[float]]

    def as_dict(self) -> dict[str, Any]:
        """For reports."""
        rounded = [[round(value, 4) for value in row] for row in self.distances]
        return {"groups": self.groups, "distances": rounded}


def find_groups(prepared: Prepared, seed: int) -> Grouping:
    """Group the tasks by a few of their training rows, on the main process.

    Args:
        prepared: with the backbone as it was loaded.
        seed: of the choice of rows.

    Raises:
        DataError: a task has fewer than two rows.
    """
    names = prepared.names

    def work() -> Grouping:
        sample = RowSample(prepared.tokens["train"], prepared.tokenizer, most=ROWS * len(names), seed=seed)
        distances = input_distances(hidden_part(prepared.backbone), sample.batches(), names)
        return Grouping(group_tasks(distances, names), distances.tolist())

    return on_main(work)


def split_scores(trainer: Trainer, tokens: Dataset, split: str, tasks: Sequence[str]) -> dict[str, float]:
    """Score of every task on one split, by the trainer's model as it is now; rows go in order of length.

    Before validation is scored, heads choose on it what their kinds leave until then, such as thresholds.
    """
    found = trainer.predict(longest_first(tokens), metric_key_prefix=split)
    metrics: dict[str, float] = found.metrics or {}
    if split == "validation":
        heads: TaskHeads = trainer.model.heads  # type: ignore[union-attr, assignment]
        both: Any = found.label_ids
        labels, rows = both
        outputs: Any = found.predictions
        settled = settled_heads(heads.heads, outputs, labels, rows)
        if settled != heads.heads:
            heads.heads = settled
            return per_task_scores(outputs, labels, rows, settled)
    return {name: float(metrics[f"{split}_{name}"]) for name in tasks}


def cache_folder() -> Path | None:
    """Where tokenised data are kept; None for a user without a home."""
    try:
        return CACHE.expanduser()
    except RuntimeError:
        return None
