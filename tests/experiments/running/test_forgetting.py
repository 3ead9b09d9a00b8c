"""The drift of what the backbone could do before: a number with known ends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from graftwork.experiments.grid.grid import Grid, make_trial
from graftwork.experiments.running.forgetting import general_texts, lost_similarity
from graftwork.experiments.running.trial import run_trial

MakeGrid = Callable[..., Grid]
TRAINING = {"epochs": 3, "batch_size": 16, "learning_rate": 0.01, "max_length": 16}


def test_sentences_are_many_and_different() -> None:
    texts = general_texts()
    assert len(texts) == len(set(texts)) == 96
    assert all(text.endswith(".") and text == text.strip() for text in texts)


def test_only_what_no_head_can_undo_counts() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=(40, 16)).astype(np.float32)
    turn, _ = np.linalg.qr(rng.normal(size=(16, 16)))
    assert lost_similarity(before, before) == 0
    assert lost_similarity(before, (3 * before @ turn).astype(np.float32)) == pytest.approx(0, abs=1e-5)
    small, large = (
        lost_similarity(before, before + size * rng.normal(size=before.shape).astype(np.float32))
        for size in (0.1, 1.0)
    )
    assert small is not None
    assert large is not None
    assert 0 < small < 0.1 < large < 1
    other = rng.normal(size=before.shape).astype(np.float32)
    assert lost_similarity(before, other) == pytest.approx(1, abs=0.15)
    assert lost_similarity(before, np.ones_like(before)) == 1.0
    assert lost_similarity(np.ones_like(before), before) is None


def test_a_run_says_how_much_was_lost(make_grid: MakeGrid) -> None:
    found = {}
    for name in ("linear_probe", "heads", "graft", "full"):
        grid = make_grid(methods=[name], training=TRAINING)
        (cell,) = grid.cells()
        found[name] = run_trial(make_trial(grid, cell, seed=0, purpose="final"))["forgetting"]
    assert found["linear_probe"] == found["heads"] == 0
    assert 0 < found["graft"] < found["full"]
