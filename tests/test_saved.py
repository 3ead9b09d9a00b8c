"""What an earlier version has written (`tests/saved`) is still read: a model, a checkpoint, a recipe.

The folder was written at commit 775ba7a, before the modules were put into packages. `finished` and the run
that `unfinished.partial` goes on with were trained alike, and ended with the same bits.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

import graftwork as gw
from commands import fails
from graftwork.cli import main
from graftwork.models.folder import load_model
from graftwork.recipe.loading import load_recipe

SAVED = Path(__file__).parent / "saved"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, with the current folder in it."""
    shutil.copytree(SAVED, tmp_path / "saved")
    monkeypatch.chdir(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("task", ["colour", "same", "length"])
def test_a_saved_model_predicts_what_it_did(folder: Path, task: str) -> None:
    main(
        ["predict", "finished", "--input", f"data/{task}/test.jsonl", "--task", task, "--output", "now.jsonl"]
    )
    before, now = (
        [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for name in (f"{task}.predicted.jsonl", "now.jsonl")
    )
    assert [row.get("label") for row in now] == [row.get("label") for row in before]
    for old, new in zip(before, now, strict=True):
        assert new.get("score") == pytest.approx(old.get("score"), abs=1e-5)
        assert new.get("probabilities") == pytest.approx(old.get("probabilities"), abs=1e-5)


def test_an_unfinished_run_goes_on_to_the_same_model(folder: Path) -> None:
    main(["fit", "unfinished.yaml", "--resume"])
    assert (folder / "unfinished/structure.json").read_text() == (
        folder / "resumed_structure.json"
    ).read_text()
    for name in ("adapter_model.safetensors", "heads.safetensors"):
        before, now = load_file(folder / "finished" / name), load_file(folder / "unfinished" / name)
        assert now.keys() == before.keys()
        for key, value in now.items():
            assert (value - before[key]).abs().max() < 1e-4


def test_an_unfinished_run_of_another_default_says_what_to_set(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own recipe was written when adapters had no scale, other sites were default, and pairs joint."""
    own, given = Path("unfinished.partial/recipe.yaml"), Path("unfinished.yaml")
    kept = yaml.safe_load(given.read_text())
    for name in ("placement", "position", "activation", "scale"):
        del kept["graft"][name]
    del kept["tasks"][1]["pairs"]
    given.write_text(yaml.safe_dump(kept))
    message = fails(capsys, "fit", str(given), "--resume")
    assert (
        "another recipe (its recipe.yaml: graft.scale: 1.0, graft.activation: 'gelu', graft.position: "
        "'sequential', graft.placement: 'attention+ffn', task same.pairs: 'joint'); resume with that one"
    ) in message
    assert "scale" not in yaml.safe_load(own.read_text())["graft"]


def test_a_model_saved_without_a_scale_has_none_in_any_command(folder: Path) -> None:
    values = json.loads((folder / "finished/adapter_config.json").read_text())
    assert "scale" not in values
    assert gw.GraftConfig.from_pretrained(folder / "finished").scale == 1.0
    recipe = folder / "finished/recipe.yaml"
    assert "scale" not in yaml.safe_load(recipe.read_text())["graft"]
    assert load_recipe(recipe, saved=True).graft.scale == 1.0
    assert load_recipe(recipe).graft.scale == 1.0  # to fit it anew
    rows = [{"text": f"{word} {index}", "label": word} for word in ("red", "blue") for index in range(12)]
    Path("words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("add.yaml").write_text("tasks: [{name: words, train: words.jsonl}]\ntraining: {epochs: 1}\n")
    main(["add-task", "finished", "add.yaml", "--output", "more", "--set", "extend.private=1"])
    report = json.loads(Path("more/report.json").read_text())
    assert report["additions"][0]["older_tasks_change"] == 0.0
    more = gw.GraftConfig.from_pretrained(folder / "more")
    assert (more.scale, more.activation, more.position) == (1.0, "gelu", "sequential")
    assert load_recipe(folder / "more/recipe.yaml", saved=True).graft.scale == 1.0
    loaded, _ = load_model(folder / "more")
    pools = [
        pool for part in loaded.modules() if isinstance(part, gw.GraftLayer) for pool in part.pools.values()
    ]
    assert {pool.scale for pool in pools} == {1.0}


def test_the_recipe_of_a_saved_model_is_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", "finished"])
    assert "colour" in capsys.readouterr().out
