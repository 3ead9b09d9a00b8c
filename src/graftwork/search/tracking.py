"""Figures and gates of the structure search in every tracker of Transformers: TensorBoard, W&B, MLflow and so on.

    trainer = Trainer(model, args, callbacks=[StructureCallback()], ...)   # args.report_to names the trackers
    track(trainer)

`MultiTaskTrainer` does this itself. Every log of a run gains, beside loss and scores, as `graft/<name>`:

| name | what |
|---|---|
| `expected_parameters`, `realised_parameters`, `pool_parameters` | stored adapter parameters: expected over the gates, of the structure that would be (or was) decided, on offer |
| `active_parameters_<task>`, `realised_active_parameters_<task>` | the same on the path of one task |
| `expected_flops`, `realised_flops` | FLOPs per token of the stored adapters, all of which one pass of a multi-task model computes |
| `expected_flops_<task>`, `realised_flops_<task>` | those of the adapters on the path of one task, which its extracted model computes |
| `backbone_flops` | FLOPs per token of the backbone, to be added to those of the adapters |
| `open_paths_<task>` | open adapters of the structure |
| `gates_q10`, `gates_q50`, `gates_q90` | quantiles of all gates as evaluation uses them |
| `up_norm`, `penalty_factor`, `multiplier_1`, `multiplier_2`, `penalty` | the search (`StructureSearch.figures`) |

TensorBoard also gets a histogram of the gates of every task, `graft/gates/<task>`.

A FLOP is a multiplication or an addition of a linear map: an adapter of rank r has `2 r (d_in + d_out)` per
token, the backbone two for every weight of its linear maps (`graftwork.tuner.cost`). Attention scores, norms,
embeddings, biases and the gates themselves are left out. While gates are learned the expected figures weigh an
adapter with P(open); for what is stored, with the highest P(open) of all tasks.
"""  # noqa: E501 - a table

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import TrainerCallback

from graftwork.search.callback import StructureCallback
from graftwork.search.discretise import structure_of
from graftwork.structure.structure import Structure
from graftwork.tuner.cost import adapter_price, backbone_flops
from graftwork.tuner.view import GraftView

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

__all__ = ["TrackingCallback", "event_folder", "gate_values", "keep_events", "size_figures", "track"]

QUANTILES = (0.1, 0.5, 0.9)
"""Quantiles of all gates that are logged."""


def track(trainer: Trainer) -> None:
    """Let the trackers of a trainer log the figures of its `StructureCallback`.

    Trainer calls its trackers before the callbacks it is given, so that these come too late to add to a log;
    the callback that this function adds is the first of all.

    Args:
        trainer: any Trainer, before `train()`; one without a `StructureCallback` logs as before.

    Example:
        >>> from peft import get_peft_model
        >>> from transformers import Trainer, TrainingArguments
        >>> model = get_peft_model(backbone, gw.GraftConfig(budget=0.03, pool_size=4))
        >>> arguments = TrainingArguments("runs/checkpoints", report_to="tensorboard", use_cpu=True)
        >>> trainer = Trainer(model, arguments, callbacks=[gw.StructureCallback()])
        >>> gw.track(trainer)
        >>> type(trainer.callback_handler.callbacks[0]).__name__
        'TrackingCallback'
    """
    callbacks = trainer.callback_handler.callbacks
    if not any(isinstance(item, TrackingCallback) for item in callbacks):
        callbacks.insert(0, TrackingCallback(callbacks))


def keep_events(trainer: Trainer, folder: Path) -> None:
    """Let TensorBoard's event files of a trainer go to a folder, rather than below its checkpoints."""
    for callback in _tensorboards(trainer.callback_handler.callbacks):
        callback.logging_dir = str(folder.expanduser())


