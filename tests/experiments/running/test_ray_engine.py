"""The grid on a local Ray of two workers, one of which is killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from graftwork.errors import ConfigError
from graftwork.experiments.grid.grid import Grid
from graftwork.experiments.results.store import Store
from graftwork.experiments.running.compare import Summary, compare

MARK = "GRAFTWORK_TEST_RAY"


def test_without_ray_the_message_says_what_to_install(
    make_grid: Callable[..., Grid], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'graftwork\[ray\]'"):
        compare(make_grid(methods=["linear_probe"]), engine="ray", console=Console(quiet=True))


def kill_a_busy_worker(mark: str, killed: list[int], deadline: float) -> None:
    """Kill the first process that does a run; only processes of this test's own Ray carry the mark."""
    while not killed and time.monotonic() < deadline:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                busy = (folder / "cmdline").read_bytes().startswith(b"ray::perform")
                if busy and f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)
                    killed.append(int(folder.name))
                    return
            except OSError:
                continue
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers in /proc")
def test_survives_a_killed_worker(
    make_grid: Callable[..., Grid], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs graftwork[ray]")
    monkeypatch.setenv(MARK, str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    grid = make_grid(methods=["lora", "heads"], seeds=[0, 1])
    killed: list[int] = []
    hunter = threading.Thread(target=kill_a_busy_worker, args=(str(tmp_path), killed, time.monotonic() + 90))
    hunter.start()
    summary = compare(grid, engine="ray", jobs=2, console=Console(quiet=True))
    hunter.join()
    assert killed
    assert summary == Summary(4, 4, (), 4)
    assert {run["status"] for run in Store(grid.results).results()} == {"done"}
