"""A whole run of tasks that choose beside one that writes: labels of a task, and choices of each row."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

import graftwork as gw
from commands import fails
from graftwork.cli import main
from graftwork.errors import DataError
from graftwork.finished.evaluate import rescore
from graftwork.fitting.fit import fit
from graftwork.models.folder import load_model
from graftwork.recipe.loading import load_recipe
from toy_writer import colour_rows, write_decoder
from toyrun import WORDS, write_lines, write_recipe

QUIET = Console(quiet=True)
COLOURS = ["red", "blue", "green"]


def label_rows(count: int) -> list[dict[str, Any]]:
    """The colour of the text, which is a label of one word or two."""
    return [{"text": row["text"], "label": f"{row['text'].split()[1]} lamp"} for row in colour_rows(count)]


def own_rows(count: int) -> list[dict[str, Any]]:
    """Which of the offered words is in the text; two or three are offered, the right one anywhere."""
    rows = []
    for index in range(count):
        right, wrong = WORDS[index % 5], [WORDS[5 + index % 5], WORDS[5 + (index + 2) % 5]][: 1 + index % 2]
        options = [*wrong[: index % 3], right, *wrong[index % 3 :]]
        rows.append({"text": f"road {right}", "options": options, "label": options.index(right)})
    return rows


def write_choice(folder: Path) -> Path:
    write_decoder(folder / "backbone")
    for split, size in (("train", 60), ("validation", 15), ("test", 15)):
        write_lines(folder / "data/colour" / f"{split}.jsonl", label_rows(size))
        write_lines(folder / "data/word" / f"{split}.jsonl", own_rows(size))
        write_lines(folder / "data/say" / f"{split}.jsonl", colour_rows(size))
    choice = {"kind": "choice", "prompt": "which word : {text} Answer :"}
    tasks = [
        {"name": "colour", "train": str(folder / "data/colour"), **choice, "metric": "macro_f1"},
        {"name": "word", "train": str(folder / "data/word"), **choice, "choices": "options"},
        {
            "name": "say",
            "train": str(folder / "data/say"),
            "kind": "generation",
            "max_new_tokens": 4,
            "metric": "exact_match",
        },
    ]
    recipe = {
        "model": str(folder / "backbone"),
        "output": str(folder / "out"),
        "tasks": tasks,
        "graft": {"budget": "30%", "pool_size": 8, "r": 2},
        "training": {"epochs": 12, "batch_size": 8, "learning_rate": 0.01, "max_length": 16},
    }
    return write_recipe(folder, recipe)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("choice")
    said = io.StringIO()
    report = fit(load_recipe(write_choice(folder)), console=Console(file=said, width=200))
    return folder, report, said.getvalue()


def test_the_tasks_are_learned(run: tuple[Path, dict[str, Any], str]) -> None:
    _, report, said = run
    for name in ("colour", "word", "say"):
        task = report["tasks"][name]
        assert task["test"] > max(task["zero_shot"], task["few_shot"], task["majority"]), (name, task)
    assert report["tasks"]["colour"]["labels"] == ["blue lamp", "green lamp", "red lamp"]
    assert report["tasks"]["word"]["labels"] == []
    assert report["parameters"]["heads"] == 0
    assert "chose: " in said
    assert "3-shot" in said


def test_the_report_has_all_figures(run: tuple[Path, dict[str, Any], str]) -> None:
    _, report, _ = run
    for split in ("validation", "test"):
        colour, word = report["texts"]["colour"][split], report["texts"]["word"][split]
        assert colour["macro_f1"] == report["tasks"]["colour"][split]
        assert {"accuracy", "matthews", "loss", "likelihood", "perplexity"} <= set(colour)
        assert word["accuracy"] == report["tasks"]["word"][split]
        assert "macro_f1" not in word
        assert colour["scored_rows"] == word["scored_rows"] == 15
        assert set(colour["examples"][0]) == {"prompt", "answer", "right", "probability"}


def test_the_majority_is_that_of_the_train_rows(run: tuple[Path, dict[str, Any], str]) -> None:
    folder, report, _ = run
    rows = {
        split: [json.loads(line) for line in (folder / f"data/word/{split}.jsonl").read_text().splitlines()]
        for split in ("train", "test")
    }
    places = [row["label"] for row in rows["train"]]
    most = max(sorted(set(places)), key=places.count)
    wanted = sum(row["label"] == most for row in rows["test"]) / len(rows["test"])
    assert report["tasks"]["word"]["majority"] == pytest.approx(wanted)


def test_evaluation_gives_the_scores_of_the_report(
    run: tuple[Path, dict[str, Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, report, _ = run
    scores = rescore(folder / "out", details=True)
    for name, task in report["tasks"].items():
        assert scores["tasks"][name]["score"] == pytest.approx(task["test"], abs=1e-6)
    assert scores["notes"] == []
    assert set(scores["tasks"]["colour"]["details"]["classes"]) == {"blue lamp", "green lamp", "red lamp"}
    main(["evaluate", str(folder / "out"), "--per-class"])
    shown = capsys.readouterr().out
    assert "colour: every class" in shown
    assert "word: figures" in shown
    data = str(folder / "data/word/test.jsonl")
    again = rescore(folder / "out", data=data, task="word")["tasks"]["word"]
    assert again["score"] == pytest.approx(report["tasks"]["word"]["test"])


def test_predictions_have_a_label_and_probabilities(run: tuple[Path, dict[str, Any], str]) -> None:
    predictor = gw.load(run[0] / "out")
    rows: list[Any] = [
        {"text": "stone red", "task": "colour", "id": 1},
        {"text": "road bird", "options": ["red", "bird"], "task": "word", "id": 2},
        {"text": "stone red", "task": "say", "id": 3},
    ]
    first, second, third = predictor.predict(rows, keep=["id"])
    assert list(first) == ["id", "task", "label", "probabilities"]
    assert list(first["probabilities"]) == ["blue lamp", "green lamp", "red lamp"]
    assert sum(first["probabilities"].values()) == pytest.approx(1)
    assert list(second["probabilities"]) == ["red", "bird"]
    assert third == {"id": 3, "task": "say", "text": "colour red"}
    (short,) = predictor.predict(rows[:1], top=2, digits=3)
    assert len(short["probabilities"]) == 2
    assert next(iter(short["probabilities"])) == short["label"] == first["label"]
    assert all(value == round(value, 3) for value in short["probabilities"].values())
    assert predictor.predict(["stone red"], task="colour")[0] == {
        key: value for key, value in first.items() if key != "id"
    }


def test_the_command_predicts(
    run: tuple[Path, dict[str, Any], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [{"text": "road bird", "options": ["red", "bird"], "id": 7}])
    main(
        ["predict", str(run[0] / "out"), "--task", "word", "--input", str(path), "--top", "1", "--keep", "id"]
    )
    (line,) = capsys.readouterr().out.splitlines()
    answer = json.loads(line)
    assert (answer["id"], answer["task"], len(answer["probabilities"])) == (7, "word", 1)


@pytest.mark.parametrize(
    ("row", "task", "message"),
    [
        ({"text": "road"}, "word", "row 1 has no field 'options'; its fields: text"),
        ({"text": "road", "options": []}, "word", "row 1: 'options' has 0 texts to choose from"),
        ({"text": "road", "options": ["a", "a"]}, "word", "row 1: 'options' has 'a' twice"),
        ("road", "word", "row 1 is a text, but task 'word' reads the fields text, options; give a mapping"),
        ({"body": "x"}, "colour", "row 1 has no field 'text'"),
    ],
)
def test_bad_rows_to_predict(
    run: tuple[Path, dict[str, Any], str], row: Any, task: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        gw.load(run[0] / "out").predict([row], task=task)


def test_one_task_is_extracted_and_exported(
    run: tuple[Path, dict[str, Any], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = gw.load(run[0] / "out")
    row: Any = {"text": "road bird", "options": ["red", "bird"]}
    (wanted,) = whole.predict([row], task="word")
    main(["extract", str(run[0] / "out"), "word", str(tmp_path / "word")])
    (alone,) = gw.load(tmp_path / "word").predict([row])
    assert alone["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-5)
    for form in ("lora", "merged"):
        main(["export", str(run[0] / "out"), str(tmp_path / form), "--format", form, "--task", "colour"])
    saved = json.loads((tmp_path / "lora/export.json").read_text())["tasks"][0]
    assert saved["labels"] == ["blue lamp", "green lamp", "red lamp"]
    assert "chooses among texts, which --format pt2 cannot; choose lora or merged" in fails(
        capsys, "export", str(run[0] / "out"), str(tmp_path / "p"), "--format", "pt2", "--task", "word"
    )
    assert "no task 'word' that writes" in fails(capsys, "chat", str(run[0] / "out"), "--task", "word")


def test_the_head_is_saved_whole(run: tuple[Path, dict[str, Any], str]) -> None:
    heads = {head["name"]: head for head in json.loads((run[0] / "out/tasks.json").read_text())["tasks"]}
    assert heads["word"]["writing"]["choices"] == "options"
    assert heads["colour"]["labels"] == ["blue lamp", "green lamp", "red lamp"]
    model, _ = load_model(run[0] / "out")
    assert [head.as_dict() for head in model.heads.heads] == [heads[head.name] for head in model.heads.heads]


def test_the_card_says_what_is_chosen_from(run: tuple[Path, dict[str, Any], str]) -> None:
    card = (run[0] / "out/README.md").read_text()
    assert "one of 3: `blue lamp`, `green lamp`, `red lamp`" in card
    assert "one of the texts in `options` of the row" in card
    assert "a text" in card
    assert "a number" not in card


def test_a_model_is_trained_further(run: tuple[Path, dict[str, Any], str]) -> None:
    folder, first, _ = run
    changes = {"output": str(folder / "further"), "start": str(folder / "out"), "training.epochs": 0.2}
    report = fit(load_recipe(folder / "recipe.yaml", changes), console=QUIET, diagnosis=False, probe=False)
    for name, task in first["tasks"].items():
        assert report["start"]["tasks"][name]["test"] == pytest.approx(task["test"], abs=1e-6)


def test_noise_in_labels_gives_other_labels(run: tuple[Path, dict[str, Any], str]) -> None:
    noise = [{"kind": "labels", "ratio": 0.5, "when": "train"}]
    changes = {"output": str(run[0] / "noisy"), "training.epochs": 0.1, "noise": noise}
    recipe = load_recipe(run[0] / "recipe.yaml", changes)
    report = fit(recipe, console=QUIET, diagnosis=False, probe=False)
    assert report["noise"]


def refused(
    run: tuple[Path, dict[str, Any], str], capsys: pytest.CaptureFixture[str], task: int, **changes: Any
) -> str:
    """The line that `graftwork fit` ends in with other settings of a task; nothing is written."""
    folder = run[0]
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    settings = {**recipe["tasks"][task], **changes}
    recipe["tasks"] = [{key: value for key, value in settings.items() if value is not None}]
    recipe["output"] = str(folder / "bad")
    (folder / "bad.yaml").write_text(yaml.safe_dump(recipe))
    line = fails(capsys, "fit", str(folder / "bad.yaml"))
    assert not (folder / "bad").exists()
    return line


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        (0, {"labels": ["red lamp"]}, "labels has red lamp; give two or more, each once"),
        (0, {"labels": ["red lamp", "blue lamp"]}, "has the label 'green lamp'; allowed (given by the task)"),
        (0, {"class_weights": "balanced"}, "a choice task has no class_weights; remove them"),
        (0, {"target": "label"}, "target is for kind: generation; remove it"),
        (0, {"max_new_tokens": 4}, "max_new_tokens is for kind: generation; remove it"),
        (0, {"normalise_length": "maybe"}, "normalise_length"),
        (0, {"metric": "exact_match"}, "allowed for choice: accuracy, macro_f1, matthews"),
        (0, {"label": "answer"}, "has no field 'answer'; its fields: text, label"),
        (0, {"choices": "options", "metric": None}, "has no field 'options'; its fields: text, label"),
        (1, {"labels": ["a", "b"]}, "labels are the same for all rows and choices each row's own"),
        (1, {"metric": "macro_f1"}, "metric is 'macro_f1', which counts by class"),
        (1, {"choices": "label"}, "train.jsonl line 1: 'label' is 0, not a list of texts to choose from"),
        (1, {"label": "text"}, "text and label name a field twice"),
        (1, {"kind": "generation"}, "choices is for kind: choice; remove it"),
        (1, {"kind": "classification", "prompt": None}, "choices is for kind: choice; remove it"),
    ],
)
def test_bad_input_is_one_line(
    run: tuple[Path, dict[str, Any], str],
    task: int,
    changes: dict[str, Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in refused(run, capsys, task, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": []}, "'options' has 0 texts to choose from; give two or more"),
        ({"options": ["red"]}, "'options' has 1 texts to choose from; give two or more"),
        ({"options": ["red", " "]}, "'options' has an empty text"),
        ({"options": ["red", "red"]}, "'options' has 'red' twice"),
        ({"options": ["red", None]}, "'options' has None, which is no text to choose"),
        ({"label": 9}, "'label' is 9, which is neither one of the row's choices"),
        ({"label": "road"}, "'label' is 'road', which is neither one of the row's choices"),
        ({"label": None}, "'label' is None, which is neither one of the row's choices"),
    ],
)
def test_a_bad_row_is_named_with_its_field(
    run: tuple[Path, dict[str, Any], str],
    changes: dict[str, Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = own_rows(30)
    rows[4] |= changes
    path = write_lines(run[0] / "bad_rows.jsonl", rows)
    line = refused(run, capsys, 1, train=str(path))
    assert "bad_rows.jsonl line 5" in line
    assert message in line


def test_labels_that_are_free_texts(
    run: tuple[Path, dict[str, Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"a {i}", "label": f"this is the long sentence {i}"} for i in range(40)]
    path = write_lines(run[0] / "free.jsonl", rows)
    line = refused(run, capsys, 0, train=str(path))
    assert "40 of 40 labels in 'label' are different" in line
    assert "name their field as choices:" in line


def test_labels_that_the_tokenizer_cannot_tell_apart(
    run: tuple[Path, dict[str, Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"road {WORDS[i % 9]} {i}", "label": ["yes", "no"][i % 2]} for i in range(40)]
    path = write_lines(run[0] / "same.jsonl", rows)
    assert "'no' and 'yes' are the same tokens to" in refused(run, capsys, 0, train=str(path))


def test_what_compare_cannot_is_said(
    run: tuple[Path, dict[str, Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run[0]
    tasks = yaml.safe_load((folder / "recipe.yaml").read_text())["tasks"]
    grid = {"model": "x", "tasks": tasks, "methods": ["linear_probe"]}
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
    assert "method 'linear_probe' cannot do task 'colour' of kind: choice" in fails(
        capsys, "compare", str(folder / "grid.yaml")
    )
