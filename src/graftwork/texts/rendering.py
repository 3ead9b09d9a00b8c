"""From sources and answers to tokens: the tokenizer's chat template, or the text as it is.

Prompt and answer are tokenised apart, as they are in generation, where the answer is not there yet. What is
learned is known by the length of the prompt, never by a template's own mask of the assistant, which stock
templates leave empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from graftwork.edges import library_errors
from graftwork.errors import DataError
from graftwork.messages import shown
from graftwork.texts.rows import messages_of
from graftwork.texts.writing import Writing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Renderer", "Written"]

_QUESTION, _REPLY = "question", "reply"


@dataclass(frozen=True)
class Written:
    """One row as tokens."""

    ids: list[int]
    trained: list[int]
    """1 for tokens that are learned."""
    whole: bool
    """Whether nothing of it was cut."""


class Renderer:
    """Renders the rows of one task.

    Args:
        tokenizer: of the backbone.
        writing: of the task.

    Raises:
        DataError: the tokenizer has no chat template, though one is needed, or no end token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, writing: Writing) -> None:
        self.tokenizer, self.writing = tokenizer, writing
        if writing.chat and not getattr(tokenizer, "chat_template", None):
            raise DataError(
                f"{type(tokenizer).__name__} has no chat template, which {_asks(writing)}; take a model that "
                "was tuned for chats, or give rows of texts, or a prompt:, without chat: true"
            )
        self.ends = self._ends()

    def _ends(self) -> tuple[int, ...]:
        """Tokens that end an answer, the one that is learned first."""
        tokenizer = self.tokenizer
        found = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        if self.writing.chat:
            talk = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _REPLY}]
            tail = self._chat([talk], False)[0].rpartition(_REPLY)[2]
            special = set(map(int, tokenizer.all_special_ids))
            found = [token for token in self._ids([tail])[0] if token in special][:1] + found
        if not found:
            raise DataError(
                f"{type(tokenizer).__name__} has no end-of-text token, so that no answer could end; set "
                "tokenizer.eos_token"
            )
        return tuple(dict.fromkeys(found))

    def in_list(self) -> Renderer:
        """The same for sources that are lists of messages."""
        return Renderer(self.tokenizer, replace(self.writing, form="messages"))

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        with library_errors(f"{type(self.tokenizer).__name__} cannot read the texts", DataError):
            encoded = self.tokenizer(list(texts), add_special_tokens=False, padding=False, truncation=False)
        return [list(row) for row in encoded["input_ids"]]

    def _chat(self, talks: Sequence[Any], prompt: bool) -> list[str]:
        with library_errors("the tokenizer's chat template cannot render a row", DataError):
            found: Any = self.tokenizer.apply_chat_template(
                list(talks), tokenize=False, add_generation_prompt=prompt
            )
        return list(found)

    def talk(self, source: str) -> list[dict[str, Any]]:
        """The messages of a source, with the system's first."""
        writing = self.writing
        messages = messages_of(source) if writing.is_list else [{"role": "user", "content": source}]
        if writing.system is not None and messages[0].get("role") != "system":
            messages = [{"role": "system", "content": writing.system}, *messages]
        return messages

    def prompts(self, sources: Sequence[str]) -> list[list[int]]:
        """The tokens of prompts, each up to where the answer begins."""
        if self.writing.chat:
            return self._ids(self._chat([self.talk(source) for source in sources], True))
        with library_errors(f"{type(self.tokenizer).__name__} cannot read the texts", DataError):
            encoded = self.tokenizer(list(sources), padding=False, truncation=False)["input_ids"]
        # What a tokenizer puts behind a text would end it before the answer.
        last = {self.tokenizer.eos_token_id, self.tokenizer.sep_token_id} - {None}
        rows = [list(row[:-1]) if len(row) > 1 and row[-1] in last else list(row) for row in encoded]
        # A model needs a token to begin with.
        first = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.ends[0]
        return [row or [int(first)] for row in rows]

    def replies(self, sources: Sequence[str], answers: Sequence[str]) -> list[list[int]]:
        """The tokens of answers, each with the token that ends it; none at all of an empty answer."""
        if self.writing.chat:
            texts = self._replies_in_chat(sources, answers)
        else:
            apart = ["" if not source or source[-1].isspace() else " " for source in sources]
            texts = [gap + answer.strip() for gap, answer in zip(apart, answers, strict=True)]
        found = []
        for answer, ids in zip(answers, self._ids(texts), strict=True):
            end = next((place for place, token in enumerate(ids) if token in self.ends), len(ids))
            found.append([*ids[:end], self.ends[0]] if answer.strip() else [])
        return found

    def _replies_in_chat(self, sources: Sequence[str], answers: Sequence[str]) -> list[str]:
        talks = [self.talk(source) for source in sources]
        whole = [
            [*talk, {"role": "assistant", "content": answer.strip()}]
            for talk, answer in zip(talks, answers, strict=True)
        ]
        found = []
        for answer, before, text in zip(
            answers, self._chat(talks, True), self._chat(whole, False), strict=True
        ):
            # A template that renders the prompt of an answer otherwise than the answer gives its words alone.
            found.append(text[len(before) :] if text.startswith(before) else answer.strip())
        return found

    def rows(self, sources: Sequence[str], answers: Sequence[str]) -> list[Written]:
        """Prompts and answers as tokens, cut at the end to `max_length`."""
        writing, found = self.writing, []
        prompts, replies = self.prompts(sources), self.replies(sources, answers)
        for source, prompt, reply in zip(sources, prompts, replies, strict=True):
            learned = [int(writing.train_on_prompt)] * len(prompt)
            if not writing.mask_history and writing.is_list:
                learned = self._history(source, prompt)
            ids, trained = prompt + reply, learned + [1] * len(reply)
            # The first token has nothing before it that could predict it.
            trained[0] = 0
            limit = writing.max_length
            if not reply:
                trained = [0] * len(trained)
            found.append(Written(ids[:limit], trained[:limit], len(ids) <= limit))
        return found

    def _history(self, source: str, prompt: Sequence[int]) -> list[int]:
        """Which tokens of a prompt belong to earlier answers.

        Raises:
            DataError: the template renders them otherwise than as the last one.
        """
        talk, learned = self.talk(source), [int(self.writing.train_on_prompt)] * len(prompt)
        for place, message in enumerate(talk):
            if message.get("role") != "assistant" or place == 0:
                continue
            before = self._ids(self._chat([talk[:place]], True))[0]
            through = self._ids(self._chat([talk[: place + 1]], False))[0]
            if list(prompt[: len(before)]) != before or list(prompt[: len(through)]) != through:
                raise DataError(
                    f"the chat template renders the earlier answer {shown(message['content'])} otherwise "
                    "than the last one, so that it cannot be learned in its place; set mask_history: true"
                )
            end = next(
                (i for i, token in enumerate(through) if i >= len(before) and token in self.ends), None
            )
            stop = len(through) if end is None else end + 1
            learned[len(before) : stop] = [1] * (stop - len(before))
        return learned

    def text(self, ids: Sequence[int]) -> str:
        """An answer as text, up to the token that ends it."""
        end = next((place for place, token in enumerate(ids) if token in self.ends), len(ids))
        return str(self.tokenizer.decode(list(ids[:end]), skip_special_tokens=True)).strip()


def _asks(writing: Writing) -> str:
    return f"rows with {writing.source!r} need" if writing.is_list else "chat: true needs"
