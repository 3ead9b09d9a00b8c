"""Rows as people have them, and the prompts that are made of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from graftwork.errors import CheckpointError, DataError
from graftwork.texts.rows import RowReader, with_form
from graftwork.texts.template import template_faults, template_fields
from graftwork.texts.writing import Writing

CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]


def read(row: dict[str, Any], **settings: Any) -> tuple[str, tuple[str, ...], Writing]:
    writing = with_form(Writing(**settings), row, "row 1")
    reader = RowReader(writing)
    return reader.source(row, "row 1"), reader.answers(row, "row 1"), writing


def test_a_text_and_its_target() -> None:
    source, answers, writing = read({"text": "two and two", "target": "four"})
    assert (source, answers, writing.form) == ("two and two", ("four",), "text")


def test_several_references_are_right_and_the_target_is_learned() -> None:
    row = {"text": "x", "target": "b", "all": ["a", "b", "c"]}
    assert read(row, references="all")[1] == ("b", "a", "c")


def test_a_template_over_the_fields_of_a_row() -> None:
    row = {"a": "x", "n": 3, "target": 4}
    source, answers, writing = read(row, prompt="{{{a}}} and {n}:")
    assert (source, answers, writing.form) == ("{x} and 3:", ("4",), "template")


@pytest.mark.parametrize("given", ["", None])
def test_instructions_without_an_input(given: str | None) -> None:
    source, answers, _ = read({"instruction": "sing", "input": given, "output": "la"})
    assert (source, answers) == ("sing", ("la",))


def test_instructions_with_an_input() -> None:
    source, _, writing = read({"instruction": "translate", "input": "ja", "output": "yes"})
    assert (source, writing.target) == ("translate\n\nja", "output")


def test_messages_end_before_the_last_answer() -> None:
    row = {"messages": [*CHAT, {"role": "assistant", "content": "ho"}, {"role": "user", "content": "bye"}]}
    source, answers, writing = read(row)
    assert json.loads(source) == CHAT
    assert (answers, writing.form, writing.chat) == (("ho",), "messages", True)


def test_conversations_get_the_roles_of_a_chat_template() -> None:
    turns = [("system", "be brief"), ("human", "hi"), ("gpt", "ho")]
    row = {"conversations": [{"from": who, "value": text} for who, text in turns]}
    source, answers, _ = read(row)
    assert json.loads(source) == CHAT
    assert answers == ("ho",)


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"body": "x", "target": "y"}, {}, "no field 'text'; its fields: body, target"),
        ({"text": "x"}, {}, "no field 'target'; its fields: text"),
        ({"text": "x", "target": ["y", "z"]}, {}, "is a list of 2; give the one that is learned there, and"),
        ({"text": "x", "target": None}, {}, "'target' is None, not a text"),
        (
            {"text": "x", "target": "y"},
            {"prompt": "{question}"},
            "no field 'question'; its fields: text, target",
        ),
        (
            {"text": "x", "target": "y", "all": "z"},
            {"references": "all"},
            "'all' is 'z', not a list of texts",
        ),
        ({"messages": CHAT}, {}, "no message of the assistant"),
        ({"messages": []}, {}, "not a list of messages"),
        ({"messages": [{"role": "user"}]}, {}, "has not both role and content"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, {}, "the assistant speaks first"),
        (
            {"conversations": [{"from": "alien", "value": "x"}]},
            {},
            "a message is from 'alien'; allowed: human",
        ),
    ],
)
def test_bad_rows(row: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match="row 1") as refused:
        read(row, **settings)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_fields_of_a_template() -> None:
    assert template_fields("{a} {{b}} {c} {a}") == ("a", "c")
    assert template_faults("{a}") == template_faults(None) == []


@pytest.mark.parametrize(
    ("template", "message"),
    [("", "not a text"), (3, "not a text"), ("no field", "names no field"), ("{a.b}", "no field of a row"),
     ("{}", "no field of a row"), ("{a", "write {{ and }} for braces")],
)  # fmt: skip
def test_bad_templates(template: object, message: str) -> None:
    (fault,) = template_faults(template)
    assert message in fault


def test_settings_survive_a_saved_model() -> None:
    writing = Writing(form="template", prompt="{a}", chat=True, max_length=9)
    assert Writing.from_dict(json.loads(json.dumps(writing.as_dict()))) == writing
    assert Writing().as_dict() == {}


@pytest.mark.parametrize(
    "values",
    [[], {"other": 1}, {"form": "poem"}, {"max_length": 0}, {"max_length": "9"}, {"chat": 1}, {"prompt": 3}],
)
def test_damaged_settings(values: Any) -> None:
    with pytest.raises(CheckpointError, match="saved head"):
        Writing.from_dict(values)
