"""What a grid file comes to: cells, settings of runs, and one line for everything that is wrong with it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from graftwork.errors import RecipeError
from graftwork.experiments.grid.file import load_grid
from graftwork.experiments.grid.grid import Grid, Trial, make_trial
from graftwork.experiments.grid.plan import Plan
from graftwork.experiments.grid.settings import load_data, run_settings
from graftwork.experiments.methods.registry import METHODS
from graftwork.experiments.results.store import Store
from graftwork.experiments.running.compare import compare
from graftwork.recipe.length import settle_length, total_steps

PAPER = Path(__file__).parents[3] / "recipes" / "paper"
MakeGrid = Callable[..., Grid]


def finals(grid: Grid) -> list[Trial]:
    return [make_trial(grid, cell, seed=0, purpose="final") for cell in grid.cells()]


def test_cells_are_methods_x_settings_x_arrangements(make_grid: MakeGrid) -> None:
    grid = make_grid(
        methods=["graft", "lora"], arrangements=["multi", "single"], vary={"training.epochs": [1, 2]}
    )
    runs = finals(grid)
    assert len(runs) == 2 * 2 * (1 + 3)
    assert {len(run.tasks) for run in runs} == {1, 3}
    assert {run.training.epochs for run in runs} == {1, 2}


def test_a_swept_key_concerns_only_methods_that_have_it(make_grid: MakeGrid) -> None:
    grid = make_grid(
        methods=["graft", "lora", "full"],
        noise=[{"kind": "ocr", "ratio": 0.1}],
        vary={"graft.r": [1, 2], "method.r": [4, 8], "noise.ratio": [0]},
    )
    swept = [(run.method.name, dict(run.vary)) for run in finals(grid)]
    assert [vary for name, vary in swept if name == "graft"] == [
        {"graft.r": 1, "noise.ratio": 0},
        {"graft.r": 2, "noise.ratio": 0},
    ]
    assert [vary["method.r"] for name, vary in swept if name == "lora"] == [4, 8]
    assert [vary for name, vary in swept if name == "full"] == [{"noise.ratio": 0}]


def test_budget_is_one_key_for_learned_and_fixed_sizes(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["graft", "lora", "adapters", "bitfit"], vary={"budget": ["10%", 0.02]})
    runs = finals(grid)
    assert [run.graft.budget for run in runs if run.method.name == "graft"] == [0.1, 0.02]
    found = [run.method.budget for run in runs if run.method.name == "lora"]  # type: ignore[attr-defined]
    assert found == [0.1, 0.02]
    assert [run.vary["budget"] for run in runs if run.method.name == "lora"] == [0.1, 0.02]
    assert len([run for run in runs if run.method.name == "bitfit"]) == 1


def test_task_and_noise_keys_hold_for_all(make_grid: MakeGrid) -> None:
    grid = make_grid(
        noise=[{"kind": "word_drop", "ratio": 0.5}, {"kind": "labels", "ratio": 0.5}],
        vary={"noise.ratio": [0.1], "tasks.max_train": [20], "tasks.same.max_test": [10]},
    )
    (run,) = finals(grid)
    assert [noise.ratio for noise in run.noise] == [0.1, 0.1]
    assert [task.max_train for task in run.tasks] == [20, 20, 20]
    assert [task.max_test for task in run.tasks] == [None, 10, None]


def test_method_entries_have_labels_settings_and_sections_of_their_own(make_grid: MakeGrid) -> None:
    grid = make_grid(
        methods=[
            {"name": "lora", "label": "wide", "method": {"r": 64}, "training": {"epochs": 7}},
            {"name": "lora", "label": "swept", "vary": {"method.r": [1, 2]}},
        ]
    )
    runs = finals(grid)
    assert [(run.label, run.method.r, run.training.epochs) for run in runs] == [  # type: ignore[attr-defined]
        ("wide", 64, 7),
        ("swept", 1, 1),
        ("swept", 2, 1),
    ]


def test_a_base_file_is_taken_over(write_grid: Callable[..., Path]) -> None:
    base = write_grid(seeds=[4, 5]).rename(write_grid().with_name("suite.yaml"))
    path = base.with_name("grid.yaml")
    path.write_text("base: suite.yaml\nmethods: [full]\n", encoding="utf-8")
    grid = load_grid(path)
    assert grid.task_names == ("colour", "same", "length")
    assert [run.method.name for run in finals(grid)] == ["full"]


@pytest.mark.parametrize("path", sorted(PAPER.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_grids_are_read(path: Path) -> None:
    if path.stem != "suite":
        assert finals(load_grid(path))


def test_fusion_needs_two_tasks(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["adapter_fusion", "lora"], arrangements=["single", "multi"])
    assert [run.arrangement for run in finals(grid) if run.method.name == "adapter_fusion"] == ["multi"]


def test_rates_are_tuned_unless_given(make_grid: MakeGrid) -> None:
    grid = make_grid(
        methods=[
            "graft",
            "linear_probe",
            {"name": "lora", "training": {"learning_rate": 0.5}},
            {"name": "full", "learning_rates": [1e-5, 1e-4]},
        ],
        tune={"learning_rates": [0.001, 0.01]},
    )
    rates = {cell.entry.name: grid.rates(cell) for cell in grid.cells()}
    assert rates == {"graft": (0.001, 0.01), "linear_probe": None, "lora": None, "full": (1e-5, 1e-4)}


def test_all_methods_train_as_long_as_their_key_says(make_grid: MakeGrid) -> None:
    """A floor of steps and patience hold in a grid only where they are named."""
    training = {"batch_size": 16, "max_length": 16}
    plain, given, floored = (
        finals(make_grid(training={**training, **more}))[0]
        for more in ({}, {"epochs": 4}, {"min_steps": 100, "patience": 2})
    )
    assert plain.training == given.training
    assert (plain.training.epochs, plain.training.min_steps, plain.training.patience) == (4.0, None, None)
    settled = settle_length(plain.training, 288)
    assert (total_steps(settled, 288), settled.patience) == (72, 0)
    settled = settle_length(floored.training, 288)
    assert (total_steps(settled, 288), settled.patience) == (108, 2)
    datas = load_data(plain.tasks, 0)
    assert run_settings(plain, datas)["key"] != run_settings(floored, datas)["key"]


def test_rates_can_be_tuned_at_every_swept_value(make_grid: MakeGrid) -> None:
    swept = {"methods": ["graft"], "vary": {"graft.r": [1, 2]}}
    for every_value, places in ((False, {1}), (True, {1, 2})):
        grid = make_grid(**swept, tune={"learning_rates": [0.001, 0.01], "every_value": every_value})
        assert {grid.first(cell).vary["graft.r"] for cell in grid.cells()} == places
        assert len(Plan(grid, Store(grid.results)).tuning()) == 2 * len(places)


def test_what_is_left_out_is_said(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["adapter_fusion", "lora"], arrangements=["single", "multi"])
    line = "AdapterFusion: left out of runs of a single task, for it needs at least 2 tasks"
    assert list(grid.left_out()) == [line]
    console = Console(record=True, width=200, file=io.StringIO())
    compare(grid, console=console, dry_run=True)
    assert line in console.export_text()
    assert list(make_grid(methods=["adapter_fusion"]).left_out()) == []


def test_all_methods_of_the_issue_are_there() -> None:
    names = (
        "linear_probe full bitfit lora adalora ia3 prefix poly adapters adapters_ffn adapter_drop "
        "adapter_fusion shared private gumbel_switch graft random_structure"
    )
    assert set(METHODS) >= set(names.split())


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"methods": ["lorra"]}, "unknown method 'lorra'; did you mean 'lora'"),
    "no methods": ({"methods": []}, "at least one method"),
    "option": ({"methods": [{"name": "lora", "method": {"rank": 3}}]}, "unknown key 'rank'"),
    "label": ({"methods": ["lora", "lora"]}, "2 methods have the label 'LoRA'"),
    "section": ({"methods": [{"name": "lora", "graft": {"r": 3}}]}, "has no section graft"),
    "arrangement": ({"arrangements": ["both"]}, "'both' must be multi or single"),
    "vary": ({"vary": {"training.epochs": 3}}, "must be a list"),
    "swept value": ({"vary": {"training.epochs": [-1]}}, "must be above 0"),
    "noise": ({"noise": [{"kind": "typo", "ratio": 0.1}]}, "must be one of characters"),
    "noise ratio": ({"noise": [{"kind": "ocr", "ratio": 2}]}, "at most 1"),
    "key": ({"seed": [3]}, "did you mean 'seeds'"),
    "no seeds": ({"seeds": []}, "seeds is empty"),
    "a section that is a list": ({"training": [["x"]]}, r"training=\[\['x'\]\] must be a mapping"),
    "a method's section that is none": (
        {"methods": [{"name": "lora", "training": [1]}]},
        "training of method 'lora' must be a mapping",
    ),
    "swept noise that is none": (
        {"noise": [[1]], "vary": {"noise.ratio": [0.1]}},
        r"noise\[0\]=\[1\] must be",
    ),
    "size": (
        {"vary": {"training.epochs": list(range(1, 99)), "training.batch_size": list(range(1, 99))}},
        r"come to [\d,]+ places",
    ),
    "paths": ({"noise": [{"kind": "path_drop", "ratio": 0.1}]}, "no adapter paths"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_named(case: str, make_grid: MakeGrid) -> None:
    changes, message = FAULTS[case]
    with pytest.raises(RecipeError, match=message) as raised:
        make_grid(**changes)
    assert "\n" not in str(raised.value)
