"""The sections of a recipe: every default, and as docstrings the help of the command line."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from graftwork.data.images.augmentation import augmentation_faults
from graftwork.errors import ConfigError, RecipeError
from graftwork.files.later import LATER, later
from graftwork.messages import shown
from graftwork.recipe.shares import SHARE
from graftwork.structure.fixed import FIXED_STRUCTURES, check_fixed_structure
from graftwork.tuner.config_checks import TRUNKS

__all__ = ["TRACKERS", "GraftSettings", "TrainingSettings"]

TRACKERS = (
    "azure_ml",
    "clearml",
    "codecarbon",
    "comet_ml",
    "dagshub",
    "dvclive",
    "flyte",
    "kubeflow",
    "mlflow",
    "neptune",
    "swanlab",
    "tensorboard",
    "trackio",
    "wandb",
)
"""Transformers' trackers, by name: asking it would import it."""


@dataclass(frozen=True)
class GraftSettings:
    """The adapter pool, its gates and its sites: the settings of `GraftConfig` that a recipe may choose."""

    pool_size: int = 32
    """K: adapters on offer at every site."""
    r: int = 1
    """Rank (bottleneck width) of one adapter."""
    scale: float | Literal["auto"] = field(default="auto", metadata=later(before=1.0))
    """Factor of the sum over the open adapters of a site; auto: one for which the same learning rate suits
    pools of any size and rank."""
    activation: Literal["gelu", "relu", "silu", "tanh", "identity"] = "identity"
    """Nonlinearity of an adapter; with identity it merges into a linear map, as LoRA does."""
    position: Literal["sequential", "parallel"] = "parallel"
    """Sequential adapters read the output of their site, parallel ones its input."""
    gates: Literal["auto", "importance", "hard_concrete", "sigmoid", "gumbel", "shifted_sigmoid", "fixed"] = (
        "auto"
    )
    """Gate family: importance (sensitivity instead of learned gates), hard_concrete, sigmoid, gumbel,
    shifted_sigmoid or fixed; auto: importance, with a penalty hard_concrete. importance and shifted_sigmoid
    need a budget, not a penalty. experimental: gumbel, shifted_sigmoid."""
    gate_start: Literal["auto", "shared", "random", "private", "grouped"] = field(
        default="auto", metadata=LATER
    )
    """`shared`: every gate starts open. `random`: one in two, drawn with the seed of the run; the others
    start nearly closed, and may open (with importance they stay closed). `private`: likewise every adapter
    starts as that of one task, in turn. `grouped`: as that of one group of tasks whose inputs look alike to
    the backbone. `auto`: random with importance and a pool_size of at least 16, else shared.
    experimental: private, grouped."""
    groups: tuple[tuple[str, ...], ...] | None = field(default=None, metadata=LATER)
    """The groups of gate_start: grouped and of structure: grouped_paths, as lists of task names; null: found
    from the rows."""
    path_threshold: float = field(default=0.05, metadata=LATER)
    """With importance: a task uses a stored adapter if its importance there is at least this part of the
    most important task's, above 0 and below 1. Low: tasks share; high: they part."""
    budget: float | None = field(default=None, metadata=SHARE)
    """Stored adapter parameters as a fraction of the backbone's: `0.3%` or 0.003; from a tenth on only with
    the sign (`20%`). Without `budget` and `penalty`, learnable gates get 0.3%."""
    penalty: float | None = None
    """lambda: weight of the expected size in the loss, instead of a budget."""
    penalty_reduction: Literal["mean", "sum"] = "mean"
    """Size as a fraction of the pool (mean) or in adapters (sum, the paper's)."""
    rank_by: Literal["prob_open", "strength", "product"] = field(default="prob_open", metadata=LATER)
    """experimental: what the budget keeps first: by P(open), ties by the strength of the weights (the
    default); by strength alone; or by their product."""
    task_budget: float | None = field(default=None, metadata=LATER | SHARE)
    """experimental: adapter parameters that one task may use: a fraction of the backbone's (`0.1%` or 0.001),
    or a count from 1 on."""
    trunk: int | None = field(default=None, metadata=LATER)
    """Layers, from the first on, in which all tasks share their adapters, so that many tasks on one text are
    carried through them once; excludes trunk_budget."""
    trunk_budget: float | None = field(default=None, metadata=LATER)
    """What all tasks on one text may cost, in passes of one task: from 1 (all share all adapters) to the
    number of tasks. The search chooses where they part."""
    cost: str | dict[str, float] = field(default="parameters", metadata=LATER)
    """experimental: what budgets count: `parameters` (the default); `flops` per token, of which a budget is a
    fraction of the backbone's linear maps; or the cost of one adapter at every site, as a mapping or
    `file:TABLE.json`, of which a budget is a fraction of the whole pool."""
    structure: str | None = field(default=None, metadata=LATER)
    """A structure instead of a search: random, random_paths, uniform, top_layers, shared_path, private_paths,
    grouped_paths, half_shared, `file:PATH` (of another run) or `task:NAME:PATH` (all tasks take the path of
    one task of that run). experimental: `file:PATH` to train what a search found from scratch."""
    placement: Literal["attention+ffn", "ffn", "attention", "block", "linear"] = "linear"
    """Sites by name; linear: all linear maps of the layers. `target_modules` overrides it."""
    target_modules: str | tuple[str, ...] | None = None
    """Sites as in PEFT: name suffixes, or one regular expression."""
    exclude_modules: str | tuple[str, ...] | None = None
    """Modules never to be a site: names, or one regular expression."""
    layers_to_transform: int | tuple[int, ...] | None = None
    """Only sites in the layers with these indices."""

    def __post_init__(self) -> None:
        """Check what only a recipe demands; `GraftConfig` checks the rest.

        Raises:
            RecipeError: the budget is no fraction, or the structure cannot be.
        """
        if self.budget is not None and not 0 < self.budget < 1:
            raise RecipeError(
                f"graft.budget={self.budget!r} must be above 0 and below 1: stored adapter parameters "
                "as a fraction of the backbone's, such as 0.3% or 0.003"
            )
        if self.structure is not None:
            self._check_structure(self.structure)

    def _check_structure(self, structure: str) -> None:
        try:
            check_fixed_structure(structure)
        except ConfigError as error:
            raise RecipeError(f"graft.{str(error).rstrip('.')}") from None
        given = [name for name in TRUNKS if getattr(self, name) is not None]
        if given:
            raise RecipeError(
                f"graft.structure={shown(structure)} leaves nothing to choose for "
                f"graft.{given[0]}={getattr(self, given[0]):g}; give one of them"
            )
        if self.penalty is not None:
            raise RecipeError(
                f"graft.structure={shown(structure)} leaves nothing to learn for "
                f"graft.penalty={self.penalty:g}; give one of them"
            )
        if structure in FIXED_STRUCTURES and self.budget is None:
            raise RecipeError(
                f"graft.structure={shown(structure)} needs graft.budget, to be of the size of what it is "
                "compared with"
            )


