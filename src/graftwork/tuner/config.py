"""`GraftConfig`: what a graft model looks like. Training settings live in `StructureCallback`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig, PeftType

from graftwork.errors import ConfigError
from graftwork.messages import shown
from graftwork.tuner.config_checks import (
    DEFAULT_BUDGET,
    ENOUGH,
    PLACEMENTS,
    TRUNKS,
    check_adapters,
    check_modules,
    check_saved,
    check_sites,
    check_tasks,
)

__all__ = ["GRAFT", "GraftConfig"]


@dataclass
class GraftConfig(PeftConfig):
    r"""Settings of a graft model: tasks, adapter pool, gates, sparsity control and sites.

    At every site there are K = `pool_size` adapters of rank `r`. One that reads d_in features and writes
    d_out has `r (d_in + d_out + 1)` parameters (with `activation="identity"`, which has no bias,
    `r (d_in + d_out)`). A structure stores each adapter once, however many tasks use it, and a budget B
    limits their sum:

    .. math::
        \sum_s \sum_k n_s \max_t z_{t s k} \le B

    with z in {0, 1} the decided gates and n_s the parameters (or the `cost`) of an adapter of site s. Heads
    are counted apart.

    Source: the method is that of arXiv 2509.03057; the budget in place of a penalty is ours.

    Raises:
        ConfigError: a value is out of range, or `budget` and `penalty` are both given.

    Example:
        The pool of every site begins whole; the search closes what the budget does not allow.

        >>> from peft import get_peft_model
        >>> config = gw.GraftConfig(tasks=["sentiment", "topics"], budget=0.003)
        >>> config.gates, config.pool_size, config.r
        ('importance', 32, 1)
        >>> model = get_peft_model(backbone, config)
        >>> sum(p.numel() for name, p in model.named_parameters() if "graft_down" in name)
        14336
    """

    tasks: list[str] = field(
        default_factory=lambda: ["default"],
        metadata={"help": "Names of the tasks, in the order of the rows of every gate table."},
    )
    pool_size: int = field(default=32, metadata={"help": "K: adapters on offer at every site."})
    r: int = field(default=1, metadata={"help": "Rank (bottleneck width) of one adapter."})
    scale: float | str = field(
        default="auto",
        metadata={
            "help": "Factor of the sum over the open adapters of a site, a constant of the pool. `auto` "
            "becomes `SCALE / sqrt(pool_size r)` (`graftwork.tuner.config_checks`), for which "
            "the same learning rate suits pools of any size and rank."
        },
    )
    activation: str = field(
        default="identity", metadata={"help": "Nonlinearity f: gelu, relu, silu, tanh, identity."}
    )
    position: str = field(
        default="parallel",
        metadata={"help": "`sequential` adapters read the output of the site, `parallel` ones its input."},
    )
    gates: str = field(
        default="auto",
        metadata={
            "help": "Gate family: `importance` (no learned gates; needs a budget), `hard_concrete`, "
            "`sigmoid`, `gumbel`, `shifted_sigmoid` (needs a budget) or `fixed`. `auto` becomes "
            "`importance`, with a penalty `hard_concrete`. experimental: `gumbel`, `shifted_sigmoid`."
        },
    )
    gate_start: str = field(
        default="auto",
        metadata={
            "help": "`shared`: every gate starts open. `random`: one in two, drawn with `start_seed`; the "
            "others start nearly closed, and may open (with importance they stay closed). `private`: "
            "likewise every adapter starts as that of one task, in turn. `grouped`: as that of one of the "
            f"`groups`. `auto` becomes `random` with importance and a `pool_size` of at least {ENOUGH}, else "
            "`shared`. experimental: `private`, `grouped`."
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
            "part of the most important task's, above 0 and below 1. Low: tasks share; high: they part."
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
            "help": "experimental: what a budget keeps first: `prob_open` (ties by the strength of the "
            "weights), `strength` alone, or `product` of both."
        },
    )
    task_budget: float | None = field(
        default=None,
        metadata={"help": "experimental: adapter parameters that one task may use, given like `budget`."},
    )
    trunk: int | None = field(
        default=None,
        metadata={
            "help": "Layers, from the first on, in which all tasks share their adapters, so that many tasks "
            "on one text are carried through them once. Excludes `trunk_budget`."
        },
    )
    trunk_budget: float | None = field(
        default=None,
        metadata={
            "help": "What all tasks on one text may cost (`graftwork.trunk_price`), in passes of one task: "
            "from 1 (all share all adapters) to the number of tasks. The search chooses where they part."
        },
    )
    cost: str | dict[str, float] = field(
        default="parameters",
        metadata={
            "help": "experimental: what budgets count: `parameters`, `flops` per token, or a table of the "
            "cost of one adapter at every site, as a mapping or `file:TABLE.json`. A budget below 1 is a "
            "fraction of the backbone's parameters, of the FLOPs of its linear maps, or of the whole pool's "
            "cost."
        },
    )
    placement: str = field(
        default="linear",
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
        # Only a file names type and version. It has the number that `auto` stood for; older ones lack it.
        if self.peft_type is not None and self.peft_version is not None and self.scale == "auto":
            self.scale = 1.0
        try:
            super().__post_init__()  # type: ignore[no-untyped-call]
        except (ValueError, TypeError) as error:
            raise ConfigError(f"task_type={shown(self.task_type)} is not known: {error}") from error
        self.peft_type = GRAFT
        # The sites that `target_modules` or `placement` select in this model: no field, so it is never saved.
        self.resolved_sites: frozenset[str] = frozenset()
        check_sites(self)
        check_modules(self)
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        check_tasks(self)
        check_saved(self)
        check_adapters(self)

    def to_dict(self) -> dict[str, Any]:
        """The settings as a dictionary, sets as sorted lists: what is saved must not depend on hashing."""
        found = super().to_dict()
        return {
            key: sorted(value) if isinstance(value, set) else value
            for key, value in found.items()
            if value is not None or key not in TRUNKS  # older files do not have them
        }


_NAME = "GRAFT"


def _extend_peft_type(name: str) -> PeftType:
    """Add `name` to the `PeftType` enumeration, which `register_peft_method` insists on.

    Python has no public way to extend an enumeration. A plain string in place of a member passes through
    PEFT but breaks `load_adapter` of transformers, which reads `peft_type.value`.
    """
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    PeftType._member_map_[name] = member
    PeftType._member_names_.append(name)
    PeftType._value2member_map_[name] = member
    return member


GRAFT = _extend_peft_type(_NAME)
