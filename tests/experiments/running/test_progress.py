"""A comparison whose output goes into a file says how far it is."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from graftwork.experiments.grid.grid import Grid
from graftwork.experiments.running.compare import compare


def test_a_log_has_lines_with_run_and_share(
    make_grid: Callable[..., Grid], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftwork.experiments.running.progress.EVERY", 0.0)
    log = io.StringIO()
    compare(make_grid(methods=["lora", "bitfit"]), console=Console(file=log, width=60))
    lines = [line for line in log.getvalue().splitlines() if " done; at " in line]
    assert lines[0].startswith("final runs: 0 of 2 done; at LoRA")
    assert any(" %)" in line for line in lines)
    assert any(
        line.startswith("final runs: 1 of 2 done; at BitFit") and line.endswith(" left") for line in lines
    )


def test_a_short_comparison_says_nothing_of_it(
    make_grid: Callable[..., Grid], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftwork.experiments.running.progress.EVERY", 1e9)
    log = io.StringIO()
    compare(make_grid(methods=["bitfit"]), console=Console(file=log))
    assert " done; at " not in log.getvalue()
