"""AdaLoRA as PEFT has it, driven: its loss is used, its budget allocated, its kept ranks counted."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from peft import AdaLoraConfig, TaskType
from torch import Tensor, nn
from transformers import TrainerCallback

from graftwork.experiments.methods.baselines import Targets, targets_of, wrap
from graftwork.experiments.methods.method import Adapted, Setup, described, rank_within
from graftwork.recipe.shares import SHARE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

__all__ = ["AdaLora"]


class _Allocate(TrainerCallback):
    """Calls AdaLoRA's `update_and_allocate` between the optimizer's step and the clearing of gradients."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.model.update_and_allocate(state.global_step)


@described("adalora", "AdaLoRA", sections=("schedule",))
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
    budget: float | None = field(default=None, metadata=SHARE)
    """Parameters that are kept, as a fraction of the backbone's: sets the rank."""

    def _smallest(self, backbone: PreTrainedModel, r: int) -> nn.Module:
        """With no more ranks than are kept."""
        targets = targets_of(self.target_modules, backbone)
        return wrap(AdaLoraConfig(init_r=r, target_r=r, total_step=3, target_modules=targets), backbone)

    def adapt(self, backbone: PreTrainedModel, setup: Setup) -> Adapted:
        """Wrapped by PEFT; warm-up and final phase last as long as those of the structure search."""
        r = rank_within(self.budget, self.r, backbone, self._smallest)
        steps, schedule = setup.steps, setup.schedule
        final = max(1, round((1 - schedule.discretise) * steps))
        config = AdaLoraConfig(
            init_r=r + (r + 1) // 2,
            target_r=r,
            lora_alpha=2 * r if self.alpha is None else self.alpha,  # type: ignore[arg-type]
            target_modules=targets_of(self.target_modules, backbone),
            total_step=steps,
            tinit=min(round(schedule.warmup * steps), max(0, steps - final - 1)),
            tfinal=final,
            deltaT=max(1, steps // 100),
            orth_reg_weight=self.orthogonality,
            task_type=TaskType.FEATURE_EXTRACTION,
        )
        model: Any = wrap(config, backbone)
        losses: list[Tensor] = []
        _give_loss(model.get_base_model())

        def take(module: nn.Module, args: Any, output: Any) -> None:
            losses[:] = [output.loss]

        model.register_forward_hook(take)
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
