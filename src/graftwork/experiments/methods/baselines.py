"""The yardsticks that need no adapters of ours: full fine-tuning, BitFit, and the methods of PEFT."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PolyConfig,
    PrefixTuningConfig,
    TaskType,
    get_peft_model,
)
from peft.tuners.lora import LoraLayer
from peft.tuners.poly.layer import PolyLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn

from graftwork.errors import ConfigError
from graftwork.experiments.methods.method import Adapted, Setup, count, described, rank_within
from graftwork.files.later import LATER
from graftwork.messages import shown
from graftwork.recipe.shares import SHARE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from graftwork.models.multitask import MultiTaskModel

__all__ = ["BitFit", "Full", "Heads", "Ia3", "LinearProbe", "Lora", "Poly", "Prefix"]

Targets = str | tuple[str, ...] | None


@described("linear_probe", "linear probe", trained=False)
@dataclass(frozen=True)
class LinearProbe:
    """A linear model on frozen embeddings (`graftwork.models.probe.linear_probe`); nothing is fine-tuned."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """The backbone as it is."""
        return Adapted(backbone.requires_grad_(False))


@described("heads", "heads only")
@dataclass(frozen=True)
class Heads:
    """The frozen backbone under the same heads and training loop as the other methods."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """The backbone as it is."""
        return Adapted(backbone.requires_grad_(False))


@described("full", "full fine-tuning")
@dataclass(frozen=True)
class Full:
    """Every parameter of the backbone is trained."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """Everything trainable."""
        return Adapted(backbone.requires_grad_(True))


@described("bitfit", "BitFit")
@dataclass(frozen=True)
class BitFit:
    """Only the biases are trained. Source: Ben Zaken et al. 2022."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """Biases trainable.

        Raises:
            ConfigError: the backbone has no biases.
        """
        backbone.requires_grad_(False)
        found = [p for name, p in backbone.named_parameters() if name.rsplit(".", 1)[-1] == "bias"]
        if not found:
            raise ConfigError(f"{type(backbone).__name__} has no biases to train; leave bitfit out.")
        for parameter in found:
            parameter.requires_grad_(True)
        return Adapted(backbone)


def targets_of(chosen: Targets, backbone: PreTrainedModel) -> str | list[str]:
    """The asked-for modules, else those that PEFT adapts by default with LoRA."""
    if chosen is not None:
        return chosen if isinstance(chosen, str) else list(chosen)
    known: Mapping[str, Sequence[str]] = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    found = known.get(backbone.config.model_type)
    if found is None:
        raise ConfigError(
            f"PEFT has no default targets for {backbone.config.model_type!r}; give target_modules."
        )
    return list(found)


def wrap(config: PeftConfig, backbone: PreTrainedModel) -> nn.Module:
    return get_peft_model(backbone, config)


@described("lora", "LoRA", writes=True)
@dataclass(frozen=True)
class Lora:
    """One LoRA shared by all tasks, by PEFT."""

    r: int = 8
    """Rank."""
    alpha: float | None = None
    """Scale is alpha / r; null: 2 r."""
    dropout: float = 0.0
    """On the input of the low-rank maps."""
    target_modules: Targets = None
    """Modules as in PEFT; null: PEFT's default for the architecture (query and value)."""
    budget: float | None = field(default=None, metadata=SHARE)
    """Parameters as a fraction of the backbone's: sets the rank."""
    rslora: bool = field(default=False, metadata=LATER)
    """Scale is alpha / sqrt(r). Source: Kalajdzievski 2023."""
    dora: bool = field(default=False, metadata=LATER)
    """Direction by LoRA, magnitude of every output learned apart (arXiv 2402.09353)."""
    start: Literal["default", "pissa"] = field(default="default", metadata=LATER)
    """`pissa`: both maps start with the principal directions of the weight, which keeps the rest (arXiv
    2404.02948)."""
    fill: bool = field(default=False, metadata=LATER)
    """Use the whole budget: some modules have a rank of one more, spread over all of them; below rank 1
    everywhere, some have none."""

    def __post_init__(self) -> None:
        """Check what is to be filled.

        Raises:
            ConfigError: there is no budget to fill, or what fills it is unknown.
        """
        if self.fill and self.budget is None:
            raise ConfigError("fill=true needs a budget, which it fills; give one, or leave fill out.")
        if self.fill and self.dora:
            raise ConfigError("fill=true cannot fill a budget with dora=true; leave one out.")
        if self.start not in ("default", "pissa"):
            raise ConfigError(f"start={shown(self.start)} is unknown; allowed: default, pissa.")

    def _build(self, backbone: PreTrainedModel, r: int, ranks: Mapping[str, int] | None = None) -> nn.Module:
        patterns = {re.escape(name): rank for name, rank in (ranks or {}).items()}
        config = LoraConfig(
            r=r,
            lora_alpha=self._alpha(r),  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=targets_of(self.target_modules, backbone) if ranks is None else list(ranks),
            rank_pattern=patterns,
            alpha_pattern={name: self._alpha(rank) for name, rank in patterns.items()},
            use_rslora=self.rslora,
            use_dora=self.dora,
            init_lora_weights=True if self.start == "default" else self.start,
            task_type=TaskType.FEATURE_EXTRACTION,
        )
        return wrap(config, backbone)

    def _alpha(self, r: int) -> float:
        return 2 * r if self.alpha is None else self.alpha

    def _ranks(self, backbone: PreTrainedModel) -> dict[str, int]:
        """A rank for every module, such that no further unit fits into the budget."""
        assert self.budget is not None
        one = self._build(copy.deepcopy(backbone), 1)
        sizes = {
            name.removeprefix("base_model.model."): count(module)
            for name, module in one.named_modules()
            if isinstance(module, LoraLayer) and isinstance(module, nn.Module)
        }
        left = int(self.budget * count(backbone, trainable=False))
        ranks = dict.fromkeys(sizes, 0)
        # Places far apart first, so that what does not suffice for all of them is spread over the layers.
        order = sorted(sizes, key=lambda name: _reversed_bits(list(sizes).index(name)))
        while any(size <= left for size in sizes.values()):
            for name in order:
                if sizes[name] <= left:
                    ranks[name] += 1
                    left -= sizes[name]
        if not any(ranks.values()):
            raise ConfigError(
                f"budget={self.budget:g} is less than one module of rank 1 ({min(sizes.values()):,} "
                "parameters); raise it."
            )
        return {name: rank for name, rank in ranks.items() if rank}

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """Wrapped by PEFT."""
        if self.fill:
            return Adapted(self._build(backbone, 1, self._ranks(backbone)))
        return Adapted(self._build(backbone, rank_within(self.budget, self.r, backbone, self._build)))


