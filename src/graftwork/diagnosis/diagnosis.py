"""Diagnosis of a structure search: what it decided, what that cost, and what is off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from graftwork.diagnosis.ablation import ABLATION_ROWS, ablate, with_ranks
from graftwork.models.outputs import RowSample
from graftwork.sparsity.budget import budget_cost, site_prices
from graftwork.tuner.gated_pools import UNDECIDED
from graftwork.tuner.view import GraftView, graft_view

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from graftwork.data.images.reader import InputReader
    from graftwork.models.multitask import MultiTaskModel
    from graftwork.progress import Phase
    from graftwork.search.callback import StructureCallback
    from graftwork.structure.structure import Structure

__all__ = ["DiagnosisCallback", "Searched", "diagnose", "gate_statistics", "soft_gates"]

Searched = Literal["structure", "path", "kept"]
"""What was searched: a structure; a path of one task through a stored pool, which nothing has to keep
small; or nothing, as the structure of an earlier model was kept."""

GAP_ROWS = 384
"""Validation rows that are scored both with soft and with hard gates."""
OPEN, CLOSED = 0.95, 0.05
"""P(open) from which a gate counts as open, and up to which as closed: both near the ends of what a clamped
hard-concrete gate reaches, 0.998 and 0.047."""
UNSURE = (0.1, 0.9)
"""P(open) between which a gate counts as undecided."""
EARLY = 0.25
"""Fraction of the time from warm-up to discretisation after which gates should still be moving."""


def gate_statistics(tables: Sequence[Sequence[Sequence[float]]]) -> dict[str, float]:
    """Fractions of the gates that are open, closed or undecided.

    Args:
        tables: P(open) of every site, [tasks, K].
    """
    values = np.array([value for table in tables for row in table for value in row])
    if not values.size:
        return {"gates": 0, "open": 0.0, "closed": 0.0, "undecided": 0.0}
    return {
        "gates": int(values.size),
        "open": float((values >= OPEN).mean()),
        "closed": float((values <= CLOSED).mean()),
        "undecided": float(((values > UNSURE[0]) & (values < UNSURE[1])).mean()),
    }


@contextmanager
def soft_gates(model: nn.Module, adapter_name: str | None = None) -> Iterator[None]:
    """Inside the context, gates that were just decided are again those of before (until compaction)."""
    view = graft_view(model, adapter_name)
    name = view.adapter_name
    masks = {site: layer.graft_mask[name].clone() for site, layer in view.sites.items()}
    try:
        for layer in view.sites.values():
            layer.set_mask(name, torch.full_like(layer.graft_mask[name], UNDECIDED))
        yield
    finally:
        for site, layer in view.sites.items():
            layer.set_mask(name, masks[site])


class DiagnosisCallback(TrainerCallback, ExportableState):
    """Measures what can only be seen during the search: gates early on, and the gap when they are decided.

    Both are in a checkpoint. Nothing random is drawn, so training goes on as it would without.

    Args:
        structure: the callback that drives the search.
        tokens: validation rows.
        tokenizer: pads them.
        seed: of the choice of rows.
        gap: score the rows when the gates are decided.
    """

    def __init__(
        self,
        structure: StructureCallback,
        tokens: Dataset,
        tokenizer: InputReader,
        *,
        seed: int = 0,
        gap: bool = True,
    ) -> None:
        self.structure = structure
        self.follows = (structure,)
        self.tokens = tokens
        self.tokenizer = tokenizer
        self.seed = seed
        self.measures_gap = gap
        self.early: dict[str, float] | None = None
        self.gap: dict[str, float] | None = None
        self._searching = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over what a checkpoint has."""
        stateful: Any = state.stateful_callbacks
        saved = stateful.get(type(self).__name__)
        if state.global_step > 0 and isinstance(saved, dict):
            self.early = saved["attributes"]["early"]
            self.gap = saved["attributes"]["gap"]
        self._searching = self._undecided

    @property
    def _undecided(self) -> bool:
        search = self.structure.search
        return search is not None and search.control is not None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the gates, and, on the step that decided them, at the scores."""
        if not self._searching:
            return
        search, schedule = self.structure.search, self.structure.schedule
        assert search is not None
        if self._undecided:
            early = schedule.warmup + EARLY * (schedule.discretise - schedule.warmup)
            if self.early is None and state.global_step >= early * state.max_steps:
                self.early = gate_statistics(_tables(search.view))
            return
        self._searching = False
        if self.measures_gap:
            self.measure(kwargs["model"])

    def measure(self, model: Any) -> None:
        """Score validation rows with the gates as they were before the structure, and with the structure."""
        search = self.structure.search
        assert search is not None
        model = getattr(model, "module", model)
        sample = RowSample(self.tokens, self.tokenizer, most=GAP_ROWS, seed=self.seed)
        with soft_gates(model, search.adapter_name):
            soft = _suite_mean(model, sample)
        hard = _suite_mean(model, sample)
        self.gap = {"rows": len(sample), "soft": soft, "hard": hard, "points": 100 * (hard - soft)}

    def state(self) -> dict[str, Any]:
        """What Trainer writes into a checkpoint's `trainer_state.json`."""
        return {"args": {}, "attributes": {"early": self.early, "gap": self.gap}}


