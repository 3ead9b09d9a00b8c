"""Two rivals with layers of their own: AdapterFusion, and the Gumbel layer switches of Adaptable Adapters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import TrainerCallback

from graftwork.experiments.methods.method import Adapted, Setup, count, described, rank_within
from graftwork.recipe.shares import SHARE
from graftwork.structure.structure import SiteStructure, Structure
from graftwork.training.best import KeepBest
from graftwork.tuner.config import GraftConfig
from graftwork.tuner.pool import site_widths
from graftwork.tuner.sites import resolve_sites

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

__all__ = ["AdapterFusion", "Bottleneck", "FusionSite", "GumbelSwitch", "SwitchSite"]

Placement = Literal["attention+ffn", "ffn", "attention", "block"]
Site = TypeVar("Site", bound=nn.Module)


class Bottleneck(nn.Module):
    """`W_up gelu(W_down x + b)` with `W_up` zero at first, as an adapter of a graft pool.

    Args:
        width: d, features in and out.
        r: rank.
    """

    def __init__(self, width: int, r: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, r)
        self.up = nn.Linear(r, width, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """What the adapter adds to x."""
        added: Tensor = self.up(F.gelu(self.down(x)))
        return added


class _Site(nn.Module):
    """A module of the backbone whose output is changed."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's output plus what is added."""
        output = self.base(*args, **kwargs)
        if isinstance(output, tuple):
            return (output[0] + self.added(output[0]), *output[1:])
        return output + self.added(output)

    def added(self, x: Tensor) -> Tensor:
        """What is added to the output x."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        """Attributes that the backbone reads from a wrapped block."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base":
                raise
            return getattr(super().__getattr__("base"), name)


def _wrap_sites(
    backbone: PreTrainedModel, placement: str, make: Callable[[nn.Module, int], Site]
) -> dict[str, Site]:
    """Freeze a backbone and replace its sites by what `make(module, width)` returns."""
    backbone.requires_grad_(False)
    sites = {}
    for name in resolve_sites(backbone, GraftConfig(placement=placement)):
        base = backbone.get_submodule(name)
        sites[name] = make(base, site_widths(base, name)[1])
        _replace(backbone, name, sites[name])
    return sites


