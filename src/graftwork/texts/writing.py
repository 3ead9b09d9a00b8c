"""`Writing`: how a task's rows become prompts and answers, as a recipe says it and a saved model keeps it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from graftwork.errors import CheckpointError
from graftwork.messages import shown

__all__ = ["LENGTH", "NEW_TOKENS", "Form", "Writing"]

LENGTH = 512
"""Tokens of prompt and answer together, unless a task says otherwise: the 128 of encoders cuts the passages
of boolq."""
NEW_TOKENS = 128
"""Tokens that are written at most for a row, unless a task says otherwise."""

Form = Literal["text", "template", "instruction", "messages", "conversations"]
"""What the rows of a task look like: one field of text; fields for a template; `instruction` with `input`; a
list of `role` and `content`; a list of `from` and `value`."""


@dataclass(frozen=True)
class Writing:
    """How rows become prompts and answers."""

    form: Form = "text"
    """What the rows look like."""
    source: str = "text"
    """Field of the text, or of the list of messages."""
    target: str = "target"
    """Field of the answer; chat rows have theirs in the last message of the assistant."""
    references: str | None = None
    """Field of a list of answers that count as right in scoring; a row without it has its target alone."""
    prompt: str | None = None
    """Template over the fields of a row."""
    chat: bool = False
    """Whether the prompt is a conversation in the tokenizer's chat template."""
    system: str | None = None
    """Message of the system before the first of a conversation that has none."""
    max_length: int = LENGTH
    """Tokens of prompt and answer together; longer rows are cut at their end."""
    max_new_tokens: int = NEW_TOKENS
    """Tokens that are written at most."""
    train_on_prompt: bool = False
    """Whether the tokens of the prompt are learned, too."""
    mask_history: bool = True
    """Whether of a conversation the last answer alone is learned."""
    choices: str | None = None
    """Field of the texts that a row is to choose from; None: all rows have the same (`kind: choice`)."""
    normalise_length: bool = False
    """Whether the log-likelihood of a label is divided by its tokens (`kind: choice`)."""

    @property
    def is_list(self) -> bool:
        """Whether a row is a list of messages."""
        return self.form in ("messages", "conversations")

    def as_dict(self) -> dict[str, Any]:
        """As JSON types; what has its default is left out."""
        return {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if getattr(self, item.name) != item.default
        }

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """From `as_dict`.

        Raises:
            CheckpointError: a key is unknown, or a value is of another type.
        """
        if not isinstance(values, Mapping):
            raise CheckpointError(f"a saved head has writing={shown(values)}, not a mapping")
        known = {item.name: item.default for item in dataclasses.fields(cls)}
        for key, value in values.items():
            right = key in known and (
                isinstance(value, str)
                if known.get(key) is None
                else type(value) is type(known[key]) and (type(value) is not int or value >= 1)
            )
            if not right or (key == "form" and value not in get_args(Form)):
                raise CheckpointError(f"a saved head has writing.{shown(key)}={shown(value)}")
        return cls(**values)
