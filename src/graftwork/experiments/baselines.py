"""The yardsticks that need no adapters of ours: full fine-tuning, BitFit, and the methods of PEFT."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    PeftConfig,
    PolyConfig,
    PrefixTuningConfig,
    TaskType,
    get_peft_model,
)
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn
from transformers import TrainerCallback

from graftwork.errors import ConfigError
from graftwork.experiments.methods import Adapted, Setup, rank_within, register

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

    from graftwork.multitask import MultiTaskModel

__all__ = ["AdaLora", "BitFit", "Full", "Heads", "Ia3", "LinearProbe", "Lora", "Poly", "Prefix"]

Targets = str | tuple[str, ...] | None


@register("linear_probe", "linear probe", trained=False)
@dataclass(frozen=True)
class LinearProbe:
    """A linear model on frozen embeddings (`graftwork.evaluate.linear_probe`); nothing is fine-tuned."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """The backbone as it is."""
        return Adapted(backbone.requires_grad_(False))


@register("heads", "heads only")
@dataclass(frozen=True)
class Heads:
    """The frozen backbone under the same heads and training loop as the other methods."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """The backbone as it is."""
        return Adapted(backbone.requires_grad_(False))


@register("full", "full fine-tuning")
@dataclass(frozen=True)
class Full:
    """Every parameter of the backbone is trained."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """Everything trainable."""
        return Adapted(backbone.requires_grad_(True))


@register("bitfit", "BitFit")
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


def _targets(chosen: Targets, backbone: PreTrainedModel) -> str | list[str]:
    """The asked-for modules, else those that PEFT adapts by default with LoRA."""
    if chosen is not None:
        return chosen if isinstance(chosen, str) else list(chosen)
    known: Mapping[str, list[str]] = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    found = known.get(backbone.config.model_type)
    if found is None:
        raise ConfigError(
            f"PEFT has no default targets for {backbone.config.model_type!r}; give target_modules."
        )
    return list(found)


def _wrap(config: PeftConfig, backbone: PreTrainedModel) -> nn.Module:
    return get_peft_model(backbone, config)


@register("lora", "LoRA")
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
    budget: float | None = None
    """Parameters as a fraction of the backbone's: sets the rank."""

    def _build(self, backbone: PreTrainedModel, r: int) -> nn.Module:
        alpha = 2 * r if self.alpha is None else self.alpha
        config = LoraConfig(
            r=r,
            lora_alpha=alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=_targets(self.target_modules, backbone),
            task_type=TaskType.FEATURE_EXTRACTION,
        )
        return _wrap(config, backbone)

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """Wrapped by PEFT."""
        return Adapted(self._build(backbone, rank_within(self.budget, self.r, backbone, self._build)))


class _Allocate(TrainerCallback):
    """Calls AdaLoRA's `update_and_allocate` between the optimizer's step and the clearing of gradients."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.model.update_and_allocate(state.global_step)


@register("adalora", "AdaLoRA")
@dataclass(frozen=True)
class AdaLora:
    """AdaLoRA by PEFT, with its orthogonality loss and its budget schedule driven.

    PEFT adds the loss to the output of the wrapped model, which must have one: a backbone without a head has
    none, so it is given a loss of zero, and what PEFT made of it joins the loss of the batch.
    """

    r: int = 8
    """Average rank that is kept; training starts with 1.5 times as much."""
    alpha: float | None = None
    """Scale; null: 2 r."""
    target_modules: Targets = None
    """Modules as in PEFT; null: as LoRA."""
    orthogonality: float = 0.5
    """Weight of the orthogonality loss."""
    budget: float | None = None
    """Parameters that are kept, as a fraction of the backbone's: sets the rank."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """Wrapped by PEFT; warm-up and final phase last as long as those of the structure search."""
        build = Lora(target_modules=self.target_modules)._build
        r = rank_within(self.budget, self.r, backbone, build)
        steps, schedule = setup.steps, setup.schedule
        final = max(1, round((1 - schedule.discretise) * steps))
        config = AdaLoraConfig(
            init_r=r + (r + 1) // 2,
            target_r=r,
            lora_alpha=2 * r if self.alpha is None else self.alpha,  # type: ignore[arg-type]
            target_modules=_targets(self.target_modules, backbone),
            total_step=steps,
            tinit=min(round(schedule.warmup * steps), max(0, steps - final - 1)),
            tfinal=final,
            deltaT=max(1, steps // 100),
            orth_reg_weight=self.orthogonality,
            task_type=TaskType.FEATURE_EXTRACTION,
        )
        model: Any = _wrap(config, backbone)
        losses: list[Tensor] = []
        _give_loss(model.get_base_model())
        model.register_forward_hook(lambda module, args, output: losses.append(output.loss))
        return Adapted(
            model,
            callbacks=[_Allocate(model.base_model)],
            extra_loss=lambda: losses.pop() if losses else None,
            era=lambda state: state.global_step > steps - final,
            stored=lambda: _kept_ranks(model),
        )


def _give_loss(base: Any) -> None:
    """Let a backbone return a loss of zero."""
    forward = base.forward

    @functools.wraps(forward)
    def with_loss(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.loss = output.last_hidden_state.new_zeros(())
        return output

    base.forward = with_loss


def _kept_ranks(model: nn.Module) -> int:
    """Parameters of the ranks that AdaLoRA has not set to zero: `d_in + d_out + 1` each."""
    values = dict(model.named_parameters())
    total = 0
    for name, diagonal in values.items():
        if ".lora_E." in name:
            a, b = (values[name.replace(".lora_E.", f".lora_{side}.")] for side in "AB")
            total += int((diagonal != 0).sum()) * (a.shape[1] + b.shape[0] + 1)
    return total


@register("ia3", "(IA)3")
@dataclass(frozen=True)
class Ia3:
    """Learned scales of keys, values and feed-forward activations, by PEFT. Source: Liu et al. 2022."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """Wrapped by PEFT, at its default modules."""
        return Adapted(_wrap(IA3Config(task_type=TaskType.FEATURE_EXTRACTION), backbone))


@register("prefix", "prefix tuning")
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
        return Adapted(_wrap(config, backbone))


@register("poly", "Poly")
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
    budget: float | None = None
    """Parameters as a fraction of the backbone's: sets the rank."""

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """Wrapped by PEFT; the task of every row reaches it as `task_ids`."""

        def build(copied: PreTrainedModel, r: int) -> nn.Module:
            config = PolyConfig(
                r=r,
                n_tasks=len(setup.tasks),
                n_skills=self.skills,
                n_splits=self.splits,
                target_modules=_targets(self.target_modules, copied),
                task_type=TaskType.FEATURE_EXTRACTION,
            )
            return _wrap(config, copied)

        model = build(backbone, rank_within(self.budget, self.r, backbone, build))
        rate = self.router_learning_rate
        return Adapted(model, attach=_task_ids, rates={} if rate is None else {"module_logits": rate})


def _task_ids(model: MultiTaskModel) -> None:
    """Hand the task of every row on to a backbone that calls it `task_ids`."""
    rows: list[Tensor] = []

    def take(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows[:] = [kwargs["graft_rows"]]

    def give(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**kwargs, "task_ids": rows[0]}

    model.register_forward_pre_hook(take, with_kwargs=True)
    model.backbone.register_forward_pre_hook(give, with_kwargs=True)
