"""The methods on graft's own code path: learned structures, and fixed ones as controls."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from peft import get_peft_model
from torch import nn

from graftwork.errors import ConfigError
from graftwork.experiments.methods.method import Adapted, Setup, described, rank_within
from graftwork.recipe.recipe import finds_groups, graft_values
from graftwork.recipe.shares import SHARE
from graftwork.search.callback import StructureCallback
from graftwork.search.discretise import set_fixed_structure_, set_structure_, structure_of
from graftwork.search.parting import check_trunk
from graftwork.sparsity.budget import check_budgets
from graftwork.structure.fixed import GROUPED, check_fixed_structure
from graftwork.structure.structure import SiteStructure, Structure
from graftwork.tuner.config import GraftConfig
from graftwork.tuner.view import graft_view

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "AdapterDrop",
    "Adapters",
    "AdaptersFfn",
    "FixedStructure",
    "Graft",
    "Private",
    "RandomStructure",
    "Shared",
]

Placement = Literal["attention+ffn", "ffn", "attention", "block"]


def adapted(backbone: nn.Module, setup: Setup) -> Adapted:
    """What all methods with graft adapters share: the structure is driven, compacted and counted."""
    callback = StructureCallback(
        warmup=setup.schedule.warmup, ramp=setup.schedule.ramp, discretise=setup.schedule.discretise
    )
    given = structure_of(backbone) if graft_view(backbone).decided else None
    return Adapted(
        backbone,
        callbacks=[callback],
        era=lambda state: callback.structure is not None,
        stored=lambda: structure_of(backbone).parameters(),
        active=lambda task: structure_of(backbone).parameters(task),
        structure=lambda: given or callback.structure,
    )


@described("graft", "graft", sections=("graft", "schedule"), paths=True, writes=True)
@dataclass(frozen=True)
class Graft:
    """Learned structure over a shared pool; its settings are the sections `graft` and `schedule`."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """Wrapped as by `graftwork fit`."""
        changes: dict[str, Any] = {"start_seed": setup.seed}
        if finds_groups(setup.graft):
            changes["groups"] = setup.find_groups()
        model = get_peft_model(backbone, GraftConfig(**graft_values(setup.tasks, setup.graft, **changes)))
        if setup.graft.structure is not None:
            set_fixed_structure_(model, setup.graft.structure, seed=setup.seed)
        check_budgets(model)
        check_trunk(model)
        return adapted(model, setup)


@described("fixed_structure", "fixed structure", sections=("graft",), paths=True, writes=True)
@dataclass(frozen=True)
class FixedStructure:
    """Control: a structure of the same pool, sites and budget that is not learned, trained from step one."""

    structure: str = "random"
    """A name of `graftwork.structure.fixed.FIXED_STRUCTURES`, `file:PATH` or `task:NAME:PATH`."""

    def __post_init__(self) -> None:
        """Check the name.

        Raises:
            ConfigError: there is no such structure.
        """
        check_fixed_structure(self.structure)

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """Wrapped with decided gates.

        Raises:
            ConfigError: there is no budget, and the structure does not come from a file.
        """
        needed = self.structure == GROUPED and setup.graft.groups is None
        changes = {"groups": setup.find_groups()} if needed else {}
        config = GraftConfig(**graft_values(setup.tasks, setup.graft, gates="fixed", penalty=None, **changes))
        model = get_peft_model(backbone, config)
        set_fixed_structure_(model, self.structure, seed=setup.seed)
        return adapted(model, setup)


@described("random_structure", "random structure", sections=("graft",), paths=True, writes=True)
@dataclass(frozen=True)
class RandomStructure:
    """Control: `fixed_structure` with random paths, different for every task."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """Wrapped with decided gates.

        Raises:
            ConfigError: there is no budget.
        """
        return FixedStructure("random_paths").adapt(backbone, setup)


@dataclass(frozen=True)
class _FixedAdapters:
    """Bottleneck adapters without gates."""

    r: int = 8
    """Rank (bottleneck width)."""
    activation: Literal["gelu", "relu", "silu", "tanh", "identity"] = "gelu"
    """Nonlinearity."""
    position: Literal["sequential", "parallel"] = "sequential"
    """Adapters read the output of their site, or its input."""
    placement: Placement = "attention+ffn"
    """Sites by name."""
    budget: float | None = field(default=None, metadata=SHARE)
    """Parameters as a fraction of the backbone's: sets the rank."""

    def _adapters(self, tasks: tuple[str, ...]) -> int:
        """Adapters at every site."""
        return 1

    def _layers(self, backbone: PreTrainedModel) -> list[int] | None:
        """Layers with adapters."""
        return None

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """Wrapped with decided gates."""
        layers = self._layers(backbone)

        def build(copied: PreTrainedModel, r: int) -> nn.Module:
            config = GraftConfig(
                tasks=list(setup.tasks),
                pool_size=self._adapters(setup.tasks),
                r=r,
                scale=1.0,
                activation=self.activation,
                position=self.position,
                placement=self.placement,
                gates="fixed",
                layers_to_transform=layers,
            )
            return get_peft_model(copied, config)

        model = build(backbone, rank_within(self.budget, self.r, backbone, build))
        self._decide(model)
        return adapted(model, setup)

    def _decide(self, model: nn.Module) -> None:
        """Set the structure, if not all tasks use all adapters."""


@described("adapters", "adapters (attention+ffn)", paths=True)
@dataclass(frozen=True)
class Adapters(_FixedAdapters):
    """One adapter after attention and one after feed-forward, for all tasks. Source: Houlsby et al. 2019."""


@described("adapters_ffn", "adapters (ffn)", paths=True)
@dataclass(frozen=True)
class AdaptersFfn(_FixedAdapters):
    """One adapter after the feed-forward part of every layer, for all tasks. Source: Pfeiffer et al. 2021."""

    r: int = 16
    """Rank (bottleneck width)."""
    placement: Placement = "ffn"
    """Sites by name."""


@described("shared", "one shared adapter", paths=True)
@dataclass(frozen=True)
class Shared(_FixedAdapters):
    """Control: the whole default pool (4 x 8) as one adapter of rank 32 that all tasks share."""

    r: int = 32
    """Rank (bottleneck width)."""


@described("private", "one adapter per task", paths=True)
@dataclass(frozen=True)
class Private(_FixedAdapters):
    """Control: as many adapters as tasks at every site, and each task uses its own."""

    def _adapters(self, tasks: tuple[str, ...]) -> int:
        return len(tasks)

    def _decide(self, model: nn.Module) -> None:
        whole = structure_of(model)
        own = tuple(tuple(t == k for k in range(len(whole.tasks))) for t in range(len(whole.tasks)))
        sites = {
            name: SiteStructure(site.pool_size, site.r, site.cost, own) for name, site in whole.sites.items()
        }
        set_structure_(model, Structure(whole.tasks, sites))


@described("adapter_drop", "AdapterDrop", paths=True)
@dataclass(frozen=True)
class AdapterDrop(_FixedAdapters):
    """No adapters in the lower layers. Source: Rücklé et al. 2021."""

    drop: float = 0.5
    """Fraction of the layers without adapters, from below, rounded down."""

    def _layers(self, backbone: PreTrainedModel) -> list[int] | None:
        total = int(backbone.config.num_hidden_layers)
        first = math.floor(self.drop * total)
        if not 0 <= first < total:
            raise ConfigError(f"drop={self.drop!r} must be at least 0 and below 1.")
        return list(range(first, total))
