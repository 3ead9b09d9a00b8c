"""What all tasks say of a row: the answers of `predict`, in one pass, and what is skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import graftwork as gw
from commands import fails
from graftwork.cli import main
from graftwork.distributed.notes import note_once
from graftwork.errors import DataError
from graftwork.fitting.fit import fit
from graftwork.models.predictor import Predictor
from graftwork.recipe.loading import load_recipe
from toyrun import WORDS, recipe_dict, write_lines, write_recipe, write_run

NAMES = ["colour", "same", "length"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("all")
    write_run(folder)
    recipe = recipe_dict(folder)
    recipe["graft"] |= {"structure": "private_paths"}
    fit(load_recipe(write_recipe(folder, recipe)))
    return folder / "out"


def rows(count: int = 40) -> list[dict[str, Any]]:
    """Rows of different length; some lack the fields of one task or another."""
    found: list[dict[str, Any]] = []
    for index in range(count):
        text = " ".join(WORDS[(index + place) % len(WORDS)] for place in range(1 + index % 7))
        row = {"id": index, "text": text}
        if index % 3:
            row |= {"first": text, "second": "stone lamp"}
        if index % 5 == 1 and index % 3:
            del row["text"]
        found.append(row)
    return found


def close(found: Any, expected: Any) -> None:
    """Equal answers, numbers up to 1e-5."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            close(found[key], value)
        else:
            assert found[key] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value)


def check(predictor: Predictor, asked: list[dict[str, Any]]) -> None:
    answered = predictor.predict_all(asked)
    assert len(answered) == len(asked)
    for row, answer in zip(asked, answered, strict=True):
        readable = {
            name for name, head in predictor.heads.items() if all(field in row for field in head.text)
        }
        assert set(answer["answers"]) == readable
        assert set(answer["skipped"]) == set(predictor.heads) - readable
        for name in readable:
            close(answer["answers"][name], predictor.predict([row], task=name)[0])


@pytest.mark.parametrize("batch_size", [64, 3, 1])
def test_the_answers_are_those_of_predict(folder: Path, batch_size: int) -> None:
    predictor = gw.load(folder, batch_size=batch_size)
    assert predictor.price() == 3.0
    check(predictor, rows())


def test_texts_and_pairs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictor = gw.load(folder)
    note_once.cache_clear()
    text, pair = predictor.predict_all(["river red", ("stone river", "stone lamp")])
    assert text["skipped"] == {"same": "1 texts, but the task reads 2 (first, second)"}
    assert list(text["answers"]) == ["colour", "length"]
    assert list(pair["answers"]) == ["same"]
    assert set(pair["skipped"]) == {"colour", "length"}
    assert "note: task 'same' is skipped for rows without first, second" in capsys.readouterr().err
    close(pair["answers"]["same"], predictor.predict([("stone river", "stone lamp")], task="same")[0])
    some = predictor.predict_all(["river red"], ["length"], digits=3)
    assert list(some[0]["answers"]) == ["length"]
    assert some[0]["skipped"] == {}
    assert predictor.predict_all([]) == []
    (kept,) = predictor.predict_all(["river red"], keep=["text"], top=1)
    assert kept["text"] == "river red"
    assert len(kept["answers"]["colour"]["probabilities"]) == 1


def test_a_batch_is_no_larger_than_asked(folder: Path) -> None:
    """All three tasks part at once: six rows are two texts."""
    predictor = gw.load(folder, batch_size=6)
    sizes: list[int] = []
    layer = predictor.model.backbone.base_model.model.encoder.layer[-1]
    predictor.predict_all(["red"])
    handle = layer.register_forward_hook(lambda _, args, output: sizes.append(output.shape[0]))
    predictor.predict_all([{"text": "red", "first": "red", "second": "blue"}] * 20)
    handle.remove()
    assert max(sizes) <= 6
    assert sum(sizes) == 60


