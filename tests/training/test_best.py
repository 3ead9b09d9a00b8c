"""The weights of the best evaluation come back when training ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerState

import graftwork as gw
from graftwork.training.best import KeepBest
from toy_training import make_model, make_trainer

NOTHING: Any = None


def run(keep: KeepBest, *scores: float, states: list[TrainerState] | None = None) -> float:
    """The weight that is left of a training whose evaluation i had weight i."""
    model = nn.Linear(1, 1, bias=False)
    model.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)
    for number, score in enumerate(scores):
        with torch.no_grad():
            model.weight.fill_(number)
            model.frozen.fill_(number)
        state = states[number] if states else TrainerState()
        keep.on_evaluate(NOTHING, state, NOTHING, metrics={"eval_mean": score}, model=model)
    keep.on_train_end(NOTHING, states[-1] if states else TrainerState(), NOTHING, model=model)
    assert model.frozen.item() == len(scores) - 1  # not trained, so not kept either
    return model.weight.item()


def test_the_best_of_several_evaluations_is_restored() -> None:
    assert run(KeepBest(), 0.5, 0.7, 0.6) == 1
    assert run(KeepBest(), 0.5, 0.7, 0.7) == 1  # of equals the first
    assert run(KeepBest(), float("nan"), 0.1, float("nan")) == 1


def test_nothing_is_restored_where_nothing_was_evaluated() -> None:
    assert run(KeepBest(), float("nan"), float("nan")) == 1


@pytest.mark.parametrize(("steps", "left"), [([1, 2, 3], 2), ([1, 1, 2], 2), ([1, 3, 3], 1)])
def test_another_era_begins_anew(steps: list[int], left: int) -> None:
    states = [TrainerState(global_step=step) for step in steps]
    assert run(KeepBest(lambda state: state.global_step), 0.9, 0.8, 0.7, states=states) == left


def test_an_era_that_was_never_evaluated_keeps_what_was_trained_last() -> None:
    eras = iter(["search", "search", "tune"])
    assert run(KeepBest(lambda state: next(eras)), 0.9, 0.8) == 1


def test_the_model_of_a_search_is_compacted_with_its_best_weights(tmp_path: Path) -> None:
    search = gw.StructureCallback()
    keep = KeepBest(lambda state: search.structure is not None)
    model = make_model()
    trainer = make_trainer(
        tmp_path, model, callbacks=[keep, search], eval_strategy="steps", eval_steps=2, learning_rate=0.05
    )
    trainer.train()
    scores = [entry["eval_mean"] for entry in trainer.state.log_history if "eval_mean" in entry]
    tuned = [score for score, step in zip(scores, range(2, 21, 2), strict=True) if step >= 12]
    assert keep.best == max(tuned)
    assert trainer.evaluate()["eval_mean"] == pytest.approx(keep.best, abs=1e-6)
    assert gw.structure_of(model).parameters() == search.structure.parameters()  # type: ignore[union-attr]
