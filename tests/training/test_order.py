"""Callbacks that rely on each other come in the right order, or the training does not begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

import graftwork as gw
from graftwork.diagnosis.diagnosis import DiagnosisCallback
from graftwork.errors import TrainingError
from graftwork.experiments.methods.adapters import _Decide
from graftwork.fitting.family import _StopAtStructure, _TakeStructure
from graftwork.training.best import KeepBest
from graftwork.training.interrupt import InterruptCallback
from graftwork.training.order import check_order
from graftwork.training.patience import Patience
from toy_training import make_model, make_trainer, rows

SEARCH = gw.StructureCallback()
NOTHING: Any = None
WATCH = DiagnosisCallback(SEARCH, rows(6), NOTHING)
TAKE = _TakeStructure(SEARCH, WATCH, NOTHING, first=True, searched=True)
RIGHT = {
    "the diagnosis sees what the search decided": (SEARCH, WATCH),
    "the best weights are back before the model is compacted": (KeepBest(), SEARCH),
    "the best weights are back before sites are unwrapped": (KeepBest(), _Decide(NOTHING, {}, 1)),
    "an interrupted run saves though it was to end": (Patience(1), InterruptCallback()),
    "the search is left once it has decided": (SEARCH, _StopAtStructure(SEARCH)),
    "a structure is put in place of the one decided": (SEARCH, WATCH, TAKE),
}


@pytest.mark.parametrize("callbacks", RIGHT.values(), ids=list(RIGHT))
def test_one_order_works_and_the_other_is_refused(callbacks: tuple[TrainerCallback, ...]) -> None:
    check_order([TrainerCallback(), *callbacks])
    with pytest.raises(TrainingError, match=r"relies on what \w+ has done before it; give both"):
        check_order([*callbacks[::-1], TrainerCallback()])


def test_a_callback_that_is_not_there_cannot_be_relied_on() -> None:
    with pytest.raises(TrainingError, match="first StructureCallback, then DiagnosisCallback"):
        check_order([WATCH])
    with pytest.raises(TrainingError, match="first StructureCallback, then DiagnosisCallback"):
        check_order([gw.StructureCallback(), WATCH])
    check_order([InterruptCallback()])  # of a class there may be none


def test_a_training_in_the_wrong_order_does_not_begin(tmp_path: Path) -> None:
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = make_trainer(tmp_path, model, callbacks=[gw.StructureCallback(), KeepBest()])
    with pytest.raises(TrainingError, match="first KeepBest, then StructureCallback"):
        trainer.train()
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
