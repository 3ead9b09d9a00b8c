"""`NoiseState`: noise that is drawn anew in every pass goes on where a checkpoint left it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from graftwork.noise.applying import Measure

__all__ = ["NoiseState"]


class NoiseState(TrainerCallback, ExportableState):
    """Keeps in checkpoints from where on the noise in the model is drawn, and how much there was.

    Attributes:
        measures: the noise of `noisy_model`, to be set before the training begins.
    """

    def __init__(self) -> None:
        self.measures: Sequence[Measure] = ()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over what a checkpoint has."""
        stateful: Any = state.stateful_callbacks
        saved = stateful.get(type(self).__name__)
        if state.global_step == 0 or not isinstance(saved, dict):
            return
        for measure, stored in zip(self.measures, saved["attributes"]["noise"], strict=True):
            realised = measure.realised
            assert realised is not None
            realised.changed, realised.total = stored["changed"], stored["total"]
            realised.items = stored["items"]
            for device, content in stored["generators"].items():
                values = torch.frombuffer(bytearray(base64.b64decode(content)), dtype=torch.uint8)
                realised.generators[device] = torch.Generator(device)
                realised.generators[device].set_state(values)

    def state(self) -> dict[str, Any]:
        """What Trainer writes into a checkpoint's `trainer_state.json`."""
        found = []
        for realised in (measure.realised for measure in self.measures):
            assert realised is not None
            generators = {
                device: base64.b64encode(generator.get_state().numpy().tobytes()).decode()
                for device, generator in realised.generators.items()
            }
            found.append(
                {
                    "changed": float(realised.changed),
                    "total": float(realised.total),
                    "items": realised.items,
                    "generators": generators,
                }
            )
        return {"args": {}, "attributes": {"noise": found}}