@dataclass(frozen=True)
class TrainingSettings:
    """The training loop."""

    epochs: float | None = None
    """Passes over all training rows; null: 4, or as many as make min_steps, ended by patience."""
    min_steps: int | None = field(default=None, metadata=LATER)
    """Optimizer steps at least, for which epochs are added; null: 300 if epochs is not given, for an added
    task as many as ten passes take, from 100 to 300; else none."""
    patience: int | None = field(default=None, metadata=LATER)
    """Evaluations without a better mean validation score after which the training ends, counted from the
    decision of the structure; 0: never; null: 3 if epochs is not given, else never."""
    batch_size: int = 32
    """Rows of a batch, mixed over the tasks; several processes share them."""
    learning_rate: float = 3e-3
    """Peak learning rate of the adapters and their gates."""
    head_learning_rate: float | None = None
    """Peak learning rate of the heads; null: that of the adapters."""
    weight_decay: float = 0.01
    """Decoupled weight decay of the adapters and heads."""
    warmup_ratio: float = 0.06
    """Fraction of the steps in which the learning rate rises."""
    max_grad_norm: float = 1.0
    """Gradient norm above which gradients are clipped; 0: never."""
    max_length: int = 128
    """Tokens of a row; longer ones are cut."""
    temperature: float = 1.0
    """A task with n rows is drawn in proportion to n^(1/temperature): 1 by size, large ones evenly."""
    gradient_accumulation: int = 1
    """Batches per optimizer step."""
    eval_steps: int | None = None
    """Optimizer steps between evaluations, each with a checkpoint; null: once per epoch, or where epochs is
    not given and there are many, once per some of them."""
    bf16: bool = False
    """Mixed precision in bfloat16; many times slower on a CPU without instructions for it."""
    pooling: Literal["mean", "cls", "last"] = "mean"
    """How the tokens of a row become its vector for the heads."""
    loss: Literal["row", "token"] = field(default="row", metadata=LATER)
    """generation, choice: the loss of a batch is a mean over rows, each the mean over its answer's tokens, or
    over all these tokens, so that long answers weigh more."""
    image_size: int | None = field(default=None, metadata=LATER)
    """Pixels of a side of an image, for tasks that read images; null: those of the backbone's image
    processor."""
    augment: dict[str, float] = field(default_factory=dict, hash=False, metadata=LATER)
    """Random changes of training images: flip (probability), crop (smallest part of the area that is kept),
    rotate (largest angle, in degrees), colour (largest change of brightness, contrast and saturation)."""
    report_to: str | tuple[str, ...] = "none"
    """Where curves are logged: none, all that is installed, or names of Transformers' trackers such as
    tensorboard, wandb, mlflow."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            RecipeError: names every setting that is out of range.
        """
        above_zero = ("epochs", "learning_rate", "head_learning_rate", "temperature")
        at_least_zero = ("weight_decay", "max_grad_norm", "min_steps", "patience")
        at_least_one = ("batch_size", "max_length", "gradient_accumulation", "eval_steps", "image_size")
        checks: list[tuple[tuple[str, ...], str, Callable[[float], bool]]] = [
            (above_zero, "above 0", lambda value: value > 0),
            (at_least_zero, "at least 0", lambda value: value >= 0),
            (at_least_one, "at least 1", lambda value: value >= 1),
            (("warmup_ratio",), "between 0 and 1", lambda value: 0 <= value <= 1),
        ]
        faults = [
            f"training.{name}={value!r} must be {allowed}"
            for names, allowed, right in checks
            for name, value in ((name, getattr(self, name)) for name in names)
            if value is not None and not (math.isfinite(value) and right(value))
        ]
        faults += _unknown_trackers(self.report_to)
        faults += augmentation_faults(self.augment, "training.augment")
        if faults:
            raise RecipeError("; ".join(faults))


def _unknown_trackers(report_to: str | tuple[str, ...]) -> list[str]:
    """A fault for names that Transformers does not know; what is not installed shows when it is used."""
    names = [report_to] if isinstance(report_to, str) else list(report_to)
    if names in (["none"], ["all"], []):
        return []
    return [
        f"training.report_to={shown(name)} must be none, all, or among {', '.join(TRACKERS)}"
        for name in dict.fromkeys(names)
        if name not in TRACKERS
    ][:3]