def event_folder(output: Path) -> Path:
    """Where the event files of a run go: beside its output, or where TENSORBOARD_LOGGING_DIR says."""
    given = os.environ.get("TENSORBOARD_LOGGING_DIR")
    folder = Path(given) if given else output.with_name(f"{output.name}.runs")
    return folder / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def _tensorboards(callbacks: Iterable[TrainerCallback]) -> list[Any]:
    from transformers.integrations.integration_utils import TensorBoardCallback

    return [callback for callback in callbacks if isinstance(callback, TensorBoardCallback)]


class TrackingCallback(TrainerCallback):
    """Adds the figures of the search to every log, and its gates to TensorBoard; put in place by `track`.

    Args:
        callbacks: all callbacks of the trainer.
    """

    def __init__(self, callbacks: Iterable[TrainerCallback]) -> None:
        self.callbacks = callbacks

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add to the log in place: callbacks share it, and the trainer's history has a copy."""
        found = next((item for item in self.callbacks if isinstance(item, StructureCallback)), None)
        if logs is None or found is None or found.search is None or "train_runtime" in logs:
            return
        view = found.search.view
        gates = gate_values(view)
        structure = structure_of(found.search.model, view.adapter_name)
        numbers = found.figures() | size_figures(view, structure) | _quantiles(gates)
        figures = {f"graft/{name}": value for name, value in numbers.items()}
        logs.update(figures)
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1].update(figures)
        if state.is_world_process_zero:
            self._draw_gates(gates, state.global_step)

    def _draw_gates(self, gates: dict[str, Tensor], step: int) -> None:
        """Write the histograms, if there is a TensorBoard writer to write them with."""
        writers = [callback.tb_writer for callback in _tensorboards(self.callbacks)]
        for writer in writers:
            for task, values in gates.items():
                if writer is not None and values.numel():
                    writer.add_histogram(f"graft/gates/{task}", values, step)


@torch.no_grad()
def gate_values(view: GraftView) -> dict[str, Float[Tensor, " gates"]]:
    """The gates of every task over all sites, as evaluation uses them: learned, or the decided 0 and 1."""
    name = view.adapter_name
    tables = [site.evaluation_gates(name).float().cpu() for site in view.sites.values()]
    whole = torch.cat(tables, dim=1) if tables else torch.zeros(len(view.config.tasks), 0)
    return dict(zip(view.config.tasks, whole, strict=True))


def _quantiles(gates: dict[str, Tensor]) -> dict[str, float]:
    values = torch.cat(list(gates.values())) if gates else torch.zeros(0)
    if not values.numel():
        return {}
    # `torch.quantile` refuses more than 16 million values.
    found = torch.quantile(values[: 1 << 24], torch.tensor(QUANTILES)).tolist()
    return {f"gates_q{round(100 * q)}": value for q, value in zip(QUANTILES, found, strict=True)}


@torch.no_grad()
def size_figures(view: GraftView, structure: Structure) -> dict[str, float]:
    """FLOPs per token, expected and realised, and the parameters on every task's path (see above)."""
    name = view.adapter_name
    tasks = structure.tasks
    expected, realised = torch.zeros(len(tasks)), torch.zeros(len(tasks))
    stored_expected = stored_realised = 0.0
    for place, site in view.sites.items():
        price = adapter_price("flops", place, site.pools[name])
        chance = site.prob_open(name).float().cpu()
        expected += price * chance.sum(dim=1)
        stored_expected += price * float(chance.amax(dim=0).sum())
        if place in structure.sites:
            table = torch.tensor(structure.sites[place].open, dtype=torch.float32)
            realised += price * table.sum(dim=1)
            stored_realised += price * float(table.amax(dim=0).sum())
    numbers = {
        "backbone_flops": float(backbone_flops(view.backbone)),
        "expected_flops": stored_expected,
        "realised_flops": stored_realised,
    }
    for t, task in enumerate(tasks):
        numbers[f"expected_flops_{task}"] = float(expected[t])
        numbers[f"realised_flops_{task}"] = float(realised[t])
        numbers[f"realised_active_parameters_{task}"] = float(structure.parameters(task))
    return numbers
