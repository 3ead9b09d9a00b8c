"""What is right in the settings of a graft model: of a `GraftConfig`, and of a recipe, which has no torch.

Every check takes an object with the fields of `GraftConfig` that it is about, and fills in what `auto` means.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from typing import Any

from graftwork.errors import ConfigError, StructureError
from graftwork.files.reading import is_finite
from graftwork.gates.names import gate_traits
from graftwork.messages import did_you_mean, listed, shown
from graftwork.patterns import check_pattern
from graftwork.structure.costs import check_cost
from graftwork.structure.ranking import RANKINGS
from graftwork.structure.structure import Structure

__all__ = [
    "ACTIVATION_NAMES",
    "DEFAULT_BUDGET",
    "ENOUGH",
    "PLACEMENTS",
    "POSITIONS",
    "TRUNKS",
    "check_adapters",
    "check_modules",
    "check_saved",
    "check_sites",
    "check_tasks",
    "pool_scale",
]

ACTIVATION_NAMES = ("gelu", "relu", "silu", "tanh", "identity")
"""Names of `graftwork.tuner.pool.ACTIVATIONS`, which needs torch."""
PLACEMENTS = ("attention+ffn", "ffn", "attention", "block", "linear")
POSITIONS = ("sequential", "parallel")
REDUCTIONS = ("mean", "sum")
TRUNKS = ("trunk", "trunk_budget")
"""Settings that say where tasks may part."""
GATE_STARTS = ("auto", "shared", "random", "private", "grouped")
DEFAULT_BUDGET = 0.003
"""Budget of learned gates if neither a budget nor a penalty is given, as a fraction of the backbone."""
ENOUGH = 16
"""Adapters at a site from which `gate_start: auto` becomes `random`: a task then finds what it needs in a
random half of them."""
SCALE = 4 / 3
"""Numerator of `pool_scale`: a pool of 16 adapters of rank 1 has a scale of 1/3, with which a rate of 3e-3
suits it."""
LARGEST = 2**31 - 1
_NAME = re.compile(r"[\w.-]+")


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(
            f"{name}={shown(value)} is not known{did_you_mean(value, allowed)} Allowed: {', '.join(allowed)}."
        )


def _positive_int(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST:
        raise ConfigError(f"{name}={shown(value)} must be a whole number of at least 1, at most {LARGEST:,}.")


def _seed(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise ConfigError(f"{name}={shown(value)} must be a whole number from 0 to {2**32 - 1}.")


def _names(name: str, value: object, *, plain: bool = True) -> None:
    """Refuse values that are no names of modules; `plain` ones if PEFT makes regular expressions of them."""
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


def check_sites(config: Any) -> None:
    """Check which modules are sites."""
    for name in ("target_modules", "exclude_modules"):
        value = getattr(config, name)
        if isinstance(value, str):
            check_pattern(name, value)
        elif value is not None:
            _names(name, value, plain=False)
    if config.layers_to_transform is not None:
        _indices("layers_to_transform", config.layers_to_transform)


def check_tasks(config: Any) -> None:
    """Check the names of the tasks."""
    if not isinstance(config.tasks, list | tuple) or not config.tasks:
        raise ConfigError(f"tasks={shown(config.tasks)} must be a list of at least one task name.")
    config.tasks = list(config.tasks)
    for name in config.tasks:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"task name {shown(name)} of tasks must be a non-empty string.")
    repeated = sorted(name for name, count in Counter(config.tasks).items() if count > 1)
    if repeated:
        raise ConfigError(f"names of tasks must differ, but {listed(map(shown, repeated))} repeats.")


def check_modules(config: Any) -> None:
    """Check fields of PEFT's configuration that a recipe does not have."""
    pattern = config.layers_pattern
    if pattern:
        _names("layers_pattern", [pattern] if isinstance(pattern, str) else pattern)
    if config.modules_to_save is not None:
        _names("modules_to_save", config.modules_to_save)
    tokens = config.trainable_token_indices
    if isinstance(tokens, dict):
        _names("trainable_token_indices", list(tokens))
    elif tokens is not None and not isinstance(tokens, list):
        raise ConfigError(
            f"trainable_token_indices={shown(tokens)} must be a list of tokens, or such lists by module."
        )
    for indices in tokens.values() if isinstance(tokens, dict) else [tokens or []]:
        _indices("trainable_token_indices", indices)


def check_saved(config: Any) -> None:
    """Check fields that only a saved configuration has, or whose type is only wrong in a damaged file."""
    for name in ("init_weights", "inference_mode"):
        if not isinstance(getattr(config, name), bool):
            raise ConfigError(f"{name}={shown(getattr(config, name))} must be true or false.")
    for name in ("base_model_name_or_path", "revision", "peft_version"):
        value = getattr(config, name)
        if not isinstance(value, str | os.PathLike | None):
            raise ConfigError(f"{name}={shown(value)} must be a string.")
    if not isinstance(config.auto_mapping, dict | None):
        raise ConfigError(f"auto_mapping={shown(config.auto_mapping)} must be a mapping.")
    if config.structure is not None:
        try:
            Structure.from_dict(config.structure)
        except StructureError as error:
            raise ConfigError(f"structure: {error}") from error


