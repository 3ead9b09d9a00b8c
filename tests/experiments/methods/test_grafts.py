"""Structures that are not learned, as methods of a grid."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from graftwork.errors import ConfigError, RecipeError, StructureError
from graftwork.experiments.grid.grid import Grid, Trial, make_trial
from graftwork.experiments.grid.settings import load_data, run_settings
from graftwork.experiments.running.trial import run_trial
from graftwork.structure.fixed import FIXED_STRUCTURES
from graftwork.structure.structure import Structure
from toys import HOULSBY

MakeGrid = Callable[..., Grid]
FINE = {"budget": 0.05, "pool_size": 8, "r": 1, **HOULSBY}
BUDGET, ADAPTER = int(0.05 * 19744), 65


def runs(grid: Grid, seed: int = 0) -> list[Trial]:
    return [make_trial(grid, cell, seed=seed, purpose="final") for cell in grid.cells()]


def fixed(structure: str, **changes: Any) -> dict[str, Any]:
    return {
        "methods": [{"name": "fixed_structure", "method": {"structure": structure}}],
        "graft": FINE,
    } | changes


@pytest.mark.parametrize("name", sorted(FIXED_STRUCTURES))
def test_controls_are_trained_at_the_budget(name: str, make_grid: MakeGrid) -> None:
    (run,) = runs(make_grid(**fixed(name)))
    result = run_trial(run)
    assert 0 <= BUDGET - result["parameters"]["stored"] < ADAPTER
    structure = Structure.from_dict(result["structure"])
    assert structure.parameters() == result["parameters"]["stored"]
    assert {task: structure.parameters(task) for task in structure.tasks} == result["parameters"]["active"]
    assert result["settings"]["method"] == {"name": "fixed_structure", "structure": name}


def test_random_structure_is_the_preset_of_random_paths(make_grid: MakeGrid) -> None:
    (preset,) = runs(make_grid(methods=["random_structure"], graft=FINE), seed=3)
    (named,) = runs(make_grid(**fixed("random_paths")), seed=3)
    assert run_trial(preset)["structure"] == run_trial(named)["structure"]


def test_a_random_structure_is_another_one_for_every_seed(make_grid: MakeGrid) -> None:
    grid = make_grid(**fixed("random"))
    first, second = (run_trial(run)["structure"] for seed in (0, 1) for run in runs(grid, seed))
    assert first != second


def test_a_search_starts_from_other_random_paths_with_every_seed(make_grid: MakeGrid) -> None:
    graft = {**FINE, "gates": "importance", "gate_start": "random"}
    grid = make_grid(methods=["graft"], graft=graft, schedule={"warmup": 0.1, "ramp": 0.3, "discretise": 0.5})
    for seed in (0, 1):
        (run,) = runs(grid, seed)
        result = run_trial(run)
        structure = Structure.from_dict(result["structure"])
        assert 0 <= BUDGET - structure.parameters() < ADAPTER
        generator = torch.Generator().manual_seed(seed)
        for name, site in structure.sites.items():
            drawn = torch.rand(len(structure.tasks), 8, generator=generator) < 0.5
            drawn[torch.randint(3, (8,), generator=generator), torch.arange(8)] |= ~drawn.any(dim=0)
            stored = torch.tensor(site.used)
            assert torch.equal(torch.tensor(site.open), drawn & stored), name


def test_a_sweep_over_structures_and_one_given_to_graft_itself(make_grid: MakeGrid) -> None:
    grid = make_grid(
        methods=["fixed_structure"], graft=FINE, vary={"method.structure": ["uniform", "top_layers"]}
    )
    assert [run.method.structure for run in runs(grid)] == ["uniform", "top_layers"]  # type: ignore[attr-defined]
    (run,) = runs(make_grid(methods=["graft"], graft={**FINE, "structure": "uniform"}))
    structure = Structure.from_dict(run_trial(run)["structure"])
    used = [sum(site.used) for site in structure.sites.values()]
    assert sorted(used) == [3, 4, 4, 4]


def test_the_structure_of_a_result_is_found_beside_the_grid_and_hashed_by_content(
    make_grid: MakeGrid, write_grid: Callable[..., Path]
) -> None:
    (run,) = runs(make_grid(**fixed("random_paths")))
    result = run_trial(run)
    folder = write_grid().parent
    for name in ("one.json", "two.json"):
        (folder / name).write_text(json.dumps(result))
    keys = []
    for name in ("one.json", "two.json"):
        (again,) = runs(make_grid(**fixed(f"file:{name}")), seed=7)
        keys.append(run_settings(again, load_data(again.tasks, 0))["key"])
    assert run_trial(again)["structure"] == result["structure"]
    assert keys[0] == keys[1]
    result["structure"]["sites"].popitem()
    (folder / "two.json").write_text(json.dumps(result))
    assert run_settings(again, load_data(again.tasks, 0))["key"] != keys[0]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (fixed("random", graft={"r": 1}), ConfigError, "structure='random' needs a budget"),
        (
            fixed("uniform", graft={"budget": 0.01, "r": 1}),
            StructureError,
            "needs an adapter at each of the 12",
        ),
        (fixed("file:no.json"), StructureError, r"there is no structure file no\.json"),
    ],
)
def test_what_cannot_be_is_one_line(
    changes: dict[str, Any], error: type[Exception], message: str, make_grid: MakeGrid
) -> None:
    (run,) = runs(make_grid(**changes))
    with pytest.raises(error, match=message) as caught:
        run_trial(run)
    assert "\n" not in str(caught.value)


def test_unknown_structures_are_refused_when_the_grid_is_read(make_grid: MakeGrid) -> None:
    with pytest.raises(ConfigError, match="structure='luck' is not known"):
        make_grid(**fixed("luck"))
    with pytest.raises(RecipeError, match=r"graft\.structure='luck' is not known"):
        make_grid(methods=["graft"], graft={**FINE, "structure": "luck"})