def _reversed_bits(index: int) -> int:
    """The number with its 16 bits in reverse: neighbours come far apart."""
    return int(f"{index:016b}"[::-1], 2)


@described("ia3", "(IA)3")
@dataclass(frozen=True)
class Ia3:
    """Learned scales of keys, values and feed-forward activations, by PEFT. Source: Liu et al. 2022."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """Wrapped by PEFT, at its default modules."""
        return Adapted(wrap(IA3Config(task_type=TaskType.FEATURE_EXTRACTION), backbone))


@described("prefix", "prefix tuning")
@dataclass(frozen=True)
class Prefix:
    """Learned keys and values before every layer's own, by PEFT. Source: Li and Liang 2021."""

    virtual_tokens: int = 20
    """Length of the prefix."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """Wrapped by PEFT."""
        config = PrefixTuningConfig(
            num_virtual_tokens=self.virtual_tokens, task_type=TaskType.FEATURE_EXTRACTION
        )
        return Adapted(wrap(config, backbone))


@described("poly", "Poly")
@dataclass(frozen=True)
class Poly:
    """Polytropon by PEFT: a pool of LoRAs, mixed per task. Source: Ponti et al. 2023."""

    r: int = 4
    """Rank of one LoRA."""
    skills: int = 4
    """LoRAs of the pool."""
    splits: int = 1
    """Parts of each LoRA that are mixed apart (MHR)."""
    target_modules: Targets = None
    """Modules as in PEFT; null: as LoRA."""
    router_learning_rate: float | None = 0.1
    """Learning rate of the mixing logits; null: that of the adapters."""
    budget: float | None = field(default=None, metadata=SHARE)
    """Parameters as a fraction of the backbone's: sets the rank."""
    uniform: bool = field(default=False, metadata=LATER)
    """Control: every task uses the plain average of the pool; nothing is routed or learned about mixing."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """Wrapped by PEFT; the task of every row reaches it as `task_ids`."""

        def build(copied: PreTrainedModel, r: int) -> nn.Module:
            config = PolyConfig(
                r=r,
                n_tasks=len(setup.tasks),
                n_skills=self.skills,
                n_splits=self.splits,
                target_modules=targets_of(self.target_modules, copied),
                task_type=TaskType.FEATURE_EXTRACTION,
            )
            model = wrap(config, copied)
            if self.uniform:
                _average(model)
            return model

        model = build(backbone, rank_within(self.budget, self.r, backbone, build))
        rate = None if self.uniform else self.router_learning_rate
        return Adapted(model, attach=_task_ids, rates={} if rate is None else {"module_logits": rate})


class _Average(nn.Module):
    """In the place of Poly's router: every skill weighs the same in every part, for every task."""

    def __init__(self, splits: int, skills: int) -> None:
        super().__init__()
        self.splits, self.skills = splits, skills

    def forward(self, task_ids: Tensor, input_ids: Tensor) -> Tensor:
        return input_ids.new_full((len(task_ids), self.splits, self.skills), 1 / self.skills)


def _average(model: nn.Module) -> None:
    """Replace the routers of a Poly model by the plain average; MHR's control (Caccia et al. 2023)."""
    for module in list(model.modules()):
        if isinstance(module, PolyLayer):
            for name in list(module.poly_router):
                module.poly_router[name] = _Average(module.n_splits[name], module.n_skills[name])


def _task_ids(model: MultiTaskModel) -> None:
    """Hand the task of every sequence on to a backbone that calls it `task_ids`."""
    model.rows_keyword = "task_ids"
