"""LoRA of one down-projection and several up-projections: mixed for each task, or for each token."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from graftwork.errors import ConfigError
from graftwork.experiments.methods.baselines import Targets, targets_of
from graftwork.experiments.methods.method import Adapted, Setup, count, described, rank_within
from graftwork.recipe.shares import SHARE
from graftwork.routing.rows import ROWS_KEYWORD

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from graftwork.models.multitask import MultiTaskModel

__all__ = ["HydraLora", "HydraMap", "MtlLora", "MtlMap"]


class _MixedMap(nn.Module):
    """A frozen linear map with one low-rank input and several outputs, which subclasses mix.

    Args:
        base: the map.
        r: rank.
        ups: up-projections.
        scale: of what is added.
    """

    def __init__(self, base: nn.Linear, r: int, ups: int, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.down = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.up = nn.Parameter(base.weight.new_zeros(ups, r, base.out_features))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Float[Tensor, "rows *positions d_in"]) -> Float[Tensor, "rows *positions d_out"]:
        """The map's output, and what is added."""
        narrow, mix = self.mixed(x, x @ self.down.T)
        # One product with all up-projections below each other.
        wide = (mix.unsqueeze(-1) * narrow.unsqueeze(-2)).flatten(-2)
        added: Tensor = self.base(x) + self.scale * (wide @ self.up.flatten(0, 1))
        return added

    def mixed(self, x: Tensor, narrow: Tensor) -> tuple[Tensor, Tensor]:
        """The low-rank features [..., r], and the weight [..., ups] of every up-projection."""
        raise NotImplementedError


class MtlMap(_MixedMap):
    r"""A map with MTL-LoRA.

    .. math::
        y = W x + s \sum_i \operatorname{softmax}_i(w_t / \tau) \, B_i \Lambda_t A x

    with t the task of the row, A [r, d_in] and B_i [d_out, r] of all tasks, and of each task a matrix
    :math:`\Lambda_t` [r, r], at first the identity, and weights w_t, at first drawn: with equal ones the B_i
    would have equal gradients for ever.

    Source: Yang et al. 2024 (arXiv 2410.09437), equations 4 to 6.

    Args:
        rows: holds the task of every row of the present batch, [rows].
        temperature: tau.
    """

    def __init__(
        self,
        base: nn.Linear,
        r: int,
        ups: int,
        scale: float,
        tasks: int,
        rows: list[Tensor],
        temperature: float,
    ) -> None:
        super().__init__(base, r, ups, scale)
        self.rows, self.temperature = rows, temperature
        self.inner = nn.Parameter(torch.eye(r).repeat(tasks, 1, 1))
        # Named as a bias: never decayed.
        self.mix_bias = nn.Parameter(torch.randn(tasks, ups))

    def mixed(self, x: Tensor, narrow: Tensor) -> tuple[Tensor, Tensor]:
        """By the tasks of the rows."""
        rows = self.rows[0]
        if len(rows) != x.shape[0]:
            raise ConfigError(
                f"mtl_lora cannot tell the tasks of {x.shape[0]} rows in a batch of {len(rows)}: this "
                "backbone flattens positions into rows; leave it out."
            )
        shape = (len(rows), *(1,) * (x.dim() - 2), -1)
        mix = (self.mix_bias / self.temperature).softmax(-1)[rows].view(shape)
        inner = self.inner[rows]
        flat = narrow.reshape(len(rows), -1, narrow.shape[-1])
        return torch.bmm(flat, inner.transpose(1, 2).to(flat.dtype)).view_as(narrow), mix.to(narrow.dtype)


class HydraMap(_MixedMap):
    r"""A map with HydraLoRA.

    .. math::
        y = W x + s \sum_i \operatorname{softmax}_i(G x) \, B_i A x

    with A [r, d_in], B_i [d_out, r] and G [ups, d_in]: every token chooses for itself.

    Source: Tian et al. 2024 (arXiv 2404.19245), equations 4 and 5.
    """

    def __init__(self, base: nn.Linear, r: int, ups: int, scale: float) -> None:
        super().__init__(base, r, ups, scale)
        self.gate = nn.Parameter(base.weight.new_empty(ups, base.in_features))
        nn.init.kaiming_uniform_(self.gate, a=math.sqrt(5))

    def mixed(self, x: Tensor, narrow: Tensor) -> tuple[Tensor, Tensor]:
        """By the tokens."""
        return narrow, (x @ self.gate.T).softmax(-1)


