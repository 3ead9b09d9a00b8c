"""The two calls that apply a `Noise`: to a task's rows, and to a model.

Both calls can be made for any noise: noise in data leaves models as they are, and noise in models data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from graftwork.data.task_data import TaskData
from graftwork.errors import ConfigError
from graftwork.kinds.registry import KINDS
from graftwork.noise.kinds import Noise, NoiseReport
from graftwork.noise.model import Realised, embedding_noise, path_noise, weight_noise
from graftwork.noise.rows import damage_split

__all__ = ["apply_to_task", "damage_tasks", "model_noise", "noisy_model"]


def apply_to_task(data: TaskData, noise: Noise) -> tuple[TaskData, NoiseReport]:
    """Put noise into the texts, labels or rows of a task.

    Every choice is made by a hash of the row itself, so it does not depend on the order of the rows, and a
    text that occurs twice is damaged in the same way. Of a pair, both texts are damaged. A larger ratio
    changes the labels, and leaves out the rows, that a smaller one does, and more. `data` is not changed.

    The realised ratio is measured: `edits / characters` (CER) or `words changed / words` for texts,
    `labels changed / rows`, `rows left out / rows`.

    Args:
        data: a loaded task, perhaps without some of its splits.
        noise: noise in a model, or of ratio 0, leaves the data as they are.

    Returns:
        The noisy task and the measured noise. The splits have new hashes; a regression that lost rows has
        a new scale.

    Raises:
        ConfigError: a package of `graftwork[noise]` is not installed.
        DataError: too few training rows or classes are left.

    Example:
        >>> from graftwork.data.splits import load_task
        >>> from graftwork.noise import Noise, apply_to_task
        >>> data = load_task(gw.Task("colour", "data/colour"))
        >>> noisy, report = apply_to_task(data, Noise("labels", 0.25))
        >>> changed = data.splits["train"].targets != noisy.splits["train"].targets
        >>> int(changed.sum()), report.items["train"], report.realised["train"]
        (24, 96, 0.25)
    """
    if noise.target == "model":
        return data, NoiseReport(noise, {}, {})
    damaged = {
        name: damage_split(data, name, noise.kind, noise.ratio, noise.seed)
        for name in noise.splits
        if name in data.splits
    }
    report = NoiseReport(
        noise,
        {name: part.realised for name, part in damaged.items()},
        {name: part.items for name, part in damaged.items()},
        {name: part.words for name, part in damaged.items() if noise.target == "text"},
    )
    if noise.ratio == 0:
        return data, report
    splits = {**data.splits, **{name: part.split for name, part in damaged.items()}}
    head = data.head
    if noise.kind == "row_drop" and "train" in splits:
        mean, std = KINDS[head.kind].scale(splits["train"].targets)
        head = dataclasses.replace(head, mean=mean, std=std)
    return TaskData(head, splits), report


@dataclass(frozen=True)
class Measure:
    """Noise in a model; called, it says how much there was so far."""

    noise: Noise
    stage: str = ""
    realised: Realised | None = None
    """None: the noise concerns another stage, or no model."""

    def __call__(self) -> NoiseReport:
        """What was measured so far."""
        if self.realised is None:
            return NoiseReport(self.noise, {}, {})
        return NoiseReport(self.noise, {self.stage: self.realised.ratio}, {self.stage: self.realised.items})


@contextmanager
def model_noise(model: nn.Module, noise: Noise, stage: Literal["train", "test"]) -> Iterator[Measure]:
    """Put noise into a model while the context is open; `stage` says what happens inside.

    Around training, `train` noise is in passes in training mode only, so that the validation stays clean, and
    `both` is in all passes. Around testing, `test` and `both` noise are in all passes. On exit the model is
    the same to the bit, except what was trained.

    The realised ratio is `RMS(noise) / RMS(what it is added to)` for embeddings and weights, and
    `paths changed / open paths` for paths.

    Args:
        model: for embeddings a Transformers model, else a model with a graft adapter, at any depth.
        noise: noise in data, or of another stage, changes nothing.
        stage: what happens inside the context.

    Yields:
        What returns the noise measured so far when it is called, which it may be after the context, too.

    Raises:
        ConfigError: the model has no input embeddings or no graft adapter, or the stage is unknown.

    Example:
        >>> from graftwork.noise import Noise, model_noise
        >>> from graftwork.models.folder import load_model
        >>> model, tokenizer = load_model("runs/colours")
        >>> with model_noise(model, Noise("weights", 0.1), "test") as report:
        ...     pass  # evaluate the model
        >>> round(report().realised["test"], 2)
        0.1
    """
    if stage not in ("train", "test"):
        raise ConfigError(f"stage={stage!r} must be 'train' or 'test'.")
    if noise.target != "model" or noise.when not in (stage, "both"):
        yield Measure(noise)
        return
    with _CONTEXTS[noise.kind](model, noise, stage == "train" and noise.when == "train") as realised:
        yield Measure(noise, stage, realised)


_CONTEXTS: dict[str, Callable[[nn.Module, Noise, bool], AbstractContextManager[Realised]]] = {
    "embeddings": lambda model, noise, training_only: embedding_noise(
        model, noise.ratio, noise.seed, training_only=training_only
    ),
    "path_drop": lambda model, noise, training_only: path_noise(
        model, noise.ratio, noise.seed, training_only=training_only
    ),
    "path_redraw": lambda model, noise, training_only: path_noise(
        model, noise.ratio, noise.seed, redraw=True, training_only=training_only
    ),
    "weights": lambda model, noise, _: weight_noise(model, noise.ratio, noise.seed),
}


def damage_tasks(
    datas: Sequence[TaskData], noises: Sequence[Noise]
) -> tuple[list[TaskData], list[dict[str, Any]]]:
    """Put all noise that concerns data into some tasks, one after the other.

    Returns:
        The noisy tasks, and one report per task and noise as JSON types.

    Args:
        datas: loaded tasks; they are not changed.
        noises: applied in this order; noise in a model changes nothing here.

    Raises:
        ConfigError: a package of `graftwork[noise]` is not installed.
        DataError: too few training rows or classes are left.

    Example:
        >>> from graftwork.data.splits import load_task
        >>> from graftwork.noise import Noise, damage_tasks
        >>> data = load_task(gw.Task("colour", "data/colour"))
        >>> (noisy,), reports = damage_tasks([data], [Noise("row_drop", 0.5), Noise("weights", 0.1)])
        >>> len(noisy.splits["train"]), len(data.splits["train"]), [report["kind"] for report in reports]
        (48, 96, ['row_drop'])
    """
    damaged, reports = [], []
    for data in datas:
        for noise in noises:
            data, report = apply_to_task(data, noise)
            if noise.target != "model":
                reports.append({"task": data.head.name, **report.as_dict()})
        damaged.append(data)
    return damaged, reports


@contextmanager
def noisy_model(
    model: nn.Module, noises: Sequence[Noise], stage: Literal["train", "test"], reports: list[dict[str, Any]]
) -> Iterator[list[Measure]]:
    """Put all noise that concerns a model into it, and append what was measured when the context ends.

    Args:
        model: as for `model_noise`.
        noises: noise in data, or of another stage, changes nothing.
        stage: what happens inside the context.
        reports: one report as JSON types is appended per noise, when the context ends.

    Raises:
        ConfigError: as `model_noise`.

    Example:
        >>> from graftwork.noise import Noise, noisy_model
        >>> reports = []
        >>> with noisy_model(backbone, [Noise("embeddings", 0.2), Noise("labels", 0.1)], "test", reports):
        ...     hidden = backbone(**tokens).last_hidden_state
        >>> [(report["kind"], round(report["realised"]["test"], 1)) for report in reports]
        [('embeddings', 0.2)]
    """
    with ExitStack() as stack:
        measured = [
            stack.enter_context(model_noise(model, noise, stage))
            for noise in noises
            if noise.target == "model" and noise.when in (stage, "both")
        ]
        try:
            yield measured
        finally:
            reports += [report().as_dict() for report in measured]
