"""What a finished model that writes is used for: rows, scores, and a chat."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

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


def test_what_is_written_is_not_asked_in_one_pass(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="all tasks in one pass need heads; ask a model that writes"):
        gw.load(folder).predict_all(["stone red"])
    said = fails(capsys, "export", str(folder), str(folder.parent / "all"), "--all-tasks")
    assert "writes texts, which --format onnx cannot" in said


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


ASKED = ["which colour : stone red Answer :", "which colour : river blue Answer :"]


def plain_answers(model: Any, tokenizer: Any) -> list[str]:
    """What stock Transformers write for each prompt alone."""
    found = []
    for prompt in ASKED:
        tokens = tokenizer(prompt, return_tensors="pt")
        ids = model.generate(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            max_new_tokens=4,
            do_sample=False,
            pad_token_id=2,
        )
        found.append(tokenizer.decode(ids[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True))
    return found


def test_a_lora_of_a_written_task_answers_as_the_routed_model(folder: Path, tmp_path: Path) -> None:
    main(["export", str(folder), str(tmp_path / "lora"), "--format", "lora", "--task", "colour"])
    base = AutoModelForCausalLM.from_pretrained(folder.parent / "backbone")
    loaded = PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    assert type(loaded.peft_config["default"]).__name__ == "LoraConfig"
    assert plain_answers(loaded, AutoTokenizer.from_pretrained(tmp_path / "lora")) == [
        "colour red",
        "colour blue",
    ]
    routed, _ = load_model(folder)
    ids = torch.tensor([[1, 7, 8, 9]])
    with torch.no_grad():
        wanted = routed.backbone(input_ids=ids, graft_rows=torch.tensor([0])).logits
        torch.testing.assert_close(loaded(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-4)
    assert not (tmp_path / "lora/heads.safetensors").exists()


def test_a_merged_model_answers_as_the_routed_model(folder: Path, tmp_path: Path) -> None:
    main(["export", str(folder), str(tmp_path / "merged"), "--format", "merged", "--task", "colour"])
    described = json.loads((tmp_path / "merged/export.json").read_text())
    assert 0 <= described["largest_difference"] < 1e-3
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template
    assert plain_answers(loaded, tokenizer) == ["colour red", "colour blue"]


def test_a_merged_chat_task_ends_where_its_turn_ends(folder: Path, tmp_path: Path) -> None:
    main(["export", str(folder), str(tmp_path / "merged"), "--format", "merged", "--task", "first"])
    config = json.loads((tmp_path / "merged/generation_config.json").read_text())
    assert set(config["eos_token_id"]) == {2, 5}


@pytest.mark.parametrize(
    ("format", "task", "message"),
    [
        ("merged", "label", "task 'label' has a head, which a merged language model has no place for"),
        ("pt2", "colour", "task 'colour' writes texts, which --format pt2 cannot; choose lora or merged"),
        ("merged", None, "a merged model holds one task; pass --task with one of colour, first, label"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    format: str,
    task: str | None,
    message: str,
) -> None:
    chosen = [] if task is None else ["--task", task]
    line = fails(capsys, "export", str(folder), str(tmp_path / "out"), "--format", format, *chosen)
    assert message in line
    assert not (tmp_path / "out").exists()
