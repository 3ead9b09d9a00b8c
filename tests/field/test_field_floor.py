"""Budgets in percent, labels that are none, uneven classes, and tasks that end below their floor."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import Command
from toyrun import WORDS, recipe_dict, write_backbone, write_lines, write_recipe, write_tasks

QUICK = ["--set", "training.epochs=1"]


def words(text: str) -> str:
    """What was printed, without line ends and the frames of tables."""
    return " ".join(text.split())


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toy backbone and data."""
    folder = tmp_path_factory.mktemp("floor")
    write_backbone(folder / "backbone")
    write_tasks(folder / "data")
    return folder


def one_task(toy: Path, folder: Path, rows: list[dict[str, Any]] | None = None, **task: Any) -> Path:
    """A recipe of one task, `colour` unless rows are given."""
    recipe = recipe_dict(toy)
    entry = recipe["tasks"][0]
    if rows is not None:
        entry["train"] = str(write_lines(folder / "rows.jsonl", rows))
    recipe["tasks"] = [{**entry, **task}]
    recipe["output"] = str(folder / "out")
    return write_recipe(folder, recipe)


def test_a_budget_in_percent_is_the_number_it_means(toy: Path, tmp_path: Path, command: Command) -> None:
    recipe = one_task(toy, tmp_path)
    assert command("fit", recipe, *QUICK, "--set", "graft.budget=5%").code == 0
    saved = yaml.safe_load((tmp_path / "out/recipe.yaml").read_text())
    assert saved["graft"]["budget"] == 0.05
    assert command("fit", recipe, *QUICK, "--budgets", "5%,0.7%", "--output", tmp_path / "two").code == 0
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["0.007", "0.05"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["--set", "graft.budget=0.3"],
            "graft.budget=0.3 would be 30 %; write 0.3% or 0.003, or 30% if that is",
        ),
        (["--budgets", "0.5,0.1"], "budgets='0.5' would be 50 %; write 0.5% or 0.005"),
        (["--set", "graft.task_budget=0.1"], "graft.task_budget=0.1 would be 10 %; write 0.1% or 0.001"),
        (["--set", "graft.budget=150%"], "a percentage above 0% and below 100%, such as 0.3%"),
        (["--set", "graft.budget=0.3%%"], "a percentage above 0% and below 100%, such as 0.3%"),
    ],
)
def test_a_tenth_without_its_sign_is_refused(
    settings: list[str], message: str, toy: Path, tmp_path: Path, command: Command
) -> None:
    assert message in command("fit", one_task(toy, tmp_path), *settings).message
    assert not (tmp_path / "out").exists()


def test_a_large_budget_with_its_sign_is_taken_and_the_model_can_be_used(
    toy: Path, tmp_path: Path, command: Command
) -> None:
    """The whole pool holds less than half of the backbone: a note, before the first step."""
    ended = command("fit", one_task(toy, tmp_path), *QUICK, "--set", "graft.budget=50%")
    assert ended.code == 0
    printed = words(ended.out)
    note = re.search(
        r"note: graft.budget allows ([\d,]+) parameters, more than the whole pool holds", printed
    )
    assert note
    assert "raise graft.pool_size (to" in printed
    assert printed.index(note[0]) < printed.index("test scores")
    assert command("evaluate", tmp_path / "out").code == 0
    again = ["--output", tmp_path / "again", *QUICK]
    assert command("fit", tmp_path / "out/recipe.yaml", *again).code == 0
    # An older version wrote the plain number, which is no slip in a file that was written by a run.
    path = tmp_path / "out/recipe.yaml"
    path.write_text(path.read_text().replace("50%", "0.5"))
    assert command("evaluate", tmp_path / "out").code == 0


def test_a_grid_takes_percent_and_records_numbers(toy: Path, tmp_path: Path, command: Command) -> None:
    grid = recipe_dict(toy)
    del grid["output"]
    grid |= {"results": str(tmp_path / "results"), "seeds": [0], "tune": None}
    grid["methods"] = [
        {"name": "lora", "method": {"budget": "5%"}},
        {"name": "graft", "vary": {"budget": ["5%"]}},
    ]
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(grid))
    ended = command("compare", path, "--dry-run")
    assert ended.code == 0
    assert "budget 0.05" in words(ended.out)
    for method in ({"name": "lora", "method": {"budget": 0.3}}, {"name": "graft", "vary": {"budget": [0.3]}}):
        path.write_text(yaml.safe_dump({**grid, "methods": [method]}))
        assert (
            "budget=0.3 would be 30 %; write 0.3% or 0.003" in command("compare", path, "--dry-run").message
        )
    path.write_text(yaml.safe_dump({**grid, "methods": [{"name": "lora", "method": {"budget": 3}}]}))
    assert "budget=3 would be 300 %; write 3% or 0.03" in command("compare", path, "--dry-run").message


def rows_of(labels: list[Any], texts: list[str] | None = None) -> list[dict[str, Any]]:
    draw = random.Random(0)
    texts = texts or [f"{draw.choice(WORDS)} {draw.choice(WORDS)} {i}" for i in range(len(labels))]
    return [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]


