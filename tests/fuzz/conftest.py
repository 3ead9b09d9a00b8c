from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guard import CASES, FULL, MARKER, bounded_memory
from hypothesis import settings

from models import write_model

LEAST = 2000
"""Cases of the full profile."""


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    MARKER.unlink(missing_ok=True)
    with bounded_memory():
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `backbone`, `data`, `recipe.yaml`, and the model `out`, never to be changed."""
    return write_model(tmp_path_factory.mktemp("trained"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if CASES:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(CASES.items()))
        terminalreporter.write_line(f"hostile input: {sum(CASES.values()):,} cases ({kinds})")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if (
        settings.get_current_profile_name() == FULL
        and session.exitstatus == 0
        and sum(CASES.values()) < LEAST
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\nonly {sum(CASES.values())} cases ran; the profile must reach {LEAST:,}")