def test_a_model_of_one_task_and_merged_weights(folder: Path, tmp_path: Path) -> None:
    from graftwork.finished.extract import extract

    extract(folder, "colour", tmp_path / "colour")
    predictor = gw.load(tmp_path / "colour")
    check(predictor, [row for row in rows() if "text" in row])
    assert predictor.price() == 1.0


def test_merged_linear_adapters(tmp_path: Path) -> None:
    write_run(tmp_path)
    recipe = recipe_dict(tmp_path)
    recipe["tasks"] = recipe["tasks"][:1]
    recipe["graft"] |= {"activation": "identity", "position": "parallel", "placement": "linear"}
    fit(load_recipe(write_recipe(tmp_path, recipe)))
    predictor = gw.load(tmp_path / "out")
    before = predictor.predict_all(["river red", "stone blue"])
    predictor.model.backbone.merge_adapter()
    for one, two in zip(predictor.predict_all(["river red", "stone blue"]), before, strict=True):
        close(one, two)


@pytest.mark.parametrize(
    ("asked", "tasks", "message"),
    [
        ("stone red", None, "a single row; give a list of rows"),
        ([{"id": 3}], None, "row 1 can be read by none of the tasks: colour: no field 'text', same: no fie"),
        ([{"text": 3}], None, "row 1: field 'text' is 3, not a text"),
        ([3], None, "row 1 is 3, not a text"),
        (["red"], ["same"], r"row 1 can be read by none of the tasks: same: 1 texts, but the task reads 2"),
        (["red"], "colour", r"tasks is 'colour'; give a list of names \(colour, same, length\)"),
        (["red"], [], r"tasks is \[\]; give a list"),
        (["red"], ["color"], "unknown task 'color'; the model has colour, same, length"),
    ],
)  # fmt: skip
def test_bad_rows_are_refused(folder: Path, asked: Any, tasks: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        gw.load(folder).predict_all(asked, tasks)


def test_reserved_fields(folder: Path) -> None:
    with pytest.raises(DataError, match="keep has 'skipped', but answers have a field of that name"):
        gw.load(folder).predict_all([{"text": "red", "skipped": 1}], keep=["skipped"])


def test_weights_that_are_not_finite_are_no_answer(folder: Path) -> None:
    predictor = gw.load(folder)
    nn.init.constant_(predictor.model.heads.weight, float("nan"))
    with pytest.raises(DataError, match="no finite outputs"):
        predictor.predict_all(["red"])


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_lines(tmp_path / "rows.jsonl", rows(12))
    target = tmp_path / "answers.jsonl"
    main(
        [
            "predict",
            str(folder),
            "--all-tasks",
            "--input",
            str(source),
            "--output",
            str(target),
            "--keep",
            "id",
        ]
    )
    assert "3 tasks that read the same text cost 3.00 passes of one task." in capsys.readouterr().err
    found = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["id"] for row in found] == list(range(12))
    expected = gw.load(folder).predict_all(rows(12), keep=["id"])
    for one, two in zip(found, expected, strict=True):
        close(one, two)
    assert "--task is one task and --all-tasks all of them" in fails(
        capsys, "predict", str(folder), "--all-tasks", "--task", "colour", "--input", str(source)
    )
    lines = write_lines(tmp_path / "bad.jsonl", [rows(3)[2], {"other": "x"}])
    assert "row 2 can be read by none of the tasks" in fails(
        capsys, "predict", str(folder), "--all-tasks", "--input", str(lines), "--output", str(tmp_path / "x")
    )
    assert not (tmp_path / "x").exists()


def test_the_rows_before_a_bad_one_are_answered(folder: Path) -> None:
    lists = gw.load(folder).stream_all([[{"text": "red"}, {"text": "blue"}], [{"text": "red"}, {}]])
    assert [len(some) for some in (next(lists), next(lists))] == [2, 1]
    with pytest.raises(DataError, match="row 4 can be read by none"):
        next(lists)
