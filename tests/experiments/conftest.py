from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from graftwork.experiments.grid.file import load_grid
from graftwork.experiments.grid.grid import Grid
from toyrun import recipe_dict, write_backbone, write_tasks


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toy backbone and the toy tasks."""
    folder = tmp_path_factory.mktemp("toy")
    write_backbone(folder / "backbone")
    write_tasks(folder / "data")
    return folder


@pytest.fixture
def write_grid(toy: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a grid of short runs on the toy tasks; keywords replace its keys."""

    def write(**changes: Any) -> Path:
        grid = recipe_dict(toy)
        del grid["output"]
        grid |= {"results": str(tmp_path / "results"), "methods": ["lora"], "seeds": [0], "tune": None}
        grid["training"] |= {"epochs": 1}
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump({**grid, **changes}, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture
def make_grid(write_grid: Callable[..., Path]) -> Callable[..., Grid]:
    """The same, read."""
    return lambda **changes: load_grid(write_grid(**changes))
