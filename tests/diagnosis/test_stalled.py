"""A rate that ruins a run is noticed at the end of the warm-up, and a run that learns is let alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from commands import fails
from graftwork.cli import main
from graftwork.diagnosis.stalled import guessed_loss, spreads
from graftwork.models.outputs import Outputs
from toy_heads import HEADS
from toyrun import write_run


def outputs(spread: float) -> Outputs:
    """Of four rows of every task."""
    rows = torch.arange(3).repeat(4)
    logits = torch.ones(12, 3) + spread * torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.where(rows == 1, torch.linspace(-1, 1, 12), torch.arange(12) // 3 % 2).float()
    return Outputs(logits, labels, rows)


def test_rows_that_get_the_same_outputs_have_no_spread() -> None:
    assert spreads(outputs(0.0), HEADS) == [0.0] * 3
    assert max(spreads(outputs(1e-5), HEADS)) < 1e-4
    assert min(spreads(outputs(0.1), HEADS)) > 1e-2


def test_padding_beyond_a_head_tells_nothing() -> None:
    found = outputs(0.0)
    found.logits[:, 2] = torch.arange(12)
    assert spreads(found, HEADS[:2]) == [0.0, 0.0]


def test_the_loss_of_guessing_is_entropy_and_variance() -> None:
    found = outputs(0.0)
    scores = found.labels[found.rows == 1]
    expected = (2 * math.log(2) + float(scores.var(correction=0))) / 3
    assert guessed_loss(found, HEADS) == pytest.approx(expected, rel=1e-5)


def test_a_rate_that_ruins_the_run_is_named_and_a_lower_one_advised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(write_run(tmp_path))
    error = fails(capsys, "fit", recipe, "--set", "training.learning_rate=10", "--set", "training.epochs=10")
    assert "nothing is learned: at step 27 the outputs of 3 of 3 tasks hardly differ" in error
    assert "compares with 0.796 of guessing. The learning rate 10 is too high" in error
    assert error.rstrip().endswith("--set training.epochs=10 --overwrite --set training.learning_rate=3.3")
    assert not (tmp_path / "out").exists()
    main(["fit", recipe, "--overwrite"])
    assert (tmp_path / "out").is_dir()
