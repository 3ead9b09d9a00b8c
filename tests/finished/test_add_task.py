"""Adding and removing tasks as whole runs: from a model folder and a recipe to a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

import graftwork as gw
from graftwork.errors import ConfigError, DataError, RecipeError, StructureError
from graftwork.finished.evaluate import rescore
from graftwork.finished.extract import extract
from graftwork.fitting.fit import fit
from graftwork.models.files import read_structure
from graftwork.models.folder import load_model
from graftwork.models.predictor import Predictor
from graftwork.recipe.loading import load_recipe
from graftwork.recipe.task_recipe import TaskRecipe, load_task_recipe
from toyrun import recipe_dict, write_recipe, write_run

QUIET = Console(quiet=True)
IDS = torch.tensor([[2, 5, 6, 7, 9, 3], [2, 7, 8, 4, 5, 3], [2, 4, 4, 9, 5, 3]])


def task_recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    """`same`, the pairs of the toy run, as the task to add."""
    task = recipe_dict(folder)["tasks"][1]
    training = {"epochs": 3, "batch_size": 16, "learning_rate": 0.01}
    return {"tasks": [task], "training": training, **changes}


def write_task_recipe(folder: Path, name: str = "add.yaml", **changes: Any) -> Path:
    (folder / name).write_text(yaml.safe_dump(task_recipe(folder, **changes)), encoding="utf-8")
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`out`: colour and length; `more`: with same, which has private adapters."""
    folder = tmp_path_factory.mktemp("extend")
    write_run(folder)
    recipe = recipe_dict(folder)
    del recipe["tasks"][1]
    recipe["noise"] = [{"kind": "word_drop", "ratio": 0.1}]
    fit(load_recipe(write_recipe(folder, recipe)), console=QUIET)
    extend = {"private": 2, "private_budget": 0.03, "limit": 0.04}
    gw.add_task(folder / "out", write_task_recipe(folder, extend=extend), folder / "more", console=QUIET)
    return folder


@torch.no_grad()
def logits(folder: Path, tasks: int) -> list[torch.Tensor]:
    model, _ = load_model(folder)
    routes = [[task] * len(IDS) for task in range(tasks)] + [[row % tasks for row in range(len(IDS))]]
    mask = torch.ones_like(IDS)
    return [
        model(input_ids=IDS, attention_mask=mask, graft_rows=torch.tensor(rows)).logits for rows in routes
    ]


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_older_tasks_are_equal_to_the_bit_on_disk(folder: Path) -> None:
    before, after = logits(folder / "out", 2), logits(folder / "more", 2)
    assert all(torch.equal(old, new[:, : old.shape[1]]) for old, new in zip(before, after, strict=True))
    addition = read(folder / "more/report.json")["additions"][0]
    assert addition["older_tasks_change"] == 0.0


def test_the_report_has_old_and_new(folder: Path) -> None:
    old, new = read(folder / "out/report.json"), read(folder / "more/report.json")
    assert {name: new["tasks"][name] for name in old["tasks"]} == old["tasks"]
    assert set(new["tasks"]["same"]) == set(old["tasks"]["colour"])
    structure = read_structure(folder / "more")
    assert new["structure"] == structure.to_dict()
    assert structure.tasks == ("colour", "length", "same")
    parameters = new["parameters"]
    backbone = parameters["backbone"]
    assert parameters["stored"] == structure.parameters()
    assert 0 < parameters["stored"] - old["parameters"]["stored"] <= 0.03 * backbone
    own = structure.paths("same") - structure.paths("colour") - structure.paths("length")
    assert own
    assert parameters["active"]["colour"] == old["parameters"]["active"]["colour"]
    assert parameters["heads"] == old["parameters"]["heads"] + 2 * 33
    assert new["diagnosis"] == old["diagnosis"]
    addition = new["additions"][0]
    assert addition["extend"] == {
        "gates": "hard_concrete",
        "limit": 0.04,
        "private": 2,
        "private_budget": 0.03,
    }
    assert addition["diagnosis"]["open_paths"].keys() == {"same"}
    assert addition["training"]["max_length"] == 16  # the model's
    assert (
        new["bytes_on_disk"]["adapter_model.safetensors"] > old["bytes_on_disk"]["adapter_model.safetensors"]
    )


def test_every_command_takes_the_result(folder: Path, tmp_path: Path) -> None:
    report = read(folder / "more/report.json")
    again = rescore(folder / "more")["tasks"]
    assert list(again) == ["colour", "length", "same"]
    for name, task in report["tasks"].items():
        assert again[name]["score"] == pytest.approx(task["test"], abs=1e-6)
    rows = [{"first": "stone road", "second": "stone lamp"}]
    (found,) = Predictor.load(folder / "more").predict(rows, "same")
    assert set(found["probabilities"]) == {"different", "same"}
    active = extract(folder / "more", "same", tmp_path / "same")
    assert active == report["parameters"]["active"]["same"]
    assert extract(folder / "more", "colour", tmp_path / "a") == extract(
        folder / "out", "colour", tmp_path / "b"
    )
    assert torch.equal(logits(tmp_path / "a", 1)[0], logits(tmp_path / "b", 1)[0])


