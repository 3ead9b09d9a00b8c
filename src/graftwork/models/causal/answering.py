"""Answers of a language model to prompts of several tasks, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graftwork.edges import forward_errors
from graftwork.models.causal.model import language_model
from graftwork.routing.rows import ROWS_KEYWORD
from graftwork.routing.traceless import traceless
from graftwork.texts.rendering import Renderer

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from graftwork.kinds.heads import TaskHead

__all__ = ["BATCH", "Prompt", "Writer", "answer_texts", "left_padded", "prompts_of", "write_answers"]

BATCH = 16
"""Prompts of a batch."""

Writer = Callable[..., list[list[int]]]
"""What answers prompts as `write_answers` does."""


@dataclass(frozen=True)
class Prompt:
    """What a model is to answer."""

    ids: list[int]
    """Tokens."""
    task: int
    """Index of the task."""
    most: int
    """Tokens of the answer at most."""
    ends: tuple[int, ...]
    """Tokens that end it."""


def left_padded(rows: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Tokens with padding in front, and their mask: answers are written behind the last token."""
    longest = max(map(len, rows))
    ids = [[padding] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


@torch.no_grad()
def write_answers(
    backbone: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    batch_size: int = BATCH,
    advance: Callable[[int], object] = lambda count: None,
    routed: bool = True,
    streamer: Any = None,
    **settings: Any,
) -> list[list[int]]:
    """The likeliest next tokens, one after the other, of every prompt; tasks may be mixed freely.

    Prompts of like length are answered together. Nothing random is drawn unless `settings` ask for it.

    Args:
        backbone: a causal model, perhaps under adapters.
        tokenizer: its tokenizer.
        prompts: in any order.
        batch_size: prompts that are answered together.
        advance: told how many were answered since the last time.
        routed: whether the adapters have several tasks.
        streamer: of Transformers, is told of every token of a single prompt.
        **settings: of `transformers.GenerationConfig`, in place of greedy ones.

    Returns:
        The tokens of the answers in the order of the prompts, without what comes after their end.
    """
    from transformers import GenerationConfig

    model: Any = language_model(backbone)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    order = sorted(range(len(prompts)), key=lambda i: (prompts[i].most, len(prompts[i].ids)), reverse=True)
    found: list[list[int]] = [[] for _ in prompts]
    with traceless(model):
        model.eval()
        for start in range(0, len(order), batch_size):
            picked = [prompts[i] for i in order[start : start + batch_size]]
            ids, mask = (
                part.to(model.device) for part in left_padded([row.ids for row in picked], padding or 0)
            )
            ends = sorted({end for row in picked for end in row.ends})
            greedy: dict[str, Any] = {
                "do_sample": False,
                "num_beams": 1,
                "temperature": 1.0,
                "top_p": 1.0,
                "top_k": 50,
            }
            config = GenerationConfig(
                max_new_tokens=max(row.most for row in picked),
                eos_token_id=ends,
                pad_token_id=padding or 0,
                repetition_penalty=1.0,
                **{**greedy, **settings},
            )
            rows = torch.tensor([row.task for row in picked], device=model.device)
            routing = {ROWS_KEYWORD: rows} if routed else {}
            inputs = {"input_ids": ids, "attention_mask": mask}
            with forward_errors(inputs):
                written = model.generate(**inputs, generation_config=config, streamer=streamer, **routing)[
                    :, ids.shape[1] :
                ]
            for i, row, answer in zip(
                order[start : start + batch_size], picked, written.tolist(), strict=True
            ):
                answer = answer[: row.most]
                end = next((place for place, token in enumerate(answer) if token in row.ends), len(answer))
                found[i] = answer[:end]
            advance(len(picked))
    return found


def prompts_of(renderer: Renderer, task: int, sources: Sequence[str]) -> list[Prompt]:
    """The prompts of some rows of a task; of one that is too long the end is kept, which asks."""
    writing = renderer.writing
    return [
        Prompt(ids[-writing.max_length :], task, writing.max_new_tokens, renderer.ends)
        for ids in renderer.prompts(sources)
    ]


def answer_texts(
    backbone: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    heads: Sequence[TaskHead],
    tasks: Sequence[int],
    sources: Sequence[str],
    write: Writer = write_answers,
    **options: Any,
) -> list[str]:
    """The answers to rows of several tasks as texts, in the order of the rows.

    Args:
        backbone: a causal model, perhaps under adapters.
        tokenizer: its tokenizer.
        heads: all tasks of the model.
        tasks: of every row, the index of its task, a written one.
        sources: what the prompt of every row is made of.
        write: `write_answers`, or what remembers what it has written.
        **options: of `write_answers`.
    """
    renderers: dict[int, Renderer] = {}
    prompts: list[Prompt | None] = [None] * len(sources)
    for task in dict.fromkeys(tasks):
        writing = heads[task].writing
        assert writing is not None
        renderers[task] = Renderer(tokenizer, writing)
        mine = [row for row, own in enumerate(tasks) if own == task]
        found = prompts_of(renderers[task], task, [sources[row] for row in mine])
        for row, prompt in zip(mine, found, strict=True):
            prompts[row] = prompt
    ready = [prompt for prompt in prompts if prompt is not None]
    written = write(backbone, tokenizer, ready, **options)
    return [renderers[task].text(ids) for task, ids in zip(tasks, written, strict=True)]
