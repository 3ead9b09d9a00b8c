"""`Talk`: a conversation with a model that writes, told piece by piece."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformers import TextStreamer

from graftwork.errors import DataError
from graftwork.messages import did_you_mean, listed
from graftwork.models.causal.answering import prompts_of, write_answers
from graftwork.texts.rendering import Renderer
from graftwork.texts.rows import RowReader
from graftwork.texts.template import template_fields

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from graftwork.models.multitask import MultiTaskModel
    from graftwork.texts.writing import Writing

__all__ = ["Talk"]


class Talk:
    """A conversation. Tasks with a chat template hear what was said before; others take every line alone.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        task: to begin with; default the first one that writes.
        max_new_tokens: of an answer, in place of those of the task.

    Raises:
        DataError: no task of the model writes, or the one that is asked for does not.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        task: str | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        if max_new_tokens is not None and max_new_tokens < 1:
            raise DataError(f"max_new_tokens is {max_new_tokens}; give at least 1.")
        self.model, self.tokenizer, self.most = model, tokenizer, max_new_tokens
        self.names = [head.name for head in model.heads.heads if head.kind == "generation"]
        if not self.names:
            known = ", ".join(head.name for head in model.heads.heads)
            raise DataError(f"no task of the model writes texts ({known}); use graftwork predict.")
        self.task = self.names[0]
        self.said: list[dict[str, Any]] = []
        if task is not None:
            self.choose(task)

    def choose(self, task: str) -> None:
        """Go on with another task, from the beginning.

        Raises:
            DataError: it is unknown, or writes no texts.
        """
        if task not in self.names:
            raise DataError(
                f"no task {task!r} that writes{did_you_mean(task, self.names)} {listed(self.names)}."
            )
        self.task = task
        self.clear()

    def clear(self) -> None:
        """Forget what was said."""
        self.said = []

    def ask(self, line: str, tell: Callable[[str], object]) -> str:
        """The answer to a line, of which `tell` is given every piece as it comes.

        Raises:
            DataError: the line lacks fields of the task's template.
        """
        index = [head.name for head in self.model.heads.heads].index(self.task)
        writing = self.model.heads.heads[index].writing
        assert writing is not None
        renderer = Renderer(self.tokenizer, writing)
        source = self._source(line, writing)
        if writing.chat:
            messages = [*self.said, {"role": "user", "content": source}]
            renderer = renderer.in_list()
            source = json.dumps(messages, ensure_ascii=False)
        (prompt,) = prompts_of(renderer, index, [source])
        if self.most is not None:
            prompt = type(prompt)(prompt.ids, prompt.task, self.most, prompt.ends)
        streamer = _Pieces(self.tokenizer, tell)
        (ids,) = write_answers(self.model.backbone, self.tokenizer, [prompt], streamer=streamer)
        answer = renderer.text(ids)
        if writing.chat:
            self.said = [*messages, {"role": "assistant", "content": answer}]
        return answer

    def _source(self, line: str, writing: Writing) -> str:
        """What a line asks: as the rows of the task do, or after the first turn of a chat as it is."""
        if writing.is_list or self.said:
            return line
        fields = template_fields(writing.prompt or "") or (writing.source,)
        row: Any = {fields[0]: line}
        if len(fields) > 1:
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise DataError(
                    f"task {self.task!r} reads the fields {listed(fields)}; type them as JSON, such as "
                    f"{json.dumps(dict.fromkeys(fields, '...'))}."
                )
        return RowReader(writing).source(row, "the line")


class _Pieces(TextStreamer):
    """Hands the pieces of an answer on, as soon as they are whole words."""

    def __init__(self, tokenizer: Any, tell: Callable[[str], object]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.tell = tell

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """One piece."""
        self.tell(text)
