"""`StructureCallback`: structure search under `transformers.Trainer` or any trainer with its callbacks."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from typing import Any

from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from graftwork.distributed.shards import is_sharded
from graftwork.errors import CheckpointError, TrainingError
from graftwork.search.compact import compact_
from graftwork.search.divergence import check_finite
from graftwork.search.schedule import Schedule
from graftwork.search.search import TRAVEL, StructureSearch
from graftwork.structure.structure import Structure
from graftwork.tuner.view import graft_tensors

__all__ = ["StructureCallback"]

logger = logging.getLogger(__name__)


class StructureCallback(TrainerCallback, ExportableState):
    """Learns the structure while Trainer trains the weights, and compacts the model at the end.

    The sparsity gradient is added in `on_pre_optimizer_step`: once per optimizer step whatever the gradient
    accumulation, after clipping, and also for trainers that ignore the model's loss. While clipping is active
    the penalty therefore weighs `grad_norm / max_grad_norm` times as much; `figures()` logs that factor.

    Args:
        warmup: fraction of the run without sparsity control (see `graftwork.search.schedule.Schedule`).
        ramp: fraction after which the full penalty or budget holds.
        discretise: fraction after which the structure is fixed and only weights are tuned.
        compact: compact the model when training ends, unless FSDP has sharded it (`graftwork.save_compact`).
        travel: how far a logit can move during the search.
        adapter_name: PEFT's name for the adapter; default the active one.

    Raises:
        ConfigError: the fractions are not in order.
        CheckpointError: in `on_train_begin`, if the checkpoint's state of the search is damaged.
        DivergenceError: when weights or gates are not finite: on a CPU after the step; elsewhere, where a
            look takes time, when the step is logged, evaluated, saved or decides the structure. Plain Trainer
            goes on, and replaces the loss in its logs (`logging_nan_inf_filter`).
        TrainingError: in `on_train_begin`, under DeepSpeed, where the gradients cannot be reached.

    Example:
        Under plain Trainer the model computes its own loss, here the mean of its last hidden state.

        >>> from peft import get_peft_model
        >>> from transformers import Trainer, TrainingArguments
        >>> model = get_peft_model(backbone, gw.GraftConfig(budget=0.03, pool_size=4))
        >>> search = gw.StructureCallback()
        >>> trainer = Trainer(
        ...     model,
        ...     TrainingArguments("runs/checkpoints", max_steps=10, report_to=[], use_cpu=True),
        ...     train_dataset=[{"input_ids": [2, 5, 3], "labels": 0}] * 16,
        ...     compute_loss_func=lambda outputs, labels, num_items_in_batch: outputs[0].mean(),
        ...     callbacks=[search],
        ... )
        >>> finished = trainer.train()
        {'train_runtime': ...}
        >>> search.structure.parameters() <= 0.03 * backbone.num_parameters()
        True
    """

    def __init__(
        self,
        *,
        warmup: float = Schedule.warmup,
        ramp: float = Schedule.ramp,
        discretise: float = Schedule.discretise,
        compact: bool = True,
        travel: float = TRAVEL,
        adapter_name: str | None = None,
    ) -> None:
        self.schedule = Schedule(warmup, ramp, discretise)
        self.compact = compact
        self.travel = travel
        self.adapter_name = adapter_name
        self.search: StructureSearch | None = None
        self.structure: Structure | None = None
        self.penalty_factor = 1.0
        self.phases: dict[str, dict[str, float]] = {}
        """Seconds (with the evaluations inside) and optimizer steps of every phase so far."""
        self._last = time.perf_counter()
        self._witness: Tensor | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set up the search, or continue the one of the checkpoint that Trainer resumed from."""
        if getattr(args, "deepspeed", None) or getattr(args, "deepspeed_plugin", None):
            raise TrainingError(
                "StructureCallback cannot work under DeepSpeed, which hides gradients from callbacks; use "
                "DDP or FSDP."
            )
        self.search = StructureSearch(
            kwargs["model"],
            state.max_steps,
            self.schedule,
            travel=self.travel,
            adapter_name=self.adapter_name,
        )
        stateful: Any = state.stateful_callbacks
        saved = stateful.get(type(self).__name__)
        attributes = saved.get("attributes") if state.global_step > 0 and isinstance(saved, dict) else None
        self._last = time.perf_counter()
        if attributes and (not isinstance(attributes, dict) or attributes.get("search_state")):
            self._resume(self.search, attributes)
            self.search.set_speed(self._learning_rates(kwargs["optimizer"], kwargs["lr_scheduler"]))
        else:
            self.phases = {}
            self.search.begin(self._learning_rates(kwargs["optimizer"], kwargs["lr_scheduler"]))
        self.structure = self.search.structure
        self._witness = next((w for w in graft_tensors(self.search.view).values() if w.requires_grad), None)

    def _resume(self, search: StructureSearch, attributes: Any) -> None:
        """Continue from the `state` of a checkpoint."""
        try:
            search.load(attributes["search_state"])
            self.phases = {
                name: {"seconds": float(phase["seconds"]), "steps": int(phase["steps"])}
                for name, phase in attributes["phases"].items()
            }
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the state of the search in trainer_state.json is damaged: {type(error).__name__}: {error}"
            ) from error

    def _learning_rates(self, optimizer: Any, scheduler: Any) -> float:
        """Sum of the gates' learning rates over the search window, as the scheduler will set them."""
        assert self.search is not None
        gate = self.search.gate_parameter()
        if gate is None:
            return 0.0
        groups = enumerate(optimizer.param_groups)
        found = [index for index, group in groups if any(parameter is gate for parameter in group["params"])]
        if not found:
            raise TrainingError("the optimizer does not hold the gates; create it after get_peft_model.")
        index = found[0]
        lambdas = getattr(scheduler, "lr_lambdas", None)
        if lambdas is None:
            return float(optimizer.param_groups[index]["lr"] * len(self.search.window))
        return float(sum(scheduler.base_lrs[index] * lambdas[index](step) for step in self.search.window))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the sparsity gradient."""
        if self.search is not None:
            self.search.before_step(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Discretise when it is time; best-model tracking then starts anew, as scores are not comparable."""
        if self.search is None:
            return
        phase = self.phases.setdefault(self.search.phase(state.global_step - 1), {"seconds": 0.0, "steps": 0})
        now = time.perf_counter()
        phase["seconds"] += now - self._last
        phase["steps"] += 1
        self._last = now
        self._check_finite(state, control)
        found = self.search.after_step(state.global_step)
        if found is not None:
            self.structure = found
            state.best_metric = None
            state.best_model_checkpoint = None
            state.best_global_step = None
            logger.info(
                "structure decided at step %d: %s stored parameters (%.0f expected)",
                state.global_step,
                f"{found.parameters():,}",
                self.search.soft_size or 0.0,
            )

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the weights before they are saved."""
        self._check_finite(state, control)

    def _check_finite(self, state: TrainerState, control: TrainerControl) -> None:
        """Check all weights and gates before they are saved, logged or decide, else a few if that is free.

        A loss that is not finite changes every weight: its gradient goes through every site.
        """
        search = self.search
        witness = self._witness
        if search is None or witness is None:
            return
        step = state.global_step
        decides = search.control is not None and (search.phase(step) == "tune" or step >= search.total_steps)
        due = control.should_save or control.should_log or control.should_evaluate or decides
        if due or (witness.device.type == "cpu" and not witness[:1].isfinite().all()):
            check_finite(graft_tensors(search.view), step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Note by how much clipping raises the weight of the penalty."""
        norm = (logs or {}).get("grad_norm")
        if norm is not None and args.max_grad_norm:
            self.penalty_factor = max(1.0, float(norm) / args.max_grad_norm)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compact, as no optimizer step follows; a sharded model keeps its closed adapters."""
        if self.search is None or not self.compact or not self.search.view.decided:
            return
        if is_sharded(kwargs["model"]):
            logger.info(
                "the model is sharded and stays as it is; write it with gw.save_compact(model, folder)"
            )
            return
        compact_(kwargs["model"], adapter_name=self.search.adapter_name)

    def figures(self) -> dict[str, float]:
        """Numbers to log at this moment (`StructureSearch.figures`), with the penalty's clipping factor."""
        return {} if self.search is None else {**self.search.figures(), "penalty_factor": self.penalty_factor}

    def state(self) -> dict[str, Any]:
        """What Trainer writes into a checkpoint's `trainer_state.json`."""
        return {
            "args": {
                **asdict(self.schedule),
                "compact": self.compact,
                "travel": self.travel,
                "adapter_name": self.adapter_name,
            },
            "attributes": {
                "search_state": None if self.search is None else self.search.state(),
                "phases": self.phases,
            },
        }
