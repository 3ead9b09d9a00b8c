"""What a finished model that writes is used for: rows, scores, and a chat."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

import graftwork as gw
from commands import fails
from graftwork.cli import main
from graftwork.errors import DataError
from graftwork.finished.evaluate import rescore
from graftwork.fitting.fit import fit
from graftwork.models.causal.talk import Talk
from graftwork.models.folder import load_model
from graftwork.recipe.loading import load_recipe
from toy_writer import write_writing


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two written tasks and one with a head."""
    folder = tmp_path_factory.mktemp("written")
    recipe = load_recipe(write_writing(folder))
    fit(recipe, console=Console(quiet=True), diagnosis=False, probe=False)
    return folder / "out"


def test_rows_of_all_tasks_are_answered_in_their_order(folder: Path) -> None:
    rows = [
        {"text": "stone red", "task": "colour"},
        {"text": "stone red", "task": "label"},
        {"messages": [{"role": "user", "content": "first word stone red"}], "task": "first"},
        {"text": "river blue", "task": "colour"},
    ]
    predictor = gw.load(folder)
    answers = predictor.predict(rows)
    assert answers[0] == {"task": "colour", "text": "colour red"}
    assert answers[1]["label"] == "red"
    assert set(answers[2]) == {"task", "text"}
    assert answers[3]["text"] == "colour blue"
    assert [predictor.predict([row])[0] for row in rows][::2] == answers[::2]


def test_a_text_is_a_row_where_a_task_reads_one_field(folder: Path) -> None:
    predictor = gw.load(folder)
    assert predictor.predict(["stone red"], task="colour")[0]["text"] == "colour red"
    with pytest.raises(DataError, match="row 1 is a text, but task 'first' reads a list of messages"):
        predictor.predict(["stone red"], task="first")


def test_an_answer_at_the_end_of_a_chat_is_not_read(folder: Path) -> None:
    asked = [{"role": "user", "content": "first word stone red"}]
    answered = [*asked, {"role": "assistant", "content": "lamp"}]
    both = gw.load(folder).predict([{"messages": asked}, {"messages": answered}], task="first")
    assert both[0] == both[1]


def test_a_field_named_as_the_answer_cannot_be_kept(folder: Path) -> None:
    row = {"text": "stone red", "id": 7}
    predictor = gw.load(folder)
    assert predictor.predict([row], task="colour", keep=["id"])[0] == {
        "id": 7,
        "task": "colour",
        "text": "colour red",
    }
    assert predictor.predict([row], task="label", keep=["text"])[0]["text"] == "stone red"
    with pytest.raises(DataError, match="keep has 'text', but the answers of task 'colour'"):
        predictor.predict([row], task="colour", keep=["text"])


@pytest.mark.parametrize(
    ("row", "message"),
    [({"body": "x"}, "row 1 has no field 'text'"), ({"text": None}, "'text' is None, not a text")],
)
def test_bad_rows(folder: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        gw.load(folder).predict([row], task="colour")


def test_evaluation_gives_the_scores_of_the_report(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    scores = rescore(folder, details=True)
    for name, task in report["tasks"].items():
        assert scores["tasks"][name]["score"] == pytest.approx(task["test"], abs=1e-6)
    assert scores["notes"] == []
    for figure in ("loss", "perplexity", "exact_match", "token_f1"):
        found = scores["tasks"]["colour"]["details"][figure]
        assert found == pytest.approx(report["texts"]["colour"]["test"][figure], rel=1e-5)


def test_the_command_predicts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = folder.parent / "rows.jsonl"
    rows.write_text('{"text": "stone red"}\n{"text": "river blue"}\n')
    main(["predict", str(folder), "--task", "colour", "--input", str(rows)])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"task": "colour", "text": "colour red"}, {"task": "colour", "text": "colour blue"}]


def chat(folder: Path, typed: str, *options: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO(typed))
        main(["chat", str(folder), *options])


def test_a_chat_answers_line_by_line_and_changes_tasks(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat(folder, "stone red\n\n/tasks\n/task frst\n/help\n/task first\nfirst word stone red\n/quit\nriver\n")
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[:2] == ["colour red", "colour, first"]
    assert lines[2].startswith("/task NAME")
    assert len(lines) == 4
    assert "no task 'frst' that writes" in shown.err
    assert "'first'" in shown.err


def test_a_chat_remembers_what_was_said_until_it_is_told_to_forget(folder: Path) -> None:
    talk = Talk(*load_model(folder), task="first")
    pieces: list[str] = []
    answer = talk.ask("first word stone red", pieces.append)
    assert "".join(pieces).strip() == answer
    talk.ask("first word river blue", pieces.append)
    assert [message["role"] for message in talk.said] == ["user", "assistant"] * 2
    assert talk.said[1]["content"] == answer
    talk.clear()
    assert talk.ask("first word stone red", pieces.append) == answer


def test_a_chat_needs_a_task_that_writes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no task 'label' that writes" in fails(capsys, "chat", str(folder), "--task", "label")
    assert "give at least 1" in fails(capsys, "chat", str(folder), "--max_new_tokens", "0")
