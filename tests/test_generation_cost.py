"""The benchmark of language models runs on a toy, and its variants are what it says."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from toy_writer import write_writing

pytest.importorskip("trl", reason="TRL is not installed: pip install trl")
# TRL and what it imports announce their own changes.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "generation_cost.py"
    spec = importlib.util.spec_from_file_location("generation_cost", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_small_run(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_writing(tmp_path)
    found: dict[str, Any] = benchmark.main([str(recipe), "--rows", "8", "--repeats", "1", "--new", "3"])
    printed = capsys.readouterr().out
    assert json.loads(printed.strip().splitlines()[-1]) == found
    assert set(found["ratios"]) == set(found["bounds"])
    assert all(0 < value < math.inf for value in found["ratios"].values())
    assert found["rows"] == 16  # of the two tasks that are written
    assert all(len(values) == 1 for values in found["seconds"].values())
    trained = [line.split() for line in printed.splitlines() if "trainable" in line]
    sizes = [int(words[words.index("trainable") - 1].replace(",", "")) for words in trained]
    # Beside the adapters the search has its gates, one for every task.
    assert sizes[1] <= sizes[0] <= 1.03 * sizes[1]
