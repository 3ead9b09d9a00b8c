"""`graftwork evaluate` after the data have changed, and on new rows."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import Command
from graftwork.cli import main
from toyrun import WORDS, recipe_dict, write_backbone, write_lines, write_recipe


def colour_rows(count: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [
        {
            "text": " ".join([*draw.choices(WORDS[3:], k=draw.randint(2, 5)), WORDS[i % 2]]),
            "label": WORDS[i % 2],
        }
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def split_off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one task whose validation and test rows are split off from its only file."""
    folder = tmp_path_factory.mktemp("split-off")
    write_backbone(folder / "backbone")
    write_lines(folder / "data/rows.jsonl", colour_rows(160, seed=1))
    recipe = recipe_dict(folder)
    recipe["tasks"] = [{"name": "colour", "train": str(folder / "data/rows.jsonl")}]
    main(["fit", str(write_recipe(folder, recipe))])
    return folder


Copy = Callable[[Path], Path]


@pytest.fixture
def copied(tmp_path: Path) -> Copy:
    """Copies the folder of a run, and lets the copy read its own data."""

    def copy(run: Path) -> Path:
        here = tmp_path / "run"
        shutil.copytree(run, here)
        recipe = here / "out/recipe.yaml"
        recipe.write_text(recipe.read_text(encoding="utf-8").replace(str(run), str(here)), encoding="utf-8")
        return here

    return copy


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def report_of(run: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((run / "out/report.json").read_text(encoding="utf-8"))
    return report


def notes_of(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("note: ")]


def scores_of(command: Command, *arguments: object) -> tuple[dict[str, Any], list[str]]:
    ended = command("evaluate", *arguments, "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert [f"note: {note}" for note in found["notes"]] == notes_of(ended.err)
    return found["tasks"], found["notes"]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_rows_as_they_were_are_scored_without_a_word(
    fitted: Path, split_off: Path, split: str, command: Command
) -> None:
    for run in (fitted, split_off):
        tasks, notes = scores_of(command, run / "out", "--split", split)
        assert notes == []
        for name, task in report_of(run)["tasks"].items():
            assert tasks[name]["score"] == pytest.approx(task[split], abs=1e-6)
            assert tasks[name]["rows"] == task["rows"][split]


def test_a_train_file_of_its_own_may_change(fitted: Path, copied: Copy, command: Command) -> None:
    """A class added to it, rows added, or the file gone: the test rows are those of the report."""
    run = copied(fitted)
    rows = lines_of(run / "data/colour/train.jsonl")
    write_lines(run / "data/colour/train.jsonl", [*rows, {"text": "tree green", "label": "amber"}])
    tasks, notes = scores_of(command, run / "out")
    assert notes == []
    assert tasks["colour"]["score"] == pytest.approx(report_of(run)["tasks"]["colour"]["test"], abs=1e-6)


def test_a_changed_test_file_is_scored_with_a_note(fitted: Path, copied: Copy, command: Command) -> None:
    run = copied(fitted)
    file = run / "data/colour/test.jsonl"
    rows = lines_of(file)
    write_lines(file, [*rows, {"text": "tree red", "label": "red"}])
    tasks, notes = scores_of(command, run / "out")
    assert tasks["colour"]["rows"] == 49
    assert len(notes) == 1
    assert notes[0].startswith("test of task 'colour': ")
    assert "has changed since the model was made (48 rows then, 49 now)" in notes[0]
    swapped = [{**row, "label": {"red": "blue", "blue": "red"}[row["label"]]} for row in rows]
    write_lines(file, swapped)
    tasks, notes = scores_of(command, run / "out", "--task", "colour")
    assert tasks["colour"]["score"] == pytest.approx(1 - report_of(run)["tasks"]["colour"]["test"], abs=1e-6)
    assert "(as many rows, but other texts or labels)" in notes[0]


@pytest.mark.parametrize("change", ["more rows", "swapped labels", "a class"])
def test_a_split_of_a_changed_file_is_refused(
    split_off: Path, copied: Copy, command: Command, change: str
) -> None:
    """The rows of the test split would be others, and the model was trained on most of them."""
    run = copied(split_off)
    file = run / "data/rows.jsonl"
    rows = lines_of(file)
    if change == "more rows":
        rows += colour_rows(40, seed=2)
    elif change == "swapped labels":
        rows = [{**row, "label": {"red": "blue", "blue": "red"}[row["label"]]} for row in rows]
    else:
        rows.append({"text": "tree amber", "label": "amber"})
    write_lines(file, rows)
    for split in ("validation", "test"):
        message = command("evaluate", run / "out", "--split", split).message
        assert "is split off from" in message
        assert "--data FILE --task colour" in message
        if change == "a class":
            assert "line 161 has the label 'amber'; allowed (the classes of the model): blue, red" in message
        else:
            assert "rows that were trained on may be among them" in message
    if change != "a class":
        _, notes = scores_of(command, run / "out", "--split", "train")
        assert "has changed since the model was made" in notes[0]


def test_a_split_of_a_file_that_is_gone_is_refused(split_off: Path, copied: Copy, command: Command) -> None:
    run = copied(split_off)
    (run / "data/rows.jsonl").unlink()
    message = command("evaluate", run / "out").message
    assert "rows.jsonl does not exist" in message
    assert "--data FILE --task colour" in message


def test_a_test_file_that_is_gone_is_not_replaced_by_trained_rows(
    fitted: Path, copied: Copy, command: Command
) -> None:
    run = copied(fitted)
    (run / "data/colour/test.jsonl").unlink()
    message = command("evaluate", run / "out", "--task", "colour").message
    assert "rows that were trained on may be among them" in message
    tasks, notes = scores_of(command, run / "out", "--task", "length")
    assert list(tasks) == ["length"]
    assert notes == []


def test_without_a_report_the_rows_cannot_be_compared(
    split_off: Path, copied: Copy, command: Command
) -> None:
    run = copied(split_off)
    (run / "out/report.json").unlink()
    tasks, notes = scores_of(command, run / "out")
    assert tasks["colour"]["rows"] == report_of(split_off)["tasks"]["colour"]["rows"]["test"]
    assert "it is not known whether they are those of the model" in notes[0]
    assert "rows that were trained on may be among them" in notes[0]


def test_a_single_task_takes_its_digests_along(fitted: Path, copied: Copy, command: Command) -> None:
    run = copied(fitted)
    assert command("extract", run / "out", "colour", run / "colour").code == 0
    tasks, notes = scores_of(command, run / "colour")
    assert notes == []
    assert list(tasks) == ["colour"]
    file = run / "data/colour/test.jsonl"
    write_lines(file, lines_of(file)[:40])
    _, notes = scores_of(command, run / "colour")
    assert "(48 rows then, 40 now)" in notes[0]


def test_a_model_that_knows_no_recipe_of_its_older_tasks(
    split_off: Path, copied: Copy, command: Command
) -> None:
    """The added task is scored by its own head, and the older one is named."""
    run = copied(split_off)
    (run / "out/recipe.yaml").unlink()
    assert "--data" in command("evaluate", run / "out").message
    test = [
        {"text": row["text"], "label": {"red": "yes", "blue": "no"}[row["label"]]}
        for row in colour_rows(60, 5)
    ]
    for split in ("train", "validation", "test"):
        write_lines(run / f"data/answer/{split}.jsonl", test)
    recipe = {"tasks": [{"name": "answer", "train": str(run / "data/answer")}], "training": {"epochs": 2}}
    (run / "task.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert command("add-task", run / "out", run / "task.yaml", "-o", run / "more").code == 0
    tasks, notes = scores_of(command, run / "more")
    report = json.loads((run / "more/report.json").read_text(encoding="utf-8"))
    assert tasks["answer"]["score"] == pytest.approx(report["tasks"]["answer"]["test"], abs=1e-6)
    assert list(tasks) == ["answer"]
    assert "task 'colour' is not in" in notes[0]


def test_weights_that_do_not_give_the_score_of_the_report(
    fitted: Path, copied: Copy, command: Command
) -> None:
    run = copied(fitted)
    tasks = json.loads((run / "out/tasks.json").read_text(encoding="utf-8"))
    tasks["tasks"][0]["labels"].reverse()
    (run / "out/tasks.json").write_text(json.dumps(tasks), encoding="utf-8")
    _, notes = scores_of(command, run / "out", "--task", "colour")
    assert "the rows are those of report.json, but the score there is" in notes[0]


def test_new_rows(fitted: Path, tmp_path: Path, command: Command) -> None:
    rows = colour_rows(50, seed=9)
    write_lines(tmp_path / "new.jsonl", rows)
    jsonl, notes = scores_of(command, fitted / "out", "--data", tmp_path / "new.jsonl", "--task", "colour")
    assert notes == []
    assert jsonl["colour"]["rows"] == 50
    assert jsonl["colour"]["score"] > 0.8
    csv = "".join(f"{row['text']},{row['label']}\n" for row in rows)
    (tmp_path / "new.csv").write_text(f"text,label\n{csv}", encoding="utf-8")
    for row in rows:
        file = tmp_path / "classes" / row["label"] / f"{len(list(tmp_path.rglob('*.txt'))):03}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(row["text"], encoding="utf-8")
    for source in ("new.csv", "classes"):
        found, _ = scores_of(command, fitted / "out", "--data", tmp_path / source, "--task", "colour")
        assert found == jsonl
    # A folder with one file per split, and rows that the model has seen.
    data = fitted / "data/colour"
    found, notes = scores_of(
        command, fitted / "out", "--data", data, "--task", "colour", "--split", "validation"
    )
    assert found["colour"]["rows"] == 48
    assert "are the validation rows of task 'colour', which made the model" in notes[0]


def test_new_rows_that_cannot_be_scored(fitted: Path, tmp_path: Path, command: Command) -> None:
    file, model = tmp_path / "new.jsonl", fitted / "out"
    write_lines(file, [{"text": "tree red", "label": "red"}, {"text": "tree red", "label": "amber"}])
    message = command("evaluate", model, "--data", file, "--task", "colour").message
    assert "new.jsonl line 2 has the label 'amber'; allowed (the classes of the model): blue, red" in message
    write_lines(file, [{"text": "tree red", "colour": "red"}])
    message = command("evaluate", model, "--data", file, "--task", "colour").message
    assert "new.jsonl line 1 has no field 'label'; its fields: text, colour" in message
    file.write_text("", encoding="utf-8")
    assert "has no rows" in command("evaluate", model, "--data", file, "--task", "colour").message
    write_lines(file, [{"text": "tree", "score": "long"}])
    message = command("evaluate", model, "--data", file, "--task", "length").message
    assert "'score' is 'long', not a finite number" in message
    assert "--task with one of colour, same, length" in command("evaluate", model, "--data", file).message
    message = command("evaluate", model, "--data", file, "--task", "color").message
    assert "unknown task 'color'; did you mean 'colour'?" in message


def test_rows_that_are_all_alike(fitted: Path, tmp_path: Path, command: Command) -> None:
    model, file = fitted / "out", tmp_path / "new.jsonl"
    write_lines(file, [row for row in colour_rows(40, seed=3) if row["label"] == "red"])
    tasks, notes = scores_of(command, model, "--data", file, "--task", "colour", "--per-class")
    assert notes == ["all 20 rows of task 'colour' have the class 'red'"]
    details = tasks["colour"]["details"]
    assert details["classes"]["red"]["recall"] == tasks["colour"]["score"]
    assert details["classes"]["red"]["support"] == 20
    assert details["classes"]["blue"]["support"] == 0
    write_lines(file, [{"text": " ".join(["tree"] * n), "score": 2.5} for n in (2, 3, 4)])
    tasks, notes = scores_of(command, model, "--data", file, "--task", "length", "--per-class")
    assert tasks["length"]["score"] == 0
    assert notes == [
        "all 3 rows of task 'length' have the score 2.5; correlations are then 0 whatever the model says"
    ]
    assert tasks["length"]["details"]["mae"] > 0


def test_figures_of_every_class(fitted: Path, command: Command) -> None:
    model = fitted / "out"
    tasks, _ = scores_of(command, model, "--per-class")
    same, length = tasks["same"]["details"], tasks["length"]["details"]
    assert same["confusion"]["labels"] == ["different", "same"]
    assert sum(map(sum, same["confusion"]["matrix"])) == 48
    assert same["macro"]["f1"] == pytest.approx(tasks["same"]["score"])
    assert length["spearman"] == pytest.approx(tasks["length"]["score"], abs=1e-6)
    assert set(length) == {"pearson", "spearman", "mae", "rmse"}
    assert 0 < length["mae"] <= length["rmse"] < 2  # in words / 2, not in deviations
    out = command("evaluate", model, "--per-class").out
    for expected in ("same: every class", "precision", "support", "same: confusion matrix", "rmse"):
        assert expected in out
