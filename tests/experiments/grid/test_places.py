from __future__ import annotations

import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from graftwork.data.splits import load_task
from graftwork.experiments.grid.file import load_grid
from graftwork.experiments.grid.grid import Grid, Trial, make_trial
from graftwork.experiments.grid.places import as_given, without_places
from graftwork.experiments.grid.plan import Plan
from graftwork.experiments.results.store import Store
from graftwork.experiments.running import trial
from graftwork.experiments.running.pool import attempt


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("${DATA:-../data}/qnli", "${DATA:-../data}/qnli"),
        ("data/qnli", "data/qnli"),
        ("~/qnli", "~/qnli"),
        ("hub:a/b", "hub:a/b"),
        ("package:name/sub", "package:name/sub"),
        ("/work/data/qnli", "../data/qnli"),
    ],
)
def test_a_path_is_told_as_it_was_given(text: str, told: str) -> None:
    assert as_given(text, Path("/work/grids")) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/work/data/qnli/train.jsonl line 3", "${DATA}/qnli/train.jsonl line 3"),
        ("cannot open '/home/me/a-b/x.json'", "cannot open '.../x.json'"),
        ("see https://host/a/b/c, and/or 3/4/5, ../a/b", "see https://host/a/b/c, and/or 3/4/5, ../a/b"),
        ("${DATA:-../data}/qnli/x is there", "${DATA:-../data}/qnli/x is there"),
        (f"File {sysconfig.get_paths()['purelib']}/torch/nn/x.py", "File torch/nn/x.py"),
    ],
)
def test_a_message_holds_no_absolute_path(text: str, told: str) -> None:
    assert without_places(text, {"/work/data/qnli": "${DATA}/qnli"}) == told


def test_a_traceback_names_files_from_where_python_finds_them() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.nn.Linear(2, 3)(torch.zeros(5))
    text = without_places("".join(traceback.format_exception(caught.value)), {})
    assert 'File "torch/nn/modules/linear.py"' in text
    assert not any(path in text for path in sys.path if path.startswith("/"))


def test_results_name_their_sources_as_the_grid_does(
    write_grid: Callable[..., Path], toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOYS", str(toy))
    tasks = [
        {"name": "colour", "train": "${TOYS}/data/colour"},
        {"name": "same", "train": str(toy / "data/same"), "text": ["first", "second"]},
    ]
    path = write_grid(methods=["linear_probe", "heads"], model="${TOYS}/backbone", tasks=tasks)
    grid: Grid = load_grid(path)
    jobs, _ = Plan(grid, Store(tmp_path)).finals()
    expected = {
        "model": "${TOYS}/backbone",
        "tasks": {"colour": "${TOYS}/data/colour", "same": as_given(str(toy / "data/same"), tmp_path)},
    }
    store = Store(tmp_path / "made")

    def fails(run: Trial, **options: Any) -> Any:
        raise ValueError(f"{run.tasks[0].train}/train.jsonl is broken, and {toy}/elsewhere/x too")

    original = trial.train_trial
    for job in jobs:
        monkeypatch.setattr(trial, "train_trial", fails if job.run.method.name == "heads" else original)
        (result,) = attempt(job, store)
        assert result["sources"] == expected
        whole = store.path(job.key).read_text(encoding="utf-8")
        assert str(toy) not in whole
        assert str(Path(__file__).parent) not in whole
        if result["status"] == "failed":
            told = "ValueError: ${TOYS}/data/colour/train.jsonl is broken, and .../x too"
            assert result["error"] == told
            assert told in result["traceback"]


def test_what_lies_beside_the_base_of_a_grid_is_found_there(toy: Path, tmp_path: Path) -> None:
    base = tmp_path / "recipe.yaml"
    link = tmp_path / "there"
    link.symlink_to(toy)
    tasks = [{"name": "colour", "train": "${NOWHERE:-there/data}/colour"}, {"name": "same", "train": "gone"}]
    base.write_text(yaml.safe_dump({"model": "there/backbone", "output": "out", "tasks": tasks}))
    (tmp_path / "grids").mkdir()
    path = tmp_path / "grids/grid.yaml"
    path.write_text(yaml.safe_dump({"base": "../recipe.yaml", "methods": ["heads"]}))
    grid = load_grid(path)
    assert grid.raw["model"] == "../there/backbone"
    assert [task["train"] for task in grid.raw["tasks"]] == ["${NOWHERE:-../there/data}/colour", "gone"]
    run = make_trial(grid, next(iter(grid.cells())), seed=0, purpose="final")
    assert load_task(run.tasks[0]).counts["train"] == 96
