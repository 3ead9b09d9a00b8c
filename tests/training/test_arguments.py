"""A processor that only imitates bfloat16 is named before a run takes ten times as long."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from graftwork.recipe.settings import TrainingSettings
from graftwork.training import arguments
from graftwork.training.arguments import training_arguments


def test_slowdown_is_that_of_the_machine() -> None:
    assert 0.05 < arguments.bfloat16_slowdown() < 1000


@pytest.mark.parametrize(("bf16", "times", "warned"), [(True, 40.0, 1), (True, 0.7, 0), (False, 40.0, 0)])
def test_slow_bfloat16_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: bool, times: float, warned: int
) -> None:
    monkeypatch.setattr(arguments, "bfloat16_slowdown", lambda: times)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        training_arguments(TrainingSettings(epochs=1, bf16=bf16), folder=tmp_path, rows=10, seed=0)
    texts = [str(each.message) for each in found if "bfloat16" in str(each.message)]
    assert len(texts) == warned
    assert all("takes 40 times as long" in text and "training.bf16 false" in text for text in texts)