def _replace(backbone: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(backbone.get_submodule(parent), child, module)


class FusionSite(_Site):
    r"""Adapters of several tasks, mixed by attention.

    .. math::
        y = x + \sum_t \operatorname{softmax}_t(Q x \cdot K a_t / \sqrt d) \, V a_t, \quad a_t = A_t(x)

    V starts as the identity. While `alone` is the number of a task, only its adapter is used.

    Source: Pfeiffer et al. 2021, "AdapterFusion", section 3.2; the scale is ours.
    """

    def __init__(self, base: nn.Module, width: int, r: int, tasks: int) -> None:
        super().__init__(base)
        self.adapters = nn.ModuleList([Bottleneck(width, r) for _ in range(tasks)])
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        nn.init.normal_(self.query.weight, std=0.02)
        nn.init.normal_(self.key.weight, std=0.02)
        nn.init.eye_(self.value.weight)
        self.alone: int | None = None

    def train_only(self, task: int | None) -> None:
        """Train the adapter of one task alone, or, with None, the attention over the frozen adapters."""
        self.alone = task
        for i, adapter in enumerate(self.adapters):
            adapter.requires_grad_(i == task)
        for part in (self.query, self.key, self.value):
            part.requires_grad_(task is None)

    def added(self, x: Tensor) -> Tensor:
        """The mixed adapters."""
        if self.alone is not None:
            own: Tensor = self.adapters[self.alone](x)
            return own
        offers = torch.stack([adapter(x) for adapter in self.adapters], dim=-2)
        scores = (self.key(offers) @ self.query(x).unsqueeze(-1)).squeeze(-1) / math.sqrt(x.shape[-1])
        mixed: Tensor = (scores.softmax(-1).unsqueeze(-1) * self.value(offers)).sum(-2)
        return mixed


@described("adapter_fusion", "AdapterFusion", least_tasks=2)
@dataclass(frozen=True)
class AdapterFusion:
    """Adapters trained on one task each, then an attention over them trained on all tasks."""

    r: int = 8
    """Rank of one adapter."""
    placement: Placement = "ffn"
    """Sites by name."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """Train the single-task adapters, one after the other, each as long as the run; then freeze them."""
        tasks = len(setup.tasks)
        sites = _wrap_sites(
            backbone, self.placement, lambda base, width: FusionSite(base, width, self.r, tasks)
        )
        adapted = Adapted(backbone)
        for task in range(tasks):
            for site in sites.values():
                site.train_only(task)
            adapted.peak = max(adapted.peak, count(backbone))
            adapted.seconds += setup.pretrain(task, adapted)
        for site in sites.values():
            site.train_only(None)
        return adapted


class SwitchSite(_Site):
    r"""An adapter behind a two-way switch: use it or not.

    .. math:: y = x + z A(x), \quad z = \operatorname{softmax}((\alpha + g) / \tau)_1, \quad g \sim Gumbel

    In evaluation, and once `decided`, z is 0 or 1, whichever logit is the larger.

    Source: Moosavi et al. 2022, "Adaptable Adapters", equation 5.
    """

    def __init__(self, base: nn.Module, width: int, r: int, temperature: float) -> None:
        super().__init__(base)
        self.adapter = Bottleneck(width, r)
        # Named as a bias: never decayed.
        self.switch_bias = nn.Parameter(torch.zeros(2))
        self.temperature = temperature
        self.decided = False

    @property
    def used(self) -> bool:
        """The adapter is used; it is while the logits are equal."""
        return bool(self.switch_bias[1] >= self.switch_bias[0])

    def added(self, x: Tensor) -> Tensor:
        """The switched adapter."""
        added: Tensor = self.adapter(x)
        if self.training and not self.decided:
            return F.gumbel_softmax(self.switch_bias, tau=self.temperature)[1] * added
        return added if self.used else torch.zeros_like(x)


class _Decide(TrainerCallback):
    """Fixes the switches after the search, and unwraps the sites that are off when training ends."""

    follows = (KeepBest,)  # whose weights are those of all sites

    def __init__(self, backbone: nn.Module, sites: dict[str, SwitchSite], step: int) -> None:
        self.backbone, self.sites, self.step = backbone, sites, step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step >= self.step:
            for site in self.sites.values():
                site.decided = True
                site.switch_bias.requires_grad_(False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for name, site in self.sites.items():
            if not site.used:
                _replace(self.backbone, name, site.base)


@described("gumbel_switch", "Gumbel layer switches", sections=("schedule",))
@dataclass(frozen=True)
class GumbelSwitch:
    """Adaptable Adapters: a learned switch per adapter, shared by all tasks; fixed when the search ends."""

    r: int = 8
    """Rank of one adapter."""
    placement: Placement = "ffn"
    """Sites by name."""
    temperature: float = 0.1
    """Of the Gumbel softmax."""
    switch_learning_rate: float = 0.05
    """Learning rate of the switches."""
    budget: float | None = field(default=None, metadata=SHARE)
    """Parameters of all adapters, before any is off, as a fraction of the backbone's: sets the rank."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """All sites switched."""

        def build(copied: PreTrainedModel, r: int) -> PreTrainedModel:
            _wrap_sites(
                copied, self.placement, lambda base, width: SwitchSite(base, width, r, self.temperature)
            )
            return copied

        r = rank_within(self.budget, self.r, backbone, build)
        sites = {
            name: module
            for name, module in build(backbone, r).named_modules()
            if isinstance(module, SwitchSite)
        }
        step = max(1, round(setup.schedule.discretise * setup.steps))

        def structure() -> Structure:
            return Structure(
                setup.tasks,
                {
                    name: SiteStructure(1, r, count(site.adapter), ((site.used,),) * len(setup.tasks))
                    for name, site in sites.items()
                },
            )

        return Adapted(
            backbone,
            callbacks=[_Decide(backbone, sites, step)],
            rates={"switch_bias": self.switch_learning_rate},
            era=lambda state: state.global_step >= step,
            stored=lambda: structure().parameters(),
            structure=structure,
        )
