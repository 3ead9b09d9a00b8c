"""Prompts behind rows with their answers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from graftwork.data.task_data import Split, TaskData
from graftwork.kinds.heads import TaskHead
from graftwork.models.causal.few_shot import with_examples
from graftwork.texts.rendering import Renderer
from graftwork.texts.writing import Writing
from toy_writer import toy_tokenizer


def data(writing: Writing, *, texts: Any = None, answers: Any = None) -> TaskData:
    labels = () if answers else ("blue", "red")
    kind: Any = "generation" if answers else "choice"
    head = TaskHead("t", ("text",), "label", kind, "accuracy", labels, writing=writing)
    targets = np.arange(4.0) if answers else np.array([1.0, 1.0, 1.0, 0.0])
    train = Split((texts or ["stone", "river", "cloud", "tree"],), targets, "x", answers)
    test = Split(((texts or ["lamp"])[:1],), np.array([0.0]), "y", answers)
    return TaskData(head, {"train": train, "test": test})


def test_texts_stand_behind_rows_with_different_answers_first() -> None:
    shown = with_examples(data(Writing()))
    assert shown.splits["test"].texts == (["stone red\n\ntree blue\n\nriver red\n\nlamp"],)
    assert list(shown.splits) == ["test"]
    assert shown.head.writing is not None
    assert shown.head.writing.max_length == 4 * 512


def test_in_a_chat_they_are_turns() -> None:
    writing = Writing(chat=True, system="Answer :", form="template", prompt="{text}")
    answers = [("one", "two"), ("two",), ("three",), ("red",)]
    shown = with_examples(data(writing, answers=answers))
    (source,) = shown.splits["test"].texts[0]
    assert [message["role"] for message in json.loads(source)] == ["user", "assistant"] * 3 + ["user"]
    assert shown.head.writing is not None
    tokenizer = toy_tokenizer()
    (prompt,) = Renderer(tokenizer, shown.head.writing).prompts([source])
    assert tokenizer.decode(prompt) == (
        "<system> Answer : <end> <user> stone <end> <bot> one <end> <user> river <end> <bot> two <end> "
        "<user> cloud <end> <bot> three <end> <user> lamp <end> <bot>"
    )


def test_only_the_first_conversation_keeps_its_system() -> None:
    talk = [{"role": "system", "content": "one"}, {"role": "user", "content": "stone"}]
    writing = Writing(chat=True, form="messages", source="messages")
    answers = [(word,) for word in ("red", "blue", "green", "lamp")]
    shown = with_examples(data(writing, texts=[json.dumps(talk)] * 4, answers=answers))
    roles = [message["role"] for message in json.loads(shown.splits["test"].texts[0][0])]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user", "assistant", "user"]


@pytest.mark.parametrize("rows", [1, 2])
def test_fewer_train_rows_are_fewer_examples(rows: int) -> None:
    found = data(Writing())
    few = Split((["stone", "river"][:rows],), np.array([1.0, 0.0])[:rows], "x")
    shown = with_examples(TaskData(found.head, {**found.splits, "train": few}))
    assert shown.splits["test"].texts[0][0].count("\n\n") == rows
