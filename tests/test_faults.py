"""A small part of `make test-faults`: processes that are killed at a step or while they write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parent / "faults" / "run.py"


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bits() -> None:
    done = subprocess.run([sys.executable, str(RUN), "smoke"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| yes") == 4, done.stdout
    assert "step 7 | yes" in done.stdout
