"""`GraftConfig`: what a graft model looks like. Training settings live in `StructureCallback`."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig

from graftwork.cost import check_cost
from graftwork.errors import ConfigError, StructureError
from graftwork.files import is_finite, listed, shown
from graftwork.gates import gate_family
from graftwork.patterns import check_pattern
from graftwork.peft_type import GRAFT
from graftwork.pool import ACTIVATIONS
from graftwork.ranking import RANKINGS
from graftwork.structure import Structure

__all__ = ["PLACEMENTS", "POSITIONS", "GraftConfig"]

PLACEMENTS = ("attention+ffn", "ffn", "attention", "block")
POSITIONS = ("sequential", "parallel")
REDUCTIONS = ("mean", "sum")
GATE_STARTS = ("auto", "shared", "random", "private", "grouped")
DEFAULT_BUDGET = 0.003
ENOUGH = 16
"""Adapters at a site from which `auto` takes it that a task finds what it needs in a random half of them."""
LARGEST = 2**31 - 1
_NAME = re.compile(r"[\w.-]+")


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{name}={shown(value)} is not known{hint} Allowed: {', '.join(allowed)}.")


def _positive_int(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST:
        raise ConfigError(f"{name}={shown(value)} must be a whole number of at least 1, at most {LARGEST:,}.")


def _seed(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise ConfigError(f"{name}={shown(value)} must be a whole number from 0 to {2**32 - 1}.")


def _names(name: str, value: object, *, plain: bool = True) -> None:
    """Refuse what are no names of modules, `plain` where PEFT makes regular expressions of them."""
    if not isinstance(value, list | tuple | set | frozenset):
        raise ConfigError(f"{name}={shown(value)} must be a list of names.")
    for item in sorted(value, key=repr) if isinstance(value, set | frozenset) else value:
        if not isinstance(item, str):
            raise ConfigError(f"{name} has {shown(item)}; a name is a string.")
        if plain and not _NAME.fullmatch(item):
            raise ConfigError(
                f"{name} has {shown(item)}; a name of a module is made of letters, digits, '_', '-' and '.'."
            )


def _groups(groups: object) -> None:
    right = groups is None or (
        isinstance(groups, list)
        and all(isinstance(group, list) and all(isinstance(name, str) for name in group) for group in groups)
    )
    if not right:
        raise ConfigError(f"groups={shown(groups)} must be lists of task names.")


def _indices(name: str, value: object) -> None:
    values = value if isinstance(value, list | tuple) else [value]
    for item in values:
        if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item <= LARGEST:
            raise ConfigError(f"{name} has {shown(item)}; an index is a whole number of at least 0.")


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
    pool_size: int = field(default=32, metadata={"help": "K: adapters on offer at every site."})
    r: int = field(default=1, metadata={"help": "Rank (bottleneck width) of one adapter."})
    activation: str = field(
        default="gelu", metadata={"help": "Nonlinearity f: gelu, relu, silu, tanh, identity."}
    )
    position: str = field(
        default="sequential",
        metadata={"help": "`sequential` adapters read the output of the site, `parallel` ones its input."},
    )
    gates: str = field(
        default="auto",
        metadata={
            "help": "Gate family: `importance` (no learned gates; needs a budget), `hard_concrete`, "
            "`sigmoid`, `gumbel`, `shifted_sigmoid` (needs a budget) or `fixed`. `auto` becomes "
            "`importance`, with a penalty `hard_concrete`."
        },
    )
    gate_start: str = field(
        default="auto",
        metadata={
            "help": "`shared`: every gate starts open. `random`: one in two, drawn with `start_seed`; the "
            "others start nearly closed, and may open (with importance they stay closed). `private`: "
            "likewise every adapter starts as that of one task, in turn. `grouped`: as that of one of the "
            f"`groups`. `auto` becomes `random` with importance and a `pool_size` of at least {ENOUGH}, else "
            "`shared`."
        },
    )
    start_seed: int = field(default=0, metadata={"help": "Of what `gate_start='random'` draws."})
    groups: list[list[str]] | None = field(
        default=None,
        metadata={
            "help": "Tasks that start with the same adapters, for `gate_start='grouped'`: lists of task "
            "names, as `graftwork.group_tasks` finds them."
        },
    )
    path_threshold: float = field(
        default=0.05,
        metadata={
            "help": "With importance: a task uses a stored adapter if its importance there is at least this "
            "part of the keenest task's, above 0 and below 1. Low: tasks share; high: they part."
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
        """Validate every field once: a configuration may come from a file that anybody wrote."""
        try:
            super().__post_init__()  # type: ignore[no-untyped-call]
        except (ValueError, TypeError) as error:
            raise ConfigError(f"task_type={shown(self.task_type)} is not known: {error}") from error
        self.peft_type = GRAFT
        # What `target_modules` or `placement` came to in the model at hand: no field, so it is never saved.
        self.resolved_sites: frozenset[str] = frozenset()
        self._check_modules()
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        self._check_tasks()
        self._check_saved()
        _positive_int("pool_size", self.pool_size)
        _positive_int("r", self.r)
        _choice("activation", self.activation, tuple(ACTIVATIONS))
        _choice("position", self.position, POSITIONS)
        _choice("placement", self.placement, PLACEMENTS)
        _choice("gate_start", self.gate_start, GATE_STARTS)
        _seed("start_seed", self.start_seed)
        _groups(self.groups)
        _choice("penalty_reduction", self.penalty_reduction, REDUCTIONS)
        _choice("rank_by", self.rank_by, tuple(RANKINGS))
        check_cost(self.cost)
        self._check_sparsity()

    def to_dict(self) -> dict[str, Any]:
        """The settings as a dictionary, sets as sorted lists: what is saved must not depend on hashing."""
        found = super().to_dict()
        return {key: sorted(value) if isinstance(value, set) else value for key, value in found.items()}

    def _check_modules(self) -> None:
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if isinstance(value, str):
                check_pattern(name, value)
            elif value is not None:
                _names(name, value, plain=False)
        pattern = self.layers_pattern
        if pattern:
            _names("layers_pattern", [pattern] if isinstance(pattern, str) else pattern)
        if self.modules_to_save is not None:
            _names("modules_to_save", self.modules_to_save)
        if self.layers_to_transform is not None:
            _indices("layers_to_transform", self.layers_to_transform)
        tokens = self.trainable_token_indices
        if isinstance(tokens, dict):
            _names("trainable_token_indices", list(tokens))
        elif tokens is not None and not isinstance(tokens, list):
            raise ConfigError(
                f"trainable_token_indices={shown(tokens)} must be a list of tokens, or such lists by module."
            )
        for indices in tokens.values() if isinstance(tokens, dict) else [tokens or []]:
            _indices("trainable_token_indices", indices)

    def _check_tasks(self) -> None:
        if not isinstance(self.tasks, list | tuple) or not self.tasks:
            raise ConfigError(f"tasks={shown(self.tasks)} must be a list of at least one task name.")
        self.tasks = list(self.tasks)
        for name in self.tasks:
            if not isinstance(name, str) or not name:
                raise ConfigError(f"task name {shown(name)} of tasks must be a non-empty string.")
        repeated = sorted(name for name, count in Counter(self.tasks).items() if count > 1)
        if repeated:
            raise ConfigError(f"names of tasks must differ, but {listed(map(shown, repeated))} repeats.")

    def _check_saved(self) -> None:
        """What only a saved configuration has, or nobody gives another type by hand."""
        for name in ("init_weights", "inference_mode"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}={shown(getattr(self, name))} must be true or false.")
        for name in ("base_model_name_or_path", "revision", "peft_version"):
            value = getattr(self, name)
            if not isinstance(value, str | os.PathLike | None):
                raise ConfigError(f"{name}={shown(value)} must be a string.")
        if not isinstance(self.auto_mapping, dict | None):
            raise ConfigError(f"auto_mapping={shown(self.auto_mapping)} must be a mapping.")
        if self.structure is not None:
            try:
                Structure.from_dict(self.structure)
            except StructureError as error:
                raise ConfigError(f"structure: {error}") from error

    def _check_sparsity(self) -> None:
        if self.gates == "auto":
            self.gates = "importance" if self.penalty is None else "hard_concrete"
        if self.gate_start == "auto":
            drawn = self.gates == "importance" and self.pool_size >= ENOUGH
            self.gate_start = "random" if drawn else "shared"
        learnable = gate_family(self.gates).learnable
        if self.budget is not None and self.penalty is not None:
            raise ConfigError(
                f"budget={shown(self.budget)} and penalty={shown(self.penalty)} exclude each other; give one "
                "of them."
            )
        if not learnable and self.penalty is not None:
            raise ConfigError(
                f"penalty={shown(self.penalty)} needs learnable gates, not gates={self.gates!r}."
            )
        if gate_family(self.gates).needs_budget and self.penalty is not None:
            raise ConfigError(
                f"gates={self.gates!r} work with a budget only, not with penalty={shown(self.penalty)}; give "
                "budget= instead, or choose gates='hard_concrete'."
            )
        if learnable and self.budget is None and self.penalty is None:
            self.budget = DEFAULT_BUDGET
        for name in ("budget", "task_budget", "penalty"):
            value = getattr(self, name)
            if value is None:
                continue
            if not is_finite(value):
                raise ConfigError(f"{name}={shown(value)} must be a number.")
        if not is_finite(self.path_threshold) or not 0 < self.path_threshold < 1:
            raise ConfigError(
                f"path_threshold={shown(self.path_threshold)} must be a number above 0 and below 1: a part "
                "of the keenest task's importance, such as 0.3."
            )
        for name in ("budget", "task_budget"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(
                    f"{name}={value!r} must be above 0: a fraction of the backbone such as 0.003, "
                    "or a count of parameters."
                )
        if self.penalty is not None and self.penalty < 0:
            raise ConfigError(f"penalty={self.penalty!r} must not be negative.")