def check_adapters(config: Any) -> None:
    """Check the pool, its gates and what keeps it small."""
    _positive_int("pool_size", config.pool_size)
    _positive_int("r", config.r)
    _scale(config)
    _choice("activation", config.activation, ACTIVATION_NAMES)
    _choice("position", config.position, POSITIONS)
    _choice("placement", config.placement, PLACEMENTS)
    _choice("gate_start", config.gate_start, GATE_STARTS)
    _seed("start_seed", config.start_seed)
    _groups(config.groups)
    _choice("penalty_reduction", config.penalty_reduction, REDUCTIONS)
    _choice("rank_by", config.rank_by, tuple(RANKINGS))
    check_cost(config.cost)
    _sparsity(config)
    if getattr(config, "structure", None) is None:  # a saved structure has parted its tasks already
        _trunk(config)


def _scale(config: Any) -> None:
    if config.scale == "auto":
        config.scale = pool_scale(config.pool_size, config.r)
    if not is_finite(config.scale) or config.scale <= 0:
        raise ConfigError(f"scale={shown(config.scale)} must be a number above 0, such as 0.3, or 'auto'.")


def pool_scale(adapters: int, r: int) -> float:
    r"""The factor of the sum over the open adapters of a site that `scale: auto` stands for.

    .. math:: c / \sqrt{K r}

    Under Adam every hidden unit of a pool writes with steps of the same size, so that without a factor the
    steps of a site grow with their number. rsLoRA's power of 1/2 fits: with `c / (K r)` a pool of 64 needs a
    higher rate than one of 16 (`recipes/search/scale.yaml`).

    Args:
        adapters: K, adapters of the pool.
        r: rank of one adapter.

    Source: Kalajdzievski 2023, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA"; `SCALE` is
    ours.
    """
    return float(SCALE / math.sqrt(adapters * r))


def _sparsity(config: Any) -> None:
    if config.gates == "auto":
        config.gates = "importance" if config.penalty is None else "hard_concrete"
    if config.gate_start == "auto":
        drawn = config.gates == "importance" and config.pool_size >= ENOUGH
        config.gate_start = "random" if drawn else "shared"
    learnable = gate_traits(config.gates).learnable
    if config.budget is not None and config.penalty is not None:
        raise ConfigError(
            f"budget={shown(config.budget)} and penalty={shown(config.penalty)} exclude each other; give one "
            "of them."
        )
    if not learnable and config.penalty is not None:
        raise ConfigError(
            f"penalty={shown(config.penalty)} needs learnable gates, not gates={config.gates!r}."
        )
    if gate_traits(config.gates).needs_budget and config.penalty is not None:
        raise ConfigError(
            f"gates={config.gates!r} work with a budget only, not with penalty={shown(config.penalty)}; give "
            "budget= instead, or choose gates='hard_concrete'."
        )
    if learnable and config.budget is None and config.penalty is None:
        config.budget = DEFAULT_BUDGET
    for name in ("budget", "task_budget", "penalty"):
        value = getattr(config, name)
        if value is None:
            continue
        if not is_finite(value):
            raise ConfigError(f"{name}={shown(value)} must be a number.")
    if not is_finite(config.path_threshold) or not 0 < config.path_threshold < 1:
        raise ConfigError(
            f"path_threshold={shown(config.path_threshold)} must be a number above 0 and below 1: a part "
            "of the keenest task's importance, such as 0.3."
        )
    for name in ("budget", "task_budget"):
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ConfigError(
                f"{name}={value!r} must be above 0: a fraction of the backbone such as 0.003, "
                "or a count of parameters."
            )
    if config.penalty is not None and config.penalty < 0:
        raise ConfigError(f"penalty={config.penalty!r} must not be negative.")


def _trunk(config: Any) -> None:
    """Check where tasks may part."""
    given = [name for name in TRUNKS if getattr(config, name) is not None]
    if not given:
        return
    trunk, price, tasks = config.trunk, config.trunk_budget, len(config.tasks)
    said = " and ".join(f"{name}={shown(getattr(config, name))}" for name in given)
    if len(given) > 1:
        raise ConfigError(f"{said} exclude each other; give one of them.")
    if trunk is not None:
        _positive_int("trunk", trunk)
    if price is not None and (not is_finite(price) or not 1 <= price <= tasks):
        raise ConfigError(
            f"{said} must be a number from 1 (all tasks share all adapters) to {tasks}, the number of tasks: "
            "what all of them on one text may cost, in passes of one."
        )
    if not gate_traits(config.gates).learnable:
        raise ConfigError(f"{said} needs a structure that is searched, not gates={config.gates!r}.")
    if tasks < 2:
        raise ConfigError(f"{said} needs at least two tasks, not only {config.tasks[0]!r}.")
    if config.task_budget is not None:
        raise ConfigError(
            f"{said} and task_budget={shown(config.task_budget)} exclude each other: tasks that share "
            "adapters use the same number of them."
        )
