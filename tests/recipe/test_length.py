"""How long a training is where the recipe does not say."""

from __future__ import annotations

import math

import pytest

from graftwork.errors import RecipeError
from graftwork.recipe.length import (
    EVALUATIONS,
    MIN_STEPS,
    PATIENCE,
    added_floor,
    described_length,
    settle_length,
    steps_per_epoch,
    total_steps,
)
from graftwork.recipe.settings import TrainingSettings


def test_epochs_that_are_given_are_all_there_is() -> None:
    given = TrainingSettings(epochs=3)
    assert settle_length(given, 100) == TrainingSettings(epochs=3.0, patience=0)
    assert described_length(settle_length(given, 100), 100) == "3 epochs of 100 rows, 12 steps"


@pytest.mark.parametrize("rows", [1, 31, 300, 1200, 6000, 100_000])
def test_few_rows_get_enough_steps(rows: int) -> None:
    settled = settle_length(TrainingSettings(), rows)
    steps = total_steps(settled, rows)
    assert steps >= MIN_STEPS
    assert settled.epochs == 4 or steps < MIN_STEPS + EVALUATIONS * steps_per_epoch(settled, rows)
    assert settled.patience == PATIENCE
    # The last step is evaluated, and not many more evaluations than steps are worth.
    every = settled.eval_steps or steps_per_epoch(settled, rows)
    assert steps % every == 0
    assert steps // every <= EVALUATIONS


def test_a_floor_and_patience_of_ones_own_hold_for_given_epochs_too() -> None:
    settled = settle_length(TrainingSettings(epochs=2, min_steps=100, patience=7), 320)
    assert (settled.epochs, settled.patience, settled.eval_steps) == (10.0, 7, None)
    assert settle_length(TrainingSettings(min_steps=0, patience=0), 320).epochs == 4
    assert settle_length(TrainingSettings(eval_steps=10), 320).eval_steps == 10


def test_accumulation_counts_optimizer_steps() -> None:
    training = TrainingSettings(batch_size=8, gradient_accumulation=4)
    assert steps_per_epoch(training, 320) == 10
    assert total_steps(settle_length(training, 320), 320) >= MIN_STEPS
    assert math.isclose(total_steps(TrainingSettings(epochs=0.5), 320), 5)


@pytest.mark.parametrize("name", ["min_steps", "patience"])
def test_negative_lengths_are_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=rf"training\.{name}=-1 must be at least 0"):
        TrainingSettings(**{name: -1})


@pytest.mark.parametrize(("rows", "steps"), [(40, 100), (300, 100), (640, 200), (1500, 300), (20_000, 300)])
def test_an_added_task_does_not_learn_few_rows_by_heart(rows: int, steps: int) -> None:
    assert added_floor(TrainingSettings(), rows).min_steps == steps
    for given in (TrainingSettings(epochs=3), TrainingSettings(min_steps=7)):
        assert added_floor(given, rows) is given