def test_a_task_is_learned_on_what_others_left(folder: Path, tmp_path: Path) -> None:
    """`colour`, the easy task, under another name and by the gates alone."""
    task = {**recipe_dict(folder)["tasks"][0], "name": "hue"}
    path = write_task_recipe(
        folder,
        "hue.yaml",
        tasks=[task],
        extend={"private": 0},
        training={"epochs": 8, "batch_size": 16, "learning_rate": 0.02},
    )
    report = gw.add_task(folder / "more", path, tmp_path / "four", console=QUIET)
    assert report["tasks"]["hue"]["test"] > 0.8
    assert report["parameters"]["stored"] == read(folder / "more/report.json")["parameters"]["stored"]
    before, after = logits(folder / "more", 3), logits(tmp_path / "four", 3)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert [addition["task"] for addition in report["additions"]] == ["same", "hue"]


def test_removing_the_added_task_gives_the_model_of_before(folder: Path, tmp_path: Path) -> None:
    stored = {name: read(folder / name / "report.json")["parameters"]["stored"] for name in ("out", "more")}
    done = gw.remove_task(folder / "more", "same", tmp_path / "back")
    assert done == {
        "task": "same",
        "tasks": ["colour", "length"],
        "reclaimed": stored["more"] - stored["out"],
        "stored": stored["out"],
    }
    assert read_structure(tmp_path / "back") == read_structure(folder / "out").compacted()
    before, after = logits(folder / "out", 2), logits(tmp_path / "back", 2)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    report = read(tmp_path / "back/report.json")
    assert set(report["tasks"]) == {"colour", "length"}
    assert report["parameters"]["stored"] == stored["out"]
    assert report["removals"] == [done]


def test_removing_an_older_task_keeps_the_others_up_to_rounding(folder: Path, tmp_path: Path) -> None:
    done = gw.remove_task(folder / "more", "colour", tmp_path / "less")
    assert done["tasks"] == ["length", "same"]
    before, after = logits(folder / "more", 3), logits(tmp_path / "less", 2)
    for old, new in zip(before[1:3], after[:2], strict=True):
        width = new.shape[1]
        torch.testing.assert_close(new, old[:, :width], atol=1e-5, rtol=0)
    assert list(rescore(tmp_path / "less")["tasks"]) == ["length", "same"]
    # A name that was removed is free again.
    again = task_recipe(folder, tasks=[recipe_dict(folder)["tasks"][0]])
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(again), encoding="utf-8")
    report = gw.add_task(tmp_path / "less", tmp_path / "again.yaml", tmp_path / "again", console=QUIET)
    assert list(report["tasks"]) == ["length", "same", "colour"]
    scores = rescore(tmp_path / "again")["tasks"]
    assert list(scores) == ["length", "same", "colour"]
    assert scores["colour"]["score"] == pytest.approx(report["tasks"]["colour"]["test"], abs=1e-6)


def test_a_model_without_recipe_and_report_can_grow(folder: Path, tmp_path: Path) -> None:
    extract(folder / "out", "length", tmp_path / "length")
    for name in ("recipe.yaml", "report.json"):
        (tmp_path / "length" / name).unlink()
    path = write_task_recipe(folder, "short.yaml", training={"epochs": 1, "batch_size": 16})
    report = gw.add_task(tmp_path / "length", path, tmp_path / "two", console=QUIET)
    assert list(report["tasks"]) == ["same"]
    assert read_structure(tmp_path / "two").tasks == ("length", "same")


def test_faults_leave_nothing_behind(folder: Path, tmp_path: Path) -> None:
    out, add = folder / "out", folder / "add.yaml"
    with pytest.raises(ConfigError, match="has a task 'same' already"):
        gw.add_task(folder / "more", add, tmp_path / "x", console=QUIET)
    with pytest.raises(DataError, match="exists; choose another, or pass overwrite=True"):
        gw.add_task(out, add, folder / "more", console=QUIET)
    with pytest.raises(StructureError, match="limit=1e-05 allows 0 parameters"):
        gw.add_task(out, load_task_recipe(add, {"extend.limit": 0.00001}), tmp_path / "x", console=QUIET)
    with pytest.raises(StructureError, match="unknown task 'sam'; the model has colour, length, same"):
        gw.remove_task(folder / "more", "sam", tmp_path / "x")
    extract(out, "length", tmp_path / "length")
    with pytest.raises(StructureError, match="'length' is the only task"):
        gw.remove_task(tmp_path / "length", "length", tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["length"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "x"}, "model is that of the trained model; remove it"),
        ({"graft": {"r": 2}}, "graft is that of the trained model"),
        ({"noise": []}, "noise is that of the trained model"),
        ({"training": {"max_length": 8}}, "training.max_length is that of the trained model"),
        ({"output": "x"}, "output is given on the command line"),
        ({"extend": {"privat": 1}}, "did you mean 'private'"),
        ({"extend": {"private": -1}}, "private=-1 must be"),
        ({"tasks": []}, "tasks has 0 tasks; give the one that is to be added"),
        ({"seed": -1}, "seed=-1 must be"),
    ],
)
def test_faults_of_a_task_recipe(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_task_recipe(tmp_path, **changes)
    with pytest.raises(RecipeError, match=message):
        load_task_recipe(path)


def test_a_task_recipe_is_read(tmp_path: Path) -> None:
    path = write_task_recipe(tmp_path, extend={"private": 1}, seed=3)
    recipe = load_task_recipe(path, {"training.epochs": 2, "tasks.same.max_train": 10})
    assert isinstance(recipe, TaskRecipe)
    assert (recipe.extend.private, recipe.seed, recipe.training.epochs) == (1, 3, 2)
    assert recipe.task.max_train == 10
    with pytest.raises(RecipeError, match="no such file; give the path of a YAML recipe of an added task"):
        load_task_recipe(tmp_path / "none.yaml")
