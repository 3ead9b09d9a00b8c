"""`graft.trunk` and `graft.trunk_budget` from a recipe to the model, its report and what is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

import graftwork as gw
from graftwork.cli import main
from graftwork.errors import ConfigError, RecipeError
from graftwork.fitting.fit import fit
from graftwork.recipe.loading import load_recipe
from toyrun import write_run


@pytest.mark.parametrize(("setting", "value", "most"), [("trunk", 1, 2.1), ("trunk_budget", 1.6, 1.6)])
def test_a_fitted_model_keeps_to_the_limit(
    setting: str, value: float, most: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    changes = {f"graft.{setting}": value, "training.epochs": 1, "graft.budget": 0.05}
    recipe = load_recipe(write_run(tmp_path), changes)
    console = Console(record=True, quiet=False, width=200)
    report = fit(recipe, console=console)
    out = tmp_path / "out"
    said = report["trunk"]["parting"]
    assert said.startswith("tasks ")
    assert console.export_text().count(said) == 2  # at the decision, and below the structure
    predictor = gw.load(out)
    assert predictor.price() == report["trunk"]["price"] <= most
    (saved,) = out.rglob("adapter_config.json")
    config = json.loads(saved.read_text("utf-8"))
    assert config[setting] == value
    assert yaml.safe_load((out / "recipe.yaml").read_text("utf-8"))["graft"][setting] == value
    capsys.readouterr()
    main(["show", str(out)])
    assert said in " ".join(capsys.readouterr().out.split())
    texts = ["red stone", "blue river tree"]
    tasks = ["colour", "length"]
    together = predictor.predict_all(texts, tasks)
    for task in tasks:
        for row, alone in zip(together, predictor.predict(texts, task), strict=True):
            assert row["answers"][task]["task"] == task
            assert _numbers(row["answers"][task]) == pytest.approx(_numbers(alone), abs=1e-5)


def _numbers(answer: dict[str, Any]) -> list[float]:
    return [value for value in answer.values() if isinstance(value, float)] + list(
        answer.get("probabilities", {}).values()
    )


def test_what_cannot_be_is_one_line_before_anything_is_trained(tmp_path: Path):
    recipe = write_run(tmp_path)
    for value, message in ((0.5, "graft: trunk_budget=0.5 must be a number from 1"), (9, "from 1 .* to 3")):
        with pytest.raises(RecipeError, match=message):
            load_recipe(recipe, {"graft.trunk_budget": value})
    with pytest.raises(ConfigError, match="trunk=3: the backbone has 2 layers; give a number from 1 to 2"):
        fit(load_recipe(recipe, {"graft.trunk": 3}), console=Console(quiet=True))
    assert not (tmp_path / "out").exists()
