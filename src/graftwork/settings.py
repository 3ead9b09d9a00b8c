"""The sections of a recipe: every default, and as docstrings the help of the command line."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from graftwork.errors import RecipeError

__all__ = ["GraftSettings", "Training"]


@dataclass(frozen=True)
class GraftSettings:
    """The adapter pool, its gates and its sites: the settings of `GraftConfig` that a recipe may choose."""

    pool_size: int = 4
    """K: adapters on offer at every site."""
    r: int = 8
    """Rank (bottleneck width) of one adapter."""
    activation: Literal["gelu", "relu", "silu", "tanh", "identity"] = "gelu"
    """Nonlinearity of an adapter."""
    position: Literal["sequential", "parallel"] = "sequential"
    """Sequential adapters read the output of their site, parallel ones its input."""
    gates: Literal["hard_concrete", "sigmoid", "fixed"] = "hard_concrete"
    """Gate family."""
    budget: float | None = None
    """Stored adapter parameters as a fraction of the backbone's, above 0 and below 1. Without `budget` and
    `penalty`, learnable gates get 0.003."""
    penalty: float | None = None
    """lambda: weight of the expected size in the loss, instead of a budget."""
    penalty_reduction: Literal["mean", "sum"] = "mean"
    """Size as a fraction of the pool (mean) or in adapters (sum, the paper's)."""
    placement: Literal["attention+ffn", "ffn", "attention", "block"] = "attention+ffn"
    """Sites by name. `target_modules` overrides it."""
    target_modules: str | tuple[str, ...] | None = None
    """Sites as in PEFT: name suffixes, or one regular expression."""
    exclude_modules: str | tuple[str, ...] | None = None
    """Modules never to be a site: names, or one regular expression."""
    layers_to_transform: int | tuple[int, ...] | None = None
    """Only sites in the layers with these indices."""

    def __post_init__(self) -> None:
        """Check what only a recipe demands; `GraftConfig` checks the rest.

        Raises:
            RecipeError: the budget is no fraction.
        """
        if self.budget is not None and not 0 < self.budget < 1:
            raise RecipeError(
                f"graft.budget={self.budget!r} must be above 0 and below 1: stored adapter parameters "
                "as a fraction of the backbone's, such as 0.003"
            )


@dataclass(frozen=True)
class Training:
    """The training loop."""

    epochs: float = 4.0
    """Passes over all training rows."""
    batch_size: int = 32
    """Rows of a batch, mixed over the tasks."""
    learning_rate: float = 1e-3
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
    """Optimizer steps between evaluations, each with a checkpoint; null: once per epoch."""
    bf16: bool = False
    """Mixed precision in bfloat16."""
    pooling: Literal["mean", "cls", "last"] = "mean"
    """How the tokens of a row become its vector for the heads."""
    report_to: Literal["none", "tensorboard", "wandb", "mlflow"] = "none"
    """Where curves are logged."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            RecipeError: names every setting that is out of range.
        """
        above_zero = ("epochs", "learning_rate", "head_learning_rate", "temperature")
        at_least_zero = ("weight_decay", "max_grad_norm")
        at_least_one = ("batch_size", "max_length", "gradient_accumulation", "eval_steps")
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
        if faults:
            raise RecipeError("; ".join(faults))
