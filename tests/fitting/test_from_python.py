"""`gw.fit`: training from Python gives what training from files gives."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest
from rich.console import Console

import graftwork as gw
from commands import fails
from graftwork.errors import DataError, DivergenceError, Interrupted, RecipeError, TrainingError
from graftwork.fitting.given import given_recipe
from graftwork.recipe.loading import load_recipe
from graftwork.recipe.settings import GraftSettings
from graftwork.training.interrupt import InterruptCallback
from toyrun import recipe_dict, write_backbone, write_recipe, write_tasks

SETTINGS: dict[str, dict[str, Any]] = {
    "colour": {},
    "same": {"text": ("first", "second"), "metric": "macro_f1", "pairs": "joint"},
    "length": {"label": "score", "kind": "regression"},
}
FILES = ("adapter_model.safetensors", "heads.safetensors", "structure.json", "tasks.json")
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("python")
    write_backbone(folder / "backbone")
    write_tasks(folder / "data")
    return folder


def rows_of(folder: Path, task: str, split: str) -> list[dict[str, Any]]:
    lines = (folder / "data" / task / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def settings(folder: Path) -> dict[str, Any]:
    recipe = recipe_dict(folder)
    return {"model": folder / "backbone", "graft": recipe["graft"], "training": recipe["training"]}


def tasks(folder: Path, form: Callable[[list[dict[str, Any]]], Any]) -> dict[str, Any]:
    splits = ("train", "validation", "test")
    return {
        name: {**own, **{split: form(rows_of(folder, name, split)) for split in splits}}
        for name, own in SETTINGS.items()
    }


FORMS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "lists": list,
    "frames": pandas.DataFrame,
    "datasets": datasets.Dataset.from_list,
}


@pytest.fixture(scope="module")
def from_files(folder: Path) -> gw.Predictor:
    return gw.fit(write_recipe(folder, recipe_dict(folder)), output=folder / "files", console=QUIET)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_rows_give_the_same_model(form: str, folder: Path, from_files: gw.Predictor) -> None:
    output = folder / form
    model = gw.fit(tasks=tasks(folder, FORMS[form]), output=output, console=QUIET, **settings(folder))
    for name in FILES:
        assert (output / name).read_bytes() == (folder / "files" / name).read_bytes(), name
    for task, before in from_files.report["tasks"].items():
        assert model.report["tasks"][task] == before  # scores, classes, rows and digests
    rows = ["a red stone", "a blue bird"]
    assert model.predict(rows, task="colour") == from_files.predict(rows, task="colour")
    recipe = load_recipe(output / "recipe.yaml")
    assert recipe.tasks[0].train == "memory:colour/train"
    assert recipe.tasks[1].text_fields == ("first", "second")


def test_splits_are_carved_as_from_a_file(folder: Path, tmp_path: Path) -> None:
    """A `DatasetDict` of one split, a list and a file; classes are sorted, whatever comes first."""
    rows = rows_of(folder, "colour", "train")
    source = folder / "data/colour/train.jsonl"
    short = {**settings(folder), "training": {"epochs": 1, "batch_size": 16, "max_length": 16}}
    parts = datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)})
    reports = [
        gw.fit(tasks={"colour": data}, console=QUIET, **short).report for data in (source, rows, parts)
    ]
    first, *others = [report["tasks"]["colour"] for report in reports]
    assert first["rows"]["test"] > 0
    assert first["labels"] == ["blue", "red"]
    assert others == [first, first]


def test_a_mapping_and_a_recipe_are_the_same_run(folder: Path) -> None:
    short = {"epochs": 1}
    raw = {**recipe_dict(folder), "tasks": recipe_dict(folder)["tasks"][:1]}
    raw["output"] = str(folder / "mapping")
    one = gw.fit(raw, training=short, console=QUIET)
    assert one.folder == folder / "mapping"
    assert one.report["recipe"]["training"]["epochs"] == 1.0
    assert one.report["recipe"]["training"]["batch_size"] == 16  # of the mapping: only a key was replaced
    recipe = load_recipe(write_recipe(folder, {**raw, "output": str(folder / "object")}, "one.yaml"), {
        "training.epochs": 1
    })  # fmt: skip
    other = gw.fit(recipe, console=QUIET)
    assert other.report["tasks"] == one.report["tasks"]
    with pytest.raises(RecipeError, match="a Recipe is complete, but training is given beside it; use"):
        gw.fit(recipe, training=short, console=QUIET)


def test_tasks_may_be_public_objects(folder: Path) -> None:
    model = gw.fit(
        tasks=[gw.Task("colour", folder / "data/colour")],
        schedule=gw.Schedule(warmup=0.1),
        console=QUIET,
        **{**settings(folder), "training": {"epochs": 1, "max_length": 16}},
    )
    assert model.report["recipe"]["schedule"]["warmup"] == 0.1


def test_without_an_output_the_folder_lasts_as_long_as_the_model(folder: Path) -> None:
    short = {**settings(folder), "training": {"epochs": 1, "max_length": 16}}
    model = gw.fit(tasks={"colour": folder / "data/colour"}, console=QUIET, **short)
    place = model.folder
    assert place is not None
    assert (place / "report.json").is_file()
    del model
    gc.collect()
    assert not place.parent.exists()


def stopped(patch: pytest.MonkeyPatch, step: int) -> None:
    original = InterruptCallback.on_step_end

    def on_step_end(self: InterruptCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.requested = self.requested or state.global_step == step
        original(self, args, state, control, **kwargs)

    patch.setattr(InterruptCallback, "on_step_end", on_step_end)


def test_an_interrupted_run_goes_on_with_the_same_rows_only(folder: Path, from_files: gw.Predictor) -> None:
    output = folder / "stopped"
    given = {**settings(folder), "output": output, "console": QUIET}
    with pytest.MonkeyPatch.context() as patch:
        stopped(patch, 20)
        advice = r"Go on with: fit\(model=model, tasks=tasks, output=output, .*, resume=True\)$"
        with pytest.raises(Interrupted, match=advice):
            gw.fit(tasks=tasks(folder, list), **given)
    others = tasks(folder, list)
    others["colour"]["train"] = others["colour"]["train"][:-1]
    with pytest.raises(
        TrainingError, match=r"the data of colour are not those the run in .* was started with"
    ):
        gw.fit(tasks=others, resume=True, **given)
    gw.fit(tasks=tasks(folder, pandas.DataFrame), resume=True, **given)
    for name in FILES:
        assert (output / name).read_bytes() == (folder / "files" / name).read_bytes()


def test_without_an_output_nothing_says_how_to_go_on(folder: Path) -> None:
    given = {**settings(folder), "tasks": {"colour": folder / "data/colour"}, "console": QUIET}
    with pytest.MonkeyPatch.context() as patch:
        stopped(patch, 3)
        with pytest.raises(Interrupted, match=r"^interrupted\. Nothing is kept, as no output was given"):
            gw.fit(**given)
    with pytest.raises(
        DivergenceError, match=r"^training diverged at step (?!.*checkpoint).*Nothing is kept"
    ):
        gw.fit(**{**given, "training": {"epochs": 1, "learning_rate": 1e30, "max_grad_norm": 0}})
    with pytest.raises(TrainingError, match="nothing to resume: without an output no run is kept"):
        gw.fit(resume=True, **given)


def test_evaluate_says_that_the_rows_are_not_kept(
    folder: Path, from_files: gw.Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(folder / "lists")
    message = fails(capsys, "evaluate", output)
    assert "test of task 'colour': the rows were given in Python and are not kept with the model" in message
    assert "score rows with --data FILE --task colour" in message
    assert "memory:colour/train are rows that were given in Python" in fails(
        capsys, "fit", f"{output}/recipe.yaml", "--output", str(folder / "never")
    )


ROWS = [{"text": f"a {word} {i}", "label": word} for i in range(10) for word in ("red", "blue")]


@pytest.mark.parametrize("scale", ["auto", 1.0, 0.3])
def test_settings_that_are_objects_keep_their_scale(scale: float | str) -> None:
    """Files leave out a scale of 1, which is not the default."""
    graft = GraftSettings(budget=0.05, scale=scale)
    given = {"model": "backbone", "tasks": {"colour": ROWS}, "output": "out", "graft": graft}
    recipe, _ = given_recipe(None, given)
    assert recipe.graft == graft
    recipe, _ = given_recipe({**given, "graft": {"budget": 0.05, "scale": 0.5}}, {"graft": graft})
    assert recipe.graft == graft


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "unknown keyword": ({"epochs": 3}, RecipeError, "unknown key 'epochs' in the recipe; did you mean 'tra"),
    "unknown in a section": ({"training": {"epoch": 3}}, RecipeError, "unknown key 'epoch' in training"),
    "wrong type": (
        {"training": {"epochs": "x"}},
        RecipeError,
        "training.epochs='x' must be a number or null",
    ),
    "no model": ({"model": None}, RecipeError, "model is missing; give a string"),
    "no tasks": ({"tasks": None}, RecipeError, "tasks is missing; give a list of at least one task"),
    "empty tasks": ({"tasks": {}}, RecipeError, "tasks is empty"),
    "tasks of text": ({"tasks": "x"}, RecipeError, "tasks is 'x'; give a mapping of names to data"),
    "no rows": ({"tasks": {"x": []}}, DataError, "train of task 'x': the list has no rows"),
    "no data": ({"tasks": {"x": {"text": "a"}}}, DataError, "task 'x' has no data; give train"),
    "data of a number": ({"tasks": {"x": 5}}, DataError, "task 'x' is 5; give its rows"),
    "texts": ({"tasks": {"x": ["a", "b"]}}, DataError, "row 1 is 'a', not a mapping of fields"),
    "missing field": ({"tasks": {"x": [{"text": "a"}]}}, DataError, "the list row 1 has no field 'label'"),
    "unknown setting": (
        {"tasks": {"x": {"train": ROWS, "txt": "a"}}},
        RecipeError,
        "unknown key 'txt' in task",
    ),
    "two names": ({"tasks": {"x": {"train": ROWS, "name": "y"}}}, RecipeError, "task 'x' has the name 'y'"),
    "no recipe": ({"recipe": 3}, RecipeError, "recipe is 3; give the path of a YAML file"),
    "no train": (
        {"tasks": {"x": datasets.DatasetDict({"dev": datasets.Dataset.from_list(ROWS)})}},
        DataError,
        r"the DatasetDict of task 'x' has no split 'train' \(its splits: dev\)",
    ),
    "budgets": ({"budgets": ["1%", "0.5%"]}, TrainingError, "the recipe has several budgets"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, folder: Path) -> None:
    changes, kind, message = BAD[case]
    given = {"model": folder / "backbone", "tasks": {"colour": ROWS}, "console": QUIET, **changes}
    with pytest.raises(kind, match=message) as caught:
        gw.fit(output=folder / "bad", **given)
    assert "\n" not in str(caught.value)
    assert not list(folder.glob("*bad*"))


def test_other_splits_of_a_data_set_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = datasets.Dataset.from_list(ROWS * 3)
    parts = datasets.DatasetDict({"train": rows, "test": rows, "unsupervised": rows})
    gw.fit(tasks={"colour": parts}, **{**settings(folder), "training": {"epochs": 1, "max_length": 16}})
    assert "note: task 'colour': unsupervised of its DatasetDict is not used" in capsys.readouterr().out
