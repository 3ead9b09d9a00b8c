"""`GraftConfig`: what a graft model looks like. Training settings live in `StructureCallback`."""

from __future__ import annotations

import difflib
import math
import numbers
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig

from graftwork.errors import ConfigError
from graftwork.gates import gate_family
from graftwork.peft_type import GRAFT
from graftwork.pool import ACTIVATIONS

__all__ = ["PLACEMENTS", "POSITIONS", "GraftConfig"]

PLACEMENTS = ("attention+ffn", "ffn", "attention", "block")
POSITIONS = ("sequential", "parallel")
REDUCTIONS = ("mean", "sum")
DEFAULT_BUDGET = 0.003


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{name}={value!r} is not known{hint} Allowed: {', '.join(allowed)}.")


def _positive_int(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name}={value!r} must be a whole number of at least 1.")


@dataclass
class GraftConfig(PeftConfig):
    """Settings of a graft model: tasks, adapter pool, gates, sparsity control and sites.

    Raises:
        ConfigError: a value is out of range, or `budget` and `penalty` are both given.
    """

    tasks: list[str] = field(
        default_factory=lambda: ["default"],
        metadata={"help": "Names of the tasks, in the order of the rows of every gate table."},
    )
    pool_size: int = field(default=4, metadata={"help": "K: adapters on offer at every site."})
    r: int = field(default=8, metadata={"help": "Rank (bottleneck width) of one adapter."})
    activation: str = field(
        default="gelu", metadata={"help": "Nonlinearity f: gelu, relu, silu, tanh, identity."}
    )
    position: str = field(
        default="sequential",
        metadata={"help": "`sequential` adapters read the output of the site, `parallel` ones its input."},
    )
    gates: str = field(
        default="hard_concrete", metadata={"help": "Gate family: `hard_concrete`, `sigmoid` or `fixed`."}
    )
    budget: float | None = field(
        default=None,
        metadata={
            "help": "Stored adapter parameters, as a fraction of the backbone's if below 1, else as a count. "
            f"Without `budget` and `penalty`, learnable gates get {DEFAULT_BUDGET}."
        },
    )
    penalty: float | None = field(
        default=None,
        metadata={"help": "lambda: weight of the expected size in the loss, instead of a budget."},
    )
    penalty_reduction: str = field(
        default="mean",
        metadata={
            "help": "`mean`: expected size as a fraction of the pool. `sum`: in adapters, the paper's "
            "`lambda * sum sigma(a)`."
        },
    )
    placement: str = field(
        default="attention+ffn",
        metadata={"help": f"Sites by name, one of {PLACEMENTS}. `target_modules` overrides it."},
    )
    target_modules: list[str] | set[str] | str | None = field(
        default=None,
        metadata={"help": "Sites as in PEFT: name suffixes, one regular expression, or `all-linear`."},
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Modules never to be a site: names or a regular expression."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Only sites in the layers with these indices."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Name of the module list that holds the layers, if it is unusual."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Further modules to train and save whole, such as a classifier."}
    )
    init_weights: bool = field(
        default=True, metadata={"help": "True: W_up starts at zero, so the model starts as its backbone."}
    )
    structure: dict[str, Any] | None = field(
        default=None, metadata={"help": "The final structure, written by `compact_`; do not set it by hand."}
    )

    def __post_init__(self) -> None:
        """Validate every field once."""
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = GRAFT
        # What `target_modules` or `placement` came to in the model at hand: no field, so it is never saved.
        self.resolved_sites: frozenset[str] = frozenset()
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        self._check_tasks()
        _positive_int("pool_size", self.pool_size)
        _positive_int("r", self.r)
        _choice("activation", self.activation, tuple(ACTIVATIONS))
        _choice("position", self.position, POSITIONS)
        _choice("placement", self.placement, PLACEMENTS)
        _choice("penalty_reduction", self.penalty_reduction, REDUCTIONS)
        self._check_sparsity()

    def _check_tasks(self) -> None:
        if isinstance(self.tasks, str) or not self.tasks:
            raise ConfigError(f"tasks={self.tasks!r} must be a list of at least one task name.")
        self.tasks = list(self.tasks)
        for name in self.tasks:
            if not isinstance(name, str) or not name:
                raise ConfigError(f"task name {name!r} must be a non-empty string.")
        repeated = sorted({name for name in self.tasks if self.tasks.count(name) > 1})
        if repeated:
            raise ConfigError(f"task names must differ, but {', '.join(map(repr, repeated))} repeats.")

    def _check_sparsity(self) -> None:
        learnable = gate_family(self.gates).learnable
        if self.budget is not None and self.penalty is not None:
            raise ConfigError(
                f"budget={self.budget!r} and penalty={self.penalty!r} exclude each other; give one of them."
            )
        if not learnable and self.penalty is not None:
            raise ConfigError(f"penalty={self.penalty!r} needs learnable gates, not gates={self.gates!r}.")
        if learnable and self.budget is None and self.penalty is None:
            self.budget = DEFAULT_BUDGET
        for name in ("budget", "penalty"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
                raise ConfigError(f"{name}={value!r} must be a number.")
        if self.budget is not None and self.budget <= 0:
            raise ConfigError(
                f"budget={self.budget!r} must be above 0: a fraction of the backbone such as 0.003, "
                "or a count of parameters."
            )
        if self.penalty is not None and self.penalty < 0:
            raise ConfigError(f"penalty={self.penalty!r} must not be negative.")