@dataclass(frozen=True)
class _Mixed:
    """What both have."""

    r: int = 8
    """Rank."""
    ups: int = 3
    """Up-projections of a map."""
    alpha: float | None = None
    """Scale is alpha / r; null: 2 r."""
    target_modules: Targets = None
    """Modules as in PEFT; null: as LoRA."""
    budget: float | None = field(default=None, metadata=SHARE)
    """Parameters as a fraction of the backbone's: sets the rank."""

    def _scale(self, r: int) -> float:
        return 2.0 if self.alpha is None else self.alpha / r

    def _wrap(self, backbone: PreTrainedModel, make: Callable[[nn.Linear], nn.Module]) -> PreTrainedModel:
        """Freeze a backbone and replace its targets by what `make(map)` returns."""
        backbone.requires_grad_(False)
        for name in _linear_maps(backbone, targets_of(self.target_modules, backbone)):
            parent, _, child = name.rpartition(".")
            base = backbone.get_submodule(name)
            assert isinstance(base, nn.Linear)
            setattr(backbone.get_submodule(parent), child, make(base))
        return backbone


@described("mtl_lora", "MTL-LoRA", least_tasks=2)
@dataclass(frozen=True)
class MtlLora(_Mixed):
    """One A, a small matrix per task, and several B that each task mixes. Source: Yang et al. 2024."""

    temperature: float = 0.5
    """Of the softmax over the up-projections."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """All maps replaced; the task of every row reaches them from the model."""
        rows: list[Tensor] = []
        tasks = len(setup.tasks)

        def build(copied: PreTrainedModel, r: int) -> PreTrainedModel:
            return self._wrap(
                copied,
                lambda base: MtlMap(base, r, self.ups, self._scale(r), tasks, rows, self.temperature),
            )

        r = rank_within(self.budget, self.r, backbone, build)
        # The matrices of the tasks grow with the square of the rank.
        most = float("inf") if self.budget is None else self.budget * count(backbone, trainable=False)
        while r > 1 and count(build(copy.deepcopy(backbone), r)) > most:
            r -= 1
        adapted = build(backbone, r)
        maps = [module for module in adapted.modules() if isinstance(module, MtlMap)]
        own = sum(each.inner[0].numel() + each.mix_bias[0].numel() for each in maps)
        return Adapted(
            adapted,
            attach=lambda model: _hear(model, rows),
            active=lambda task: count(adapted) - (tasks - 1) * own,
        )


@described("hydra_lora", "HydraLoRA")
@dataclass(frozen=True)
class HydraLora(_Mixed):
    """One A, and several B that every token mixes for itself. Source: Tian et al. 2024."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """All maps replaced."""

        def build(copied: PreTrainedModel, r: int) -> PreTrainedModel:
            return self._wrap(copied, lambda base: HydraMap(base, r, self.ups, self._scale(r)))

        return Adapted(build(backbone, rank_within(self.budget, self.r, backbone, build)))


def _linear_maps(backbone: nn.Module, targets: str | Sequence[str]) -> list[str]:
    """The linear maps that targets name, as PEFT reads them.

    Raises:
        ConfigError: there is none.
    """
    pattern = targets if isinstance(targets, str) else rf"(.*\.)?({'|'.join(map(re.escape, targets))})"
    found = [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and re.fullmatch(pattern, name)
    ]
    if not found:
        raise ConfigError(f"target_modules={targets!r} names no linear map of {type(backbone).__name__}.")
    return found


def _hear(model: MultiTaskModel, rows: list[Tensor]) -> None:
    """Keep the task of every sequence of the present batch where the maps look."""
    model.rows_keyword = ROWS_KEYWORD

    def take(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        rows[:] = [kwargs.pop(ROWS_KEYWORD)]
        return args, kwargs

    model.backbone.register_forward_pre_hook(take, with_kwargs=True)
