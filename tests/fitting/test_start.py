"""Going on from a finished model: `graftwork fit --from DIR`, `gw.fit(start=DIR)`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

import graftwork as gw
from commands import fails
from graftwork.cli import main
from graftwork.errors import CheckpointError, DataError, Interrupted, RecipeError, TrainingError
from graftwork.finished.add_task import add_task
from graftwork.finished.evaluate import rescore
from graftwork.fitting.fit import fit
from graftwork.models.folder import load_model
from graftwork.recipe.loading import load_recipe
from graftwork.training.interrupt import InterruptCallback
from toyrun import WORDS, recipe_dict, write_backbone, write_lines, write_recipe, write_run

QUIET = Console(quiet=True)
WEIGHTS = ("adapter_model.safetensors", "heads.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished model `out` of three tasks, and `carved` of one whose splits are carved."""
    folder = tmp_path_factory.mktemp("start")
    fit(load_recipe(write_run(folder)), console=QUIET)
    rows = [{"text": f"{word} {i} road", "label": word} for i in range(60) for word in WORDS[:2]]
    write_lines(folder / "carved.jsonl", rows)
    raw = {**recipe_dict(folder), "output": str(folder / "carved")}
    raw["tasks"] = [{"name": "colour", "train": str(folder / "carved.jsonl")}]
    raw["training"] = {**raw["training"], "epochs": 1}
    fit(load_recipe(write_recipe(folder, raw, "carved.yaml")), console=QUIET)
    return folder


def go_on(folder: Path, name: str, *arguments: str, start: str = "out") -> dict[str, Any]:
    """The report of `graftwork fit --from`."""
    output = folder / name
    main(["fit", *arguments, "--from", str(folder / start), "--output", str(output)])
    report: dict[str, Any] = json.loads((output / "report.json").read_text(encoding="utf-8"))
    return report


def paths(report: dict[str, Any]) -> dict[str, Any]:
    """The open adapters of every task and site, sites without one left out."""
    sites = gw.Structure.from_dict(report["structure"]).compacted().sites
    return {name: site.open for name, site in sites.items()}


