"""What a row is as tokens, and which of them are learned."""

from __future__ import annotations

import json
from typing import Any

import pytest

from graftwork.errors import DataError
from graftwork.texts.rendering import Renderer, Written
from graftwork.texts.writing import Writing
from toy_writer import toy_tokenizer

TOKENIZER = toy_tokenizer()


def row(source: str, answer: str, **settings: Any) -> Written:
    return Renderer(TOKENIZER, Writing(**settings)).rows([source], [answer])[0]


def words(ids: list[int]) -> list[str]:
    return TOKENIZER.convert_ids_to_tokens(ids)


def learned(found: Written) -> list[str]:
    return words([token for token, own in zip(found.ids, found.trained, strict=True) if own])


def test_the_answer_and_its_end_are_learned() -> None:
    found = row("red lamp", "blue bird")
    assert words(found.ids) == ["<bos>", "red", "lamp", "blue", "bird", "<eos>"]
    assert learned(found) == ["blue", "bird", "<eos>"]
    assert found.whole


def test_in_a_chat_the_end_of_the_turn_is_learned() -> None:
    found = row("red lamp", "blue bird", chat=True, system="tree")
    assert words(found.ids) == (
        ["<system>", "tree", "<end>", "<user>", "red", "lamp", "<end>", "<bot>", "blue", "bird", "<end>"]
    )
    assert learned(found) == ["blue", "bird", "<end>"]


def test_the_prompt_can_be_learned_too_but_for_its_first_token() -> None:
    found = row("red lamp", "blue", train_on_prompt=True)
    assert found.trained == [0, 1, 1, 1, 1]


def talk(*turns: str) -> str:
    roles = ("user", "assistant")
    return json.dumps([{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)])


def test_earlier_answers_are_learned_if_asked_for() -> None:
    source = talk("red", "blue", "stone")
    assert learned(row(source, "tree", form="messages", chat=True)) == ["tree", "<end>"]
    both = row(source, "tree", form="messages", chat=True, mask_history=False)
    assert learned(both) == ["blue", "<end>", "tree", "<end>"]


def test_the_mask_does_not_need_a_mask_of_the_template() -> None:
    """Stock templates give no mask of the assistant at all; this one has no such marks either."""
    whole = TOKENIZER.apply_chat_template(
        [{"role": "user", "content": "red"}, {"role": "assistant", "content": "blue"}],
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    assert not any(whole["assistant_masks"])
    assert any(row("red", "blue", chat=True).trained)


def test_a_long_row_is_cut_at_its_end() -> None:
    found = row("red lamp", "blue bird", max_length=4)
    assert words(found.ids) == ["<bos>", "red", "lamp", "blue"]
    assert learned(found) == ["blue"]
    assert not found.whole


@pytest.mark.parametrize(("answer", "length"), [("", 9), ("  ", 9), ("blue", 3)])
def test_rows_with_nothing_to_learn(answer: str, length: int) -> None:
    assert not any(row("red lamp", answer, max_length=length).trained)


def test_an_answer_ends_where_its_end_token_is() -> None:
    plain, chat = (Renderer(TOKENIZER, Writing(chat=chat)) for chat in (False, True))
    ids = TOKENIZER.convert_tokens_to_ids(["blue", "<end>", "red", "<eos>"])
    assert plain.text(ids) == "blue red"
    assert chat.text(ids) == "blue"
    assert plain.ends == (2,)
    assert set(chat.ends) == {2, 5}


def test_a_tokenizer_without_a_chat_template() -> None:
    with pytest.raises(DataError, match="has no chat template, which chat: true needs; take a model"):
        Renderer(toy_tokenizer(chat=False), Writing(chat=True))


def test_noise_in_chat_rows_is_refused() -> None:
    with pytest.raises(DataError, match="noise in texts is for rows of text"):
        row('[{"rol', "blue", form="messages", chat=True)


def test_a_template_that_renders_history_otherwise() -> None:
    tokenizer = toy_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "m['content']", "(m['content'] if loop.last or m['role'] != 'assistant' else 'stone')"
    )
    renderer = Renderer(tokenizer, Writing(form="messages", chat=True, mask_history=False))
    with pytest.raises(DataError, match="set mask_history: true"):
        renderer.rows([talk("red", "blue", "stone")], ["tree"])