SENTENCES = [f"the {WORDS[i % 10]} lies near the {WORDS[i // 10]}" for i in range(60)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (rows_of(SENTENCES), "60 of 60 labels in 'label' are different, .* they look like sentences"),
        (rows_of(SENTENCES[:30] * 1 + ["yes"] * 10), "31 of 40 labels in 'label' are different"),
        (
            rows_of([f"id-{i}" for i in range(40)]),
            "40 of 40 labels in 'label' are different, .* too many for",
        ),
        (rows_of([str(i) for i in range(40)]), "they are numbers: set kind: regression"),
        (rows_of([f"{i / 8}" for i in range(40)] * 10), "40 of 400 labels .* set kind: regression"),
        (
            rows_of([i / 8 for i in range(1, 41)]),
            "the label 0.125: classes are .*; for scores set kind: regression",
        ),
        (
            rows_of(["a", "b"] * 10, [f"images/{i}.PNG" for i in range(20)]),
            "20 of 20 texts .* are paths of images",
        ),
        (rows_of(["a", "b"] * 10, [f"my sounds/a {i}.wav" for i in range(20)]), "are paths of sounds"),
    ],
)
def test_what_is_no_class_or_no_text_is_refused_with_what_to_do(
    rows: list[dict[str, Any]], message: str, toy: Path, tmp_path: Path, command: Command
) -> None:
    assert re.search(message, command("fit", one_task(toy, tmp_path, rows)).message)
    assert not list(tmp_path.glob("out*"))


def test_uneven_classes_are_noted_before_training(toy: Path, tmp_path: Path, command: Command) -> None:
    rows = rows_of(["red"] * 150 + ["blue"] * 10)
    printed = words(command("fit", one_task(toy, tmp_path, rows), *QUICK).out)
    note = re.search(
        r"note: task 'colour': of the \d+ train rows (\d+) are 'red' and (\d+) 'blue'; ", printed
    )
    assert note
    assert int(note[1]) >= 10 * int(note[2])
    assert "metric: macro_f1 counts every class alike" in printed
    assert "class_weights: balanced" in printed
    assert printed.index(note[0]) < printed.index("test scores")


def uneven(size: int, seed: int) -> list[dict[str, Any]]:
    """One row in twelve is `rare`. Most of these end in `blue`, but so do more rows of the others."""
    draw = random.Random(seed)
    rows = []
    for i in range(size):
        rare = i % 12 == 0
        last = "blue" if draw.random() < (0.9 if rare else 0.15) else "red"
        text = " ".join([*draw.choices(WORDS[3:], k=3), last])
        rows.append({"text": text, "label": "rare" if rare else "often"})
    return rows


def test_balanced_weights_find_the_rare_class(toy: Path, tmp_path: Path, command: Command) -> None:
    tested = uneven(240, seed=1)
    rare = "".join(json.dumps({"text": row["text"]}) + "\n" for row in tested if row["label"] == "rare")
    score, recall = {}, {}
    for name in ("plain", "balanced"):
        folder = tmp_path / name
        settings: dict[str, Any] = {"test": str(write_lines(folder / "test.jsonl", tested))}
        settings |= {"class_weights": "balanced"} if name == "balanced" else {}
        recipe = one_task(toy, folder, uneven(480, seed=2), metric="macro_f1", **settings)
        assert command("fit", recipe, "--set", "graft.pool_size=1").code == 0
        score[name] = json.loads((folder / "out/report.json").read_text())["tasks"]["colour"]["test"]
        ended = command("predict", folder / "out", "--task", "colour", stdin=rare.encode())
        labels = [json.loads(line)["label"] for line in ended.out.splitlines()]
        recall[name] = labels.count("rare") / len(labels)
    assert recall["balanced"] > recall["plain"] + 0.5
    assert score["balanced"] > score["plain"] + 0.1


@pytest.fixture
def sunk(fitted: Path, tmp_path: Path) -> Path:
    """The fitted model whose report says of `colour` that the probe was better by far."""
    folder = tmp_path / "sunk"
    shutil.copytree(fitted / "out", folder)
    report = json.loads((folder / "report.json").read_text())
    report["tasks"]["colour"] |= {"test": 0.6, "linear_probe": 1.5, "majority": 0.5}
    report["tasks"]["same"] |= {"test": 0.9, "linear_probe": 0.5, "majority": 0.3}
    report["tasks"]["length"] |= {"test": 0.9, "linear_probe": 0.5, "majority": 0.0}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_evaluate_and_show_name_a_task_below_its_probe(sunk: Path, command: Command) -> None:
    for arguments in (["evaluate", sunk], ["show", sunk, "--diagnose"]):
        printed = words(command(*arguments).out)
        assert "Task 'colour' ends below its linear probe: accuracy" in printed
        assert "the probe on the frozen backbone has 1.500" in printed
        assert "training.epochs, training.learning_rate" in printed
        assert "Task 'same'" not in printed
    ended = command("show", sunk, "--diagnose", "--json")
    (run,) = json.loads(ended.out)["runs"].values()
    assert run["search"]["findings"][0].startswith("Task 'colour' ends below its linear probe")
    assert "linear probe" not in command("evaluate", sunk, "--split", "validation").out


def test_fit_names_a_task_that_learns_nothing(toy: Path, tmp_path: Path, command: Command) -> None:
    rate = ["--set", "training.learning_rate=1e-9"]
    printed = words(command("fit", one_task(toy, tmp_path), *QUICK, *rate).out)
    assert re.search(
        r"note: Task 'colour' ends (at its majority class|below its linear probe): accuracy", printed
    )