def test_the_command_trains_the_model_further(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((folder / "out/report.json").read_text(encoding="utf-8"))
    report = go_on(folder, "further", "--set", "training.epochs=1", "--set", "training.learning_rate=0.003")
    assert "before: " in capsys.readouterr().out
    assert paths(report) == paths(before)
    assert report["parameters"]["stored"] == before["parameters"]["stored"]
    start = report["start"]
    assert start["folder"] == str(folder / "out")
    assert len(start["sha256"]) == 64
    for name, task in before["tasks"].items():
        found = start["tasks"][name]
        assert found["test"] == pytest.approx(task["test"], abs=1e-6)
        assert (found["reported"], found["same_rows"]) == (task["test"], True)
        assert report["tasks"][name]["sha256"] == task["sha256"]
    assert "search" not in report["phases"]
    assert report["diagnosis"]["of"] == "kept"
    assert not any("budget of" in finding for finding in report["diagnosis"]["findings"])
    assert report["phases"]["tune"]["steps"] == 18
    for name in WEIGHTS:
        assert (folder / "further" / name).read_bytes() != (folder / "out" / name).read_bytes()
    recipe = load_recipe(folder / "further/recipe.yaml")
    assert recipe.graft == load_recipe(folder / "out/recipe.yaml").graft
    assert recipe.training.learning_rate == 0.003
    assert recipe.start is not None
    assert Path(recipe.start).resolve() == (folder / "out").resolve()
    scores = rescore(folder / "further")["tasks"]
    assert all(
        scores[name]["score"] == pytest.approx(task["test"], abs=1e-6)
        for name, task in report["tasks"].items()
    )


def test_training_begins_with_the_weights_of_the_model(folder: Path) -> None:
    """With a rate of nearly nothing the outputs stay, for a subset in another order, too."""
    tiny = ["--set", "training.learning_rate=1e-12", "--set", "training.epochs=1"]
    raw = recipe_dict(folder)
    raw["tasks"] = [raw["tasks"][2], raw["tasks"][0]]
    report = go_on(folder, "subset", str(write_recipe(folder, raw, "subset.yaml")), *tiny)
    assert list(report["tasks"]) == ["length", "colour"]
    whole, _ = load_model(folder / "out")
    small, _ = load_model(folder / "subset")
    ids = torch.tensor([[2, 5, 6, 3], [2, 7, 8, 3]])
    with torch.no_grad():
        old = whole(input_ids=ids, graft_rows=torch.tensor([0, 2])).logits
        new = small(input_ids=ids, graft_rows=torch.tensor([1, 0])).logits
    torch.testing.assert_close(new, old, atol=1e-4, rtol=0)
    assert small.heads.heads[0].mean == whole.heads.heads[2].mean


def test_frozen_weights_and_paths_stay(folder: Path) -> None:
    model = gw.fit(start=folder / "out", training={"epochs": 1}, output=folder / "python", console=QUIET)
    assert model.report["start"]["sha256"]
    trained = {n for n, p in model.model.named_parameters() if not n.startswith("backbone") or ".graft_" in n}
    old = dict(load_model(folder / "out")[0].named_parameters())
    for name, value in model.model.named_parameters():
        if name not in trained:
            assert torch.equal(value, old[name]), name
    moved = [n for n, p in model.model.named_parameters() if n in trained and not torch.equal(p, old[n])]
    assert any(".graft_down" in name for name in moved)
    assert any(name.startswith("heads.weight") for name in moved)


def test_it_goes_on_from_a_model_that_went_on_and_one_with_a_task_added(folder: Path) -> None:
    rows = [{"text": f"{word} {other} road", "label": word} for word in WORDS[:3] for other in WORDS[3:]]
    write_lines(folder / "words/train.jsonl", rows)
    short = {"epochs": 1}
    task = {"tasks": [{"name": "words", "train": str(folder / "words")}], "training": short}
    add_task(folder / "out", write_recipe(folder, task, "task.yaml"), folder / "four", console=QUIET)
    once = gw.fit(start=folder / "four", training=short, output=folder / "four-on", console=QUIET)
    assert list(once.report["tasks"]) == ["colour", "same", "length", "words"]
    twice = gw.fit(start=folder / "four-on", training=short, console=QUIET)
    assert twice.report["start"]["folder"] == str(folder / "four-on")
    assert paths(twice.report) == paths(once.report)
    assert twice.predict(["red stone road"], task="words")[0]["label"] in WORDS[:3]


def test_more_rows_for_one_task_from_python(folder: Path) -> None:
    """The settings, and the splits that are not given, are those of the model."""
    draw = [f"{WORDS[3 + i % 7]} {WORDS[3 + i % 5]} {WORDS[3 + i % 6]}" for i in range(40)]
    new = [{"first": text, "second": f"{text.split()[0]} lamp", "label": "same"} for text in draw]
    new += [{**row, "second": "road lamp", "label": "different"} for row in new]
    lines = (folder / "data/same/test.jsonl").read_text(encoding="utf-8").splitlines()
    scored = {(row["first"], row["second"]) for row in map(json.loads, lines)}
    new = [row for row in new if (row["first"], row["second"]) not in scored]
    model = gw.fit(start=folder / "out", tasks={"same": new}, training={"epochs": 1}, console=QUIET)
    same = model.report["tasks"]["same"]
    assert same["rows"] == {"train": len(new), "validation": 48, "test": 48}
    assert same["metric"] == "macro_f1"
    assert same["labels"] == ["different", "same"]
    assert model.report["start"]["tasks"]["same"]["same_rows"] is True


def stopped(patch: pytest.MonkeyPatch, step: int) -> None:
    original = InterruptCallback.on_step_end

    def on_step_end(self: InterruptCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.requested = self.requested or state.global_step == step
        original(self, args, state, control, **kwargs)

    patch.setattr(InterruptCallback, "on_step_end", on_step_end)


def test_an_interrupted_run_resumes_to_the_same_bits(folder: Path, tmp_path: Path) -> None:
    start = shutil.copytree(folder / "carved", tmp_path / "model")
    given = {"start": start, "model": folder / "backbone", "training": {"epochs": 2}, "console": QUIET}
    given["tasks"] = {"colour": folder / "carved.jsonl"}
    gw.fit(output=tmp_path / "whole", **given)
    with pytest.MonkeyPatch.context() as patch:
        stopped(patch, 8)
        with pytest.raises(Interrupted, match="at step 8 of 12"):
            gw.fit(output=tmp_path / "half", **given)
    weights = (start / "heads.safetensors").read_bytes()
    others = {name: 2 * value for name, value in load_file(start / "heads.safetensors").items()}
    save_file(others, start / "heads.safetensors")
    with pytest.raises(TrainingError, match=r"is not the model the run in .* was started from; put it back"):
        gw.fit(output=tmp_path / "half", resume=True, **given)
    (start / "heads.safetensors").write_bytes(weights)
    gw.fit(output=tmp_path / "half", resume=True, **given)
    for name in WEIGHTS:
        assert (tmp_path / "half" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_other_splits_of_the_same_rows_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another seed would carve other test rows out of rows that were trained on."""
    output = ["--output", str(folder / "never")]
    message = fails(capsys, "fit", "--from", str(folder / "carved"), "--seed", "1", *output)
    assert "of its texts are test rows of" in message
    assert "give the rows as they were, or test rows of their own" in message
    assert not (folder / "never").exists()


def carved_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "carved.jsonl").read_text(encoding="utf-8").splitlines()]


def test_more_rows_are_not_carved_anew(folder: Path) -> None:
    more = [{"text": f"{word} {i} lamp", "label": word} for i in range(60) for word in WORDS[:2]]
    given = {"start": folder / "carved", "console": QUIET, "training": {"epochs": 1}}
    with pytest.raises(DataError, match="of its texts are test rows of"):
        gw.fit(tasks={"colour": carved_rows(folder) + more}, **given)
    model = gw.fit(tasks={"colour": {"train": more, "test": [{**row, "text": row["text"] + " tree"} for row in more]}}, **given)  # fmt: skip  # noqa: E501
    assert model.report["start"]["tasks"]["colour"]["same_rows"] is False
    tested = {"train": more, "test": carved_rows(folder)}
    with pytest.raises(DataError, match=r"test of task 'colour': 96 of its texts are train rows of .*carved"):
        gw.fit(tasks={"colour": tested}, **given)


def test_a_few_duplicates_of_other_sources_are_noted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = [{"text": f"{word} {i} tree", "label": word} for i in range(60) for word in WORDS[:2]]
    tested = [{**row, "text": row["text"] + " road"} for row in fresh]
    given = {"start": folder / "carved", "training": {"epochs": 1}}
    few = carved_rows(folder)[:6]
    gw.fit(tasks={"colour": {"train": fresh, "test": [*tested, *few]}}, **given)
    said = " ".join(capsys.readouterr().out.split())
    assert "of its texts are train rows of" in said
    assert "test scores may be a little too good" in said
    rows = [json.loads(line) for line in (folder / "data/colour/test.jsonl").read_text().splitlines()]
    with pytest.raises(DataError, match="43 of its texts are test rows of"):
        gw.fit(start=folder / "out", tasks={"colour": rows}, console=Console(quiet=True))


def test_rows_that_cannot_be_found_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = carved_rows(folder)
    made = {"model": folder / "backbone", "training": {"epochs": 1, "max_length": 16}, "console": QUIET}
    made["graft"] = {"budget": "5%", "pool_size": 4}
    gw.fit(tasks={"colour": rows}, output=folder / "memory", **made)
    given = {"start": folder / "memory", "training": {"epochs": 1}}
    same = gw.fit(tasks={"colour": rows}, console=QUIET, **given)
    assert same.report["start"]["tasks"]["colour"]["same_rows"] is True
    fresh = [{"text": f"{word} {i} tree", "label": word} for i in range(60) for word in WORDS[:2]]
    with pytest.raises(DataError, match="split off from the train rows, which are not those of the model"):
        gw.fit(tasks={"colour": fresh}, console=QUIET, **given)
    capsys.readouterr()
    gw.fit(tasks={"colour": {"train": rows, "test": fresh}}, **given)
    assert "its own cannot be found again" in " ".join(capsys.readouterr().out.split())


def test_a_new_class_is_refused_with_its_line(folder: Path) -> None:
    rows = [*carved_rows(folder), {"text": "green", "label": "green"}]
    message = "the label 'green'; allowed .*a new class needs a new training, or a new task.*: blue, red"
    with pytest.raises(DataError, match=message):
        gw.fit(start=folder / "carved", tasks={"colour": rows}, console=QUIET)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another task": (
        {"tasks": {"mood": "data"}},
        r"the model has no task 'mood' \(its tasks: colour\); add it",
    ),
    "classes": (
        {"tasks": {"colour": {"train": "d", "labels": ["red", "green"]}}},
        "blue, green; a new class",
    ),
    "kind": ({"tasks": {"colour": {"train": "d", "kind": "regression", "metric": "pearson"}}}, "is of kind"),
    "texts": ({"tasks": {"colour": {"train": "d", "text": ["a", "b"]}}}, "reads a, b, but in the model 1"),
    "pooling": ({"training": {"pooling": "cls"}}, "training.pooling is cls, but that of the model is mean"),
    "graft": ({"graft": {"budget": 0.01}}, r"graft has other values than the model's \(budget\), whose"),
    "schedule": ({"schedule": {"warmup": 0.3}}, r"schedule has other values than the model's \(warmup\)"),
    "nowhere": (
        {"recipe": {"model": "m", "tasks": [{"name": "colour", "train": "d"}]}, "start": " "},
        "start is empty",
    ),
    "budgets": ({"budgets": ["1%", "2%"]}, "budgets are chosen by a search, but start keeps the structure"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_changed_is_refused(case: str, folder: Path) -> None:
    changes, message = BAD[case]
    with pytest.raises(RecipeError, match=message):
        gw.fit(**{"start": folder / "carved", "output": folder / "bad", "console": QUIET, **changes})
    assert not list(folder.glob("*bad*"))


def test_what_is_no_model_to_go_on_from(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RecipeError, match="the output is the same folder; choose another"):
        gw.fit(start=folder / "carved", output=folder / "carved", overwrite=True, console=QUIET)
    other = write_backbone(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match=r"other is not the backbone that .*carved was trained on"):
        gw.fit(start=folder / "carved", model=other, console=QUIET)
    assert "is no model to go on from: it has no recipe.yaml" in fails(
        capsys, "fit", "--from", str(tmp_path), "--output", str(tmp_path / "x")
    )
    assert "fit needs a recipe" in fails(capsys, "fit")
    assert "give --output DIR" in fails(capsys, "fit", "--from", str(folder / "carved"))
