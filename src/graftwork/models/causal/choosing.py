"""Log-likelihoods of the texts that rows of several tasks may choose from, and what is chosen."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graftwork.edges import forward_errors
from graftwork.models.causal.answering import BATCH, left_padded
from graftwork.models.causal.model import language_model
from graftwork.routing.rows import ROWS_KEYWORD
from graftwork.routing.traceless import traceless
from graftwork.texts.choices import choice_tokens
from graftwork.texts.rendering import Renderer

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from graftwork.kinds.heads import TaskHead

__all__ = ["Chooser", "Question", "choice_outputs", "log_likelihoods"]

Chooser = Callable[..., list[list[float]]]
"""What scores choices as `log_likelihoods` does."""

ROWS, POSITIONS = 64, 512
"""Choices that are read together, and their tokens: each has the logits of all words of the vocabulary."""


@dataclass(frozen=True)
class Question:
    """What a model chooses from."""

    ids: list[int]
    """Tokens of the prompt."""
    task: int
    """Index of the task."""
    choices: list[list[int]]
    """Tokens of every choice, the one that ends it with them."""


@torch.no_grad()
def log_likelihoods(
    backbone: nn.Module,
    questions: Sequence[Question],
    *,
    batch_size: int = BATCH,
    advance: Callable[[int], object] = lambda count: None,
    routed: bool = True,
    cached: bool = True,
) -> list[list[float]]:
    r"""The log-likelihood of every choice after its prompt, in nats; tasks may be mixed freely.

    .. math:: \sum_p \log P(x_p \mid x_{<p})

    over the tokens of the choice, the one that ends it with them. Prompts of like length are read together,
    each once, and its keys and values serve all its choices. A model that keeps none reads the prompt with
    every choice.

    Args:
        backbone: a causal model, perhaps under adapters.
        questions: in any order.
        batch_size: prompts that are read together.
        advance: told how many questions were answered since the last time.
        routed: whether the adapters have several tasks.
        cached: whether a prompt is read once for all its choices, where the model can.

    Returns:
        A number per choice, in the order of the questions.
    """
    model: Any = language_model(backbone)
    order = sorted(range(len(questions)), key=lambda i: len(questions[i].ids), reverse=True)
    found: list[list[float]] = [[] for _ in questions]
    with traceless(model):
        model.eval()
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            picked = [questions[i] for i in places]
            values = _after_prompts(model, picked, routed) if cached else None
            if values is None:
                values = _whole_rows(model, picked, routed)
            for i, own in zip(places, values, strict=True):
                found[i] = own
            advance(len(picked))
    return found


def choice_outputs(
    backbone: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    heads: Sequence[TaskHead],
    tasks: Sequence[int],
    sources: Sequence[str],
    choices: Sequence[Sequence[str]],
    read: Chooser = log_likelihoods,
    **options: Any,
) -> list[list[float]]:
    """What choices are compared by: their log-likelihoods, per token if the task says so.

    Args:
        backbone: a causal model, perhaps under adapters.
        tokenizer: its tokenizer.
        heads: all tasks of the model.
        tasks: of every row, the index of its task.
        sources: what the prompt of every row is made of.
        choices: of every row.
        read: `log_likelihoods`, or what remembers what it has found.
        **options: of `log_likelihoods`.
    """
    questions: dict[int, Question] = {}
    for task in dict.fromkeys(tasks):
        writing = heads[task].writing
        assert writing is not None
        mine = [row for row, own in enumerate(tasks) if own == task]
        prompts, tokens = choice_tokens(
            Renderer(tokenizer, writing),
            heads[task].name,
            [sources[row] for row in mine],
            [choices[row] for row in mine],
        )
        for row, prompt, own in zip(mine, prompts, tokens, strict=True):
            questions[row] = Question(prompt, task, own)
    asked = [questions[row] for row in range(len(tasks))]
    found = read(backbone, asked, **options)
    for row, (task, question) in enumerate(zip(tasks, asked, strict=True)):
        writing = heads[task].writing
        if writing is not None and writing.normalise_length:
            found[row] = [value / len(ids) for value, ids in zip(found[row], question.choices, strict=True)]
    return found


def _after_prompts(model: Any, questions: Sequence[Question], routed: bool) -> list[list[float]] | None:
    """The sums, each prompt read once; None if the model keeps no keys and values that can be shared."""
    ids, mask = (part.to(model.device) for part in left_padded([row.ids for row in questions], 0))
    tasks = torch.tensor([row.task for row in questions], device=model.device)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    outputs = _run(model, ids, mask, places, tasks, routed, keep=1)
    cache: Any = getattr(outputs, "past_key_values", None)
    if not hasattr(cache, "batch_select_indices"):
        return None
    choices = [choice for row in questions for choice in row.choices]
    owner = torch.tensor(
        [index for index, row in enumerate(questions) for _ in row.choices], device=model.device
    )
    begin = torch.tensor([choice[0] for choice in choices], device=model.device)
    sums = F.log_softmax(outputs.logits[:, -1].float(), dim=-1)[owner, begin]
    width = max(map(len, choices)) - 1
    size = max(1, min(ROWS, POSITIONS // max(1, width)))
    starts = range(0, len(choices), size) if width else range(0)
    for start in starts:
        some = slice(start, start + size)
        more, told = _right_padded([choice[:-1] for choice in choices[some]], width, model.device)
        wanted, _ = _right_padded([choice[1:] for choice in choices[some]], width, model.device)
        mine = owner[some]
        shared = copy.deepcopy(cache) if len(starts) > 1 else cache
        shared.batch_select_indices(mine)
        places = mask.sum(1)[mine, None] + torch.arange(width, device=model.device)
        logits = _run(
            model, more, torch.cat([mask[mine], told], 1), places, tasks[mine], routed, cache=shared
        ).logits
        sums[some] += _log_probabilities(logits, wanted, told)
    return _by_question(sums, questions)


def _whole_rows(model: Any, questions: Sequence[Question], routed: bool) -> list[list[float]]:
    """The same, with the prompt read again for every choice."""
    rows = [(row, choice) for row in questions for choice in row.choices]
    size, parts = max(1, min(ROWS, POSITIONS // max(len(choice) for _, choice in rows))), []
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        ids, mask = left_padded([row.ids + choice[:-1] for row, choice in some], 0)
        ids, mask = ids.to(model.device), mask.to(model.device)
        tasks = torch.tensor([row.task for row, _ in some], device=model.device)
        places = (mask.cumsum(1) - 1).clamp(min=0)
        wanted, told = (part.to(model.device) for part in left_padded([choice for _, choice in some], 0))
        width = wanted.shape[1]
        logits = _run(model, ids, mask, places, tasks, routed, keep=width).logits[:, -width:]
        parts.append(_log_probabilities(logits, wanted, told))
    return _by_question(torch.cat(parts), questions)


def _run(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    places: Tensor,
    tasks: Tensor,
    routed: bool,
    *,
    cache: Any = None,
    keep: int | None = None,
) -> Any:
    known = inspect.signature(model.forward).parameters
    more: dict[str, Any] = {"position_ids": places}
    if keep is not None:
        more["logits_to_keep"] = keep
    more = {name: value for name, value in more.items() if name in known}
    if cache is not None:
        more["past_key_values"] = cache
    inputs = {"input_ids": ids, "attention_mask": mask}
    routing = {ROWS_KEYWORD: tasks} if routed else {}
    with forward_errors(inputs):
        return model(**inputs, **more, **routing, use_cache=True)


def _right_padded(rows: Sequence[Sequence[int]], width: int, device: Any) -> tuple[Tensor, Tensor]:
    ids = [[*row, *[0] * (width - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _log_probabilities(logits: Tensor, wanted: Tensor, told: Tensor) -> Tensor:
    """The sum of the log-probabilities of the tokens of each row that count."""
    losses = F.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), reduction="none")
    return -(losses.view(wanted.shape) * told).sum(1)


def _by_question(sums: Tensor, questions: Sequence[Question]) -> list[list[float]]:
    parts = sums.cpu().split([len(row.choices) for row in questions])
    return [part.tolist() for part in parts]
