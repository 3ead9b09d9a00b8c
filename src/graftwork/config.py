"""`GraftConfig`: what a graft model looks like. Training settings live in `StructureCallback`."""

from __future__ import annotations

import difflib
import math
import numbers
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig

from graftwork.cost import check_cost
from graftwork.errors import ConfigError
from graftwork.gates import gate_family
from graftwork.peft_type import GRAFT
from graftwork.pool import ACTIVATIONS
from graftwork.ranking import RANKINGS

__all__ = ["PLACEMENTS", "POSITIONS", "GraftConfig"]

PLACEMENTS = ("attention+ffn", "ffn", "attention", "block")
POSITIONS = ("sequential", "parallel")
REDUCTIONS = ("mean", "sum")
GATE_STARTS = ("shared", "private")
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
        default="hard_concrete",
        metadata={
            "help": "Gate family: `hard_concrete`, `sigmoid`, `gumbel`, `shifted_sigmoid` (needs a budget), "
            "`importance` (no learned gates; needs a budget) or `fixed`."
        },
    )
    gate_start: str = field(
        default="shared",
        metadata={
            "help": "`shared`: every gate starts open. `private`: every adapter starts as that of one task, "
            "in turn; the other tasks' gates start nearly closed, and open where sharing pays."
        },
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
    rank_by: str = field(
        default="prob_open",
        metadata={
            "help": "What a budget keeps first: `prob_open` (ties by the strength of the weights), "
            "`strength` alone, or `product` of both."
        },
    )
    task_budget: float | None = field(
        default=None,
        metadata={"help": "Adapter parameters that one task may use, given like `budget`."},
    )
    cost: str | dict[str, float] = field(
        default="parameters",
        metadata={
            "help": "What budgets count: `parameters`, `flops` per token, or a table of the cost of one "
            "adapter at every site, as a mapping or `file:TABLE.json`. A budget below 1 is a fraction of the "
            "backbone's parameters, of the FLOPs of its linear maps, or of the whole pool's cost."
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
    trainable_token_indices: list[int] | dict[str, list[int]] | None = field(
        default=None,
        metadata={
            "help": "Tokens whose embeddings are trained as well: indices, or indices per embedding module."
        },
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
        _choice("gate_start", self.gate_start, GATE_STARTS)
        _choice("penalty_reduction", self.penalty_reduction, REDUCTIONS)
        _choice("rank_by", self.rank_by, tuple(RANKINGS))
        check_cost(self.cost)
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
        if gate_family(self.gates).needs_budget and self.penalty is not None:
            raise ConfigError(
                f"gates={self.gates!r} work with a budget only, not with penalty={self.penalty!r}; give "
                "budget= instead, or choose gates='hard_concrete'."
            )
        if learnable and self.budget is None and self.penalty is None:
            self.budget = DEFAULT_BUDGET
        for name in ("budget", "task_budget", "penalty"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
                raise ConfigError(f"{name}={value!r} must be a number.")
        for name in ("budget", "task_budget"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(
                    f"{name}={value!r} must be above 0: a fraction of the backbone such as 0.003, "
                    "or a count of parameters."
                )
        if self.penalty is not None and self.penalty < 0:
            raise ConfigError(f"penalty={self.penalty!r} must not be negative.")
