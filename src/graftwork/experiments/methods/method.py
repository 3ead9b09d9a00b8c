"""What a method of a comparison is: settings, and a way to adapt a backbone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from torch import Tensor, nn

from graftwork.errors import ConfigError
from graftwork.recipe.settings import GraftSettings
from graftwork.search.schedule import Schedule
from graftwork.structure.structure import Structure

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback, TrainerState

    from graftwork.models.multitask import MultiTaskModel

__all__ = [
    "Adapted",
    "Method",
    "Setup",
    "count",
    "described",
    "kept",
    "rank_within",
]


@dataclass(frozen=True)
class Setup:
    """What a method may need to know to adapt a backbone."""

    tasks: tuple[str, ...]
    """Names of the run's tasks."""
    steps: int
    """Optimizer steps of the run."""
    seed: int
    """Of the run."""
    graft: GraftSettings
    """Section `graft`; used by `graft` and `random_structure`."""
    schedule: Schedule
    """Phases of the search."""
    find_groups: Callable[[], list[list[str]]]
    """Finds the tasks that share adapters from the start."""
    pretrain: Callable[[int, Adapted], float]
    """Trains what a method made on one task alone, before the run proper, in place; returns the seconds."""


def _nothing() -> None:
    return None


@dataclass
class Adapted:
    """A backbone that a method has made ready for training."""

    backbone: nn.Module
    """Gives `last_hidden_state`; exactly its trainable parameters are trained, with the heads."""
    callbacks: list[TrainerCallback] = field(default_factory=list)
    """For Trainer."""
    attach: Callable[[MultiTaskModel], None] = lambda model: None
    """Called once with the finished model, before training."""
    extra_loss: Callable[[], Tensor | None] = _nothing
    """Added to the loss of a batch after its forward pass."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Part of a parameter's name -> its own learning rate."""
    era: Callable[[TrainerState], object] = lambda state: None
    """When its value changes, scores before and after are not comparable: best-model tracking starts anew."""
    stored: Callable[[], int] | None = None
    """Parameters of the final model beside backbone and heads; default `kept`."""
    active: Callable[[str], int] | None = None
    """Those that one task uses; default all stored ones."""
    structure: Callable[[], Structure | None] = _nothing
    """The final structure, if the method has one."""
    seconds: float = 0.0
    """Training time that was spent before."""
    peak: int = 0
    """Parameters that were trained at once before."""


class Method(Protocol):
    """A frozen dataclass: its fields are the method's own settings."""

    name: ClassVar[str]
    """In grids and results."""
    label: ClassVar[str]
    """In reports, unless the grid gives another."""
    sections: ClassVar[tuple[str, ...]]
    """Sections of the grid beside `training` that matter to it: `graft`, `schedule`."""
    trained: ClassVar[bool]
    """False: no training loop, so no learning rate either."""
    paths: ClassVar[bool]
    """It has adapter paths, which noise can damage."""
    least_tasks: ClassVar[int]
    """Tasks a run must have."""
    writes: ClassVar[bool]
    """It can adapt a language model to tasks that are answered in words."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """Make a fresh backbone ready for training; it may be changed in place."""


Registered = TypeVar("Registered", bound=type[Any])


def described(
    name: str,
    label: str,
    *,
    sections: tuple[str, ...] = (),
    trained: bool = True,
    paths: bool = False,
    least_tasks: int = 1,
    writes: bool = False,
) -> Callable[[Registered], Registered]:
    """Give a method what grids and reports ask it for."""

    def enter(cls: Registered) -> Registered:
        for key, value in (
            ("name", name),
            ("label", label),
            ("sections", sections),
            ("trained", trained),
            ("paths", paths),
            ("least_tasks", least_tasks),
            ("writes", writes),
        ):
            setattr(cls, key, value)
        return cls

    return enter


def count(model: nn.Module, *, trainable: bool = True) -> int:
    """Trainable parameters of a module, or all."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def kept(backbone: nn.Module, original: Container[int]) -> dict[str, nn.Parameter]:
    """The parameters that must be stored: trained ones of the backbone, and all that were added to it.

    Args:
        backbone: after training.
        original: ids of the parameters it had before it was adapted.
    """
    return {
        name: parameter
        for name, parameter in backbone.named_parameters()
        if parameter.requires_grad or id(parameter) not in original
    }


def rank_within(
    budget: float | None,
    r: int,
    backbone: PreTrainedModel,
    build: Callable[[PreTrainedModel, int], nn.Module],
    what: Sequence[str] = (),
) -> int:
    """The largest uniform rank whose parameters are within the budget; without one, `r`.

    Args:
        budget: stored parameters as a fraction of the backbone's; None keeps `r`.
        r: the rank without a budget.
        backbone: stays as it is.
        build: wraps a copy of the backbone with adapters of a rank.
        what: words for the message.

    Raises:
        ConfigError: not even rank 1 is within the budget.
    """
    if budget is None:
        return r
    size = count(backbone, trainable=False)
    one, two = (count(build(copy.deepcopy(backbone), rank)) for rank in (1, 2))
    rank = int((budget * size - (2 * one - two)) / (two - one))
    if rank < 1:
        raise ConfigError(
            f"budget={budget:g} allows {int(budget * size):,} parameters, but {' '.join(what) or 'rank 1'} "
            f"needs {one:,}; raise it to at least {one / size:.2g}."
        )
    return rank