@torch.no_grad()
def _tables(view: GraftView) -> list[list[list[float]]]:
    return [layer.prob_open(view.adapter_name).tolist() for layer in view.sites.values()]


def _suite_mean(model: MultiTaskModel, sample: RowSample) -> float:
    outputs = sample.run(model)
    assert outputs is not None
    return float(np.mean(list(outputs.scores(model).values())))


def diagnose(
    model: MultiTaskModel,
    structure: Structure,
    watch: DiagnosisCallback,
    *,
    validation: Dataset,
    of: Searched = "structure",
    progress: Phase | None = None,
) -> dict[str, Any]:
    """Everything known of a finished search, as JSON types, with `findings` as plain sentences.

    Args:
        model: the trained model, compact or not.
        structure: as it was decided, with the adapters that were closed.
        watch: the callback of the run.
        validation: rows for the ablation.
        of: what was searched.
        progress: told how far the ablation is.
    """
    from graftwork.diagnosis.findings import find

    search = watch.structure.search
    view = graft_view(model, None if search is None else search.adapter_name)
    scores = (search.scores if search is not None else None) or {}
    tables = [site["prob_open"] for site in scores.values()]
    diagnosis: dict[str, Any] = {
        "of": of,
        "gap": watch.gap,
        "size": _size(model, view, structure, None if search is None else search.soft_size),
        "gates": {"early": watch.early, "decided": gate_statistics(tables) if tables else None},
        "ablation": None,
        "open_paths": structure.counts(),
    }
    if view.sites:
        sample = RowSample(validation, watch.tokenizer, most=ABLATION_ROWS, seed=watch.seed)
        ablation = ablate(model, sample, seed=watch.seed, adapter_name=view.adapter_name, progress=progress)
        diagnosis["ablation"] = with_ranks(ablation, view, structure, scores)
    return {**diagnosis, "findings": find(diagnosis)}


def _size(
    model: MultiTaskModel, view: GraftView, structure: Structure, expected: float | None
) -> dict[str, Any]:
    """Target and realised size, in what the budget counts; the whole pool in parameters only."""
    cost = view.config.cost
    if cost == "parameters":
        pool = sum(site.cost * site.pool_size for site in structure.sites.values())
        realised: float = structure.parameters()
    else:  # prices are known of the sites that are left
        pool = None
        prices = site_prices(view)
        realised = sum(price * sum(structure.sites[site].used) for site, price in prices.items())
    return {
        "unit": cost if isinstance(cost, str) else "table",
        "target": budget_cost(model, view.adapter_name) if view.sites else None,
        "realised": realised,
        "expected": expected,
        "pool": pool,
    }
