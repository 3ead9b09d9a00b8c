"""Recipes with templates and windows at the command line: from the file to the answer, and bad ones."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import Command
from graftwork.cli import main
from toyrun import WORDS, write_backbone, write_lines, write_recipe

COLOURS = WORDS[:2]


def write_data(folder: Path) -> None:
    """Rows whose colour mostly stands beyond the first window, as a label, a span and a number."""
    draw = random.Random(0)
    for split, size in (("train", 96), ("validation", 48), ("test", 48)):
        lines = []
        for i in range(size):
            words = draw.choices(WORDS[3:], k=14)
            at = draw.randrange(14)
            words[at] = COLOURS[i % 2]
            start = len(" ".join(words[:at])) + (at > 0)
            span = {"start": start, "end": start + len(words[at]), "label": "colour"}
            lines.append({
                "title": draw.choice(WORDS[3:]), "price": i % 7, "body": " ".join(words), "label": words[at],
                "spans": [span], "score": float(i % 2),
            })  # fmt: skip
        write_lines(folder / "data" / f"{split}.jsonl", lines)


def tasks(folder: Path) -> list[dict[str, Any]]:
    source = str(folder / "data")
    shop = {"name": "shop", "train": source, "text": "{title} {price} [SEP] {body}", "stride": 1}
    tags = {"name": "tags", "train": source, "text": "body", "label": "spans", "kind": "tokens", "stride": 2}
    return [shop, tags]


def recipe(folder: Path) -> dict[str, Any]:
    return {
        "model": str(folder / "backbone"),
        "output": str(folder / "out"),
        "tasks": tasks(folder),
        "graft": {"budget": 0.05, "pool_size": 4, "r": 2},
        "training": {"epochs": 6, "batch_size": 16, "learning_rate": 0.02, "max_length": 10},
    }


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    write_backbone(folder / "backbone")
    write_data(folder)
    main(["fit", str(write_recipe(folder, recipe(folder)))])
    return folder


def test_what_was_scored_is_what_is_predicted(long: Path, command: Command) -> None:
    report = json.loads((long / "out/report.json").read_text())["tasks"]
    assert report["shop"]["test"] > 0.8
    assert report["tags"]["test"] > 0.8
    assert report["tags"]["linear_probe"] > 0.5
    ended = command("evaluate", long / "out", "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)["tasks"]
    for task in ("shop", "tags"):
        assert found[task]["score"] == pytest.approx(report[task]["test"], abs=1e-6)
    assert "task 'shop': longer than 10 tokens are 48 of 48 test rows (" in ended.err
    rows = [json.loads(line) for line in (long / "data/test.jsonl").read_text().splitlines()]
    asked = write_lines(
        long / "asked.jsonl", [{k: row[k] for k in ("title", "price", "body")} for row in rows]
    )
    told = command("predict", long / "out", "--input", asked, "--task", "shop").out.splitlines()
    right = sum(json.loads(line)["label"] == row["label"] for line, row in zip(told, rows, strict=True))
    assert right / len(rows) == pytest.approx(report["shop"]["test"])
    every = command("predict", long / "out", "--input", asked, "--all-tasks").out.splitlines()
    assert [json.loads(line)["answers"]["shop"]["label"] for line in every] == [
        json.loads(line)["label"] for line in told
    ]


def test_fit_says_how_many_rows_have_windows(tmp_path: Path, long: Path, command: Command) -> None:
    changed = recipe(long) | {"output": str(tmp_path / "out")}
    del changed["tasks"][1]
    ended = command("fit", write_recipe(tmp_path, changed), "--set", "training.epochs=1", "--no-probe")
    assert ended.code == 0, ended.err
    said = " ".join(ended.out.split()) + " ".join(ended.err.split())
    assert "note: task 'shop': longer than 10 tokens are 96 of 96 train rows (384 windows)" in said
    saved = json.loads((tmp_path / "out/tasks.json").read_text())["tasks"][0]
    assert (saved["text"], saved["stride"], "windows" in saved) == (
        ["{title} {price} [SEP] {body}"],
        1,
        False,
    )


def test_a_task_with_windows_is_added(tmp_path: Path, long: Path, command: Command) -> None:
    added = {"name": "costs", "train": str(long / "data"), "text": "{body} {title}", "label": "score"}
    added |= {"kind": "regression", "stride": 3, "windows": "max"}
    training = {"epochs": 2, "batch_size": 16, "learning_rate": 0.01}
    (tmp_path / "add.yaml").write_text(yaml.safe_dump({"tasks": [added], "training": training}))
    ended = command("add-task", long / "out", tmp_path / "add.yaml", "-o", tmp_path / "more")
    assert ended.code == 0, ended.err
    report = json.loads((tmp_path / "more/report.json").read_text())
    assert report["additions"][0]["older_tasks_change"] == 0
    ended = command("evaluate", tmp_path / "more", "--json")
    scores = {name: found["score"] for name, found in json.loads(ended.out)["tasks"].items()}
    assert scores == pytest.approx({name: task["test"] for name, task in report["tasks"].items()}, abs=1e-5)


def test_methods_are_compared_on_windows(tmp_path: Path, long: Path, command: Command) -> None:
    grid = {key: value for key, value in recipe(long).items() if key in ("model", "tasks", "training")}
    grid |= {"methods": ["linear_probe"], "seeds": [0], "results": str(tmp_path / "results")}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    ended = command("compare", tmp_path / "grid.yaml")
    assert ended.code == 0, ended.err
    (result,) = (tmp_path / "results").rglob("*.json")
    scores = json.loads(result.read_text())["tasks"]
    floors = json.loads((long / "out/report.json").read_text())["tasks"]
    for task in ("shop", "tags"):
        assert scores[task]["test"] == pytest.approx(floors[task]["linear_probe"], abs=1e-6)


def test_an_export_says_that_it_reads_one_window(tmp_path: Path, long: Path, command: Command) -> None:
    ended = command("export", long / "out", tmp_path / "program", "--format", "pt2", "--task", "shop")
    assert ended.code == 0, ended.err
    assert (
        "reads texts of more than 10 tokens in windows, but what is exported reads one window: pass the"
        in ended.err
    )
    assert "take the mean of their logits (docs/export.md)" in ended.err
    (head,) = json.loads((tmp_path / "program/export.json").read_text())["tasks"]
    assert (head["text"], head["stride"]) == (["{title} {price} [SEP] {body}"], 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "{titel} [SEP] {body}"}, "has no field 'titel'; its fields: title, price, body, label"),
        ({"text": "{}"}, "text: '{}' is no field of a row"),
        ({"text": "{title"}, "text: expected '}' before end of string"),
        ({"text": ["{title} {price}", "body"]}, "such as text: '{title} {price} [SEP] {body}'"),
        ({"text": 3}, "must be a string or a list of strings"),
        ({"text": "[SEP]"}, "has no field '[SEP]'; its fields"),
        ({"stride": 4}, "windows of 10 tokens (8 beside the special ones) may share 3 at most"),
        ({"stride": "many"}, "stride"),
        ({"windows": "median"}, "windows"),
        ({"stride": None, "windows": "max"}, "windows says how windows are pooled; set stride, too"),
    ],
)  # fmt: skip
def test_bad_settings_end_in_one_line(
    tmp_path: Path, long: Path, command: Command, changes: dict[str, Any], message: str
) -> None:
    changed = recipe(long) | {"output": str(tmp_path / "out")}
    changed["tasks"] = [{**changed["tasks"][0], **changes}]
    ended = command("fit", write_recipe(tmp_path, changed))
    assert ended.code == 2
    last = ended.err.strip().splitlines()[-1]
    assert message in last
    assert "Traceback" not in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"title": "lamp", "body": "red"}, "row 1 of task 'shop' has no field 'price'; its fields: title"),
        ({"title": None, "price": 1, "body": "red"}, "'shop': 'title' is None, not a text or a number"),
        ({"title": {}, "price": 1, "body": "red"}, "'title' is {}, not a text or a number"),
    ],
)  # fmt: skip
def test_bad_rows_end_in_one_line(long: Path, command: Command, row: dict[str, Any], message: str) -> None:
    ended = command("predict", long / "out", "--task", "shop", stdin=json.dumps(row).encode())
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err.strip().splitlines()[-1]
