"""Scores of tasks that a language model answers: losses of the right answers, and what it writes itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graftwork.data.images.reader import text_tokenizer
from graftwork.data.targets.written import TRAINED, written_tokens
from graftwork.data.tokens import collate, longest_first
from graftwork.errors import DataError
from graftwork.models.causal.answering import BATCH, answer_texts
from graftwork.models.outputs import forward_rows
from graftwork.texts.rows import messages_of
from graftwork.texts.scores import text_figures, text_score

if TYPE_CHECKING:
    from torch import nn

    from graftwork.data.images.reader import Reader
    from graftwork.data.task_data import Split, TaskData
    from graftwork.kinds.heads import TaskHead
    from graftwork.models.multitask import MultiTaskModel

__all__ = ["MOST", "TextScore", "constant_score", "losses_of", "score_texts", "written_rows"]

MOST = 200
"""Rows of a split whose answers are written, unless a task says otherwise."""
EXAMPLES = 3
"""Answers that a report shows."""


@dataclass(frozen=True)
class TextScore:
    """What a model has written for rows of one task."""

    score: float
    """Under the metric of the task."""
    figures: dict[str, float]
    """Under all metrics."""
    rows: int
    """Rows whose answers were written."""
    examples: list[dict[str, Any]]
    """Some of them: `prompt`, `answer`, `right`."""

    def as_dict(self) -> dict[str, Any]:
        """For reports."""
        return {**self.figures, "written_rows": self.rows, "examples": self.examples}


def written_rows(split: Split, most: int | None) -> list[int]:
    """The rows whose answers are written: evenly spaced, so that they are the same in every run."""
    count = min(len(split), MOST if most is None else most)
    return sorted({int(place) for place in np.linspace(0, len(split) - 1, count)})


def score_texts(
    backbone: nn.Module,
    tokenizer: Reader,
    datas: Sequence[TaskData],
    split: str,
    *,
    most: Mapping[str, int | None],
    advance: Callable[[int], object] = lambda count: None,
    routed: bool = True,
    order: Sequence[str] | None = None,
) -> dict[str, TextScore]:
    """Write answers for rows of all written tasks, mixed in batches, and score them.

    Args:
        backbone: a causal model, perhaps under adapters.
        tokenizer: its tokenizer.
        datas: tasks; those that are not written are passed over.
        split: of which rows.
        most: rows of a task; None: `MOST`.
        advance: told how many rows were answered since the last time.
        routed: whether the adapters have several tasks.
        order: the tasks of the model in its order, if they are others than `datas`.
    """
    chosen = {
        data.head.name: written_rows(data.splits[split], most.get(data.head.name))
        for data in datas
        if data.head.kind == "generation" and split in data.splits
    }
    names = [data.head.name for data in datas] if order is None else list(order)
    heads = {data.head.name: data.head for data in datas}
    tasks, sources = [], []
    for data in datas:
        for row in chosen.get(data.head.name, ()):
            tasks.append(names.index(data.head.name))
            sources.append(data.splits[split].texts[0][row])
    if not tasks:
        return {}
    reader = text_tokenizer(tokenizer)
    known: Any = [heads.get(name) for name in names]
    texts = iter(answer_texts(backbone, reader, known, tasks, sources, advance=advance, routed=routed))
    found = {}
    for data in datas:
        name = data.head.name
        if name in chosen:
            answers = [next(texts) for _ in chosen[name]]
            found[name] = _scored(data, split, chosen[name], answers)
    return found


def _scored(data: TaskData, split: str, rows: Sequence[int], answers: Sequence[str]) -> TextScore:
    texts, right = data.splits[split].texts[0], data.splits[split].answers_of(rows)
    figures = text_figures(answers, right)
    metric = data.head.metric
    score = figures[metric] if metric in figures else _other(metric, answers, right)
    writing = data.head.writing
    said = [messages_of(text)[-1]["content"] if writing and writing.is_list else text for text in texts]
    shown = [
        {"prompt": said[row], "answer": answer, "right": wanted[0]}
        for row, answer, wanted in list(zip(rows, answers, right, strict=True))[:EXAMPLES]
    ]
    return TextScore(score, figures, len(rows), shown)


def _other(metric: str, answers: Sequence[str], right: Sequence[Sequence[str]]) -> float:
    return math.nan if metric == "likelihood" else text_score(metric, answers, right)


def constant_score(data: TaskData) -> float:
    """Test score of the most frequent train answer, whatever the row; of likelihoods 0."""
    if data.head.metric == "likelihood":
        return 0.0
    train, test = data.splits["train"], data.splits["test"]
    common = Counter(right[0] for right in train.answers_of(range(len(train)))).most_common(1)[0][0]
    return text_score(data.head.metric, [common] * len(test), test.answers_of(range(len(test))))


@torch.no_grad()
def losses_of(
    model: MultiTaskModel,
    tokenizer: Reader,
    head: TaskHead,
    split: Split,
    advance: Callable[[int], object] = lambda count: None,
) -> dict[str, float]:
    """Loss, likelihood and perplexity of the right answers.

    Args:
        model: a `CausalMultiTaskModel`.
        tokenizer: its tokenizer.
        head: the task, one of the model's.
        split: its rows.
        advance: told how many rows were done since the last time.

    Returns:
        `loss`: the mean over the rows of their mean over tokens, in nats; `likelihood`: exp(-loss);
        `perplexity`: exp of the mean over all tokens.

    Raises:
        DataError: no row has a token of an answer.
    """
    from datasets import Dataset

    columns, kept = written_tokens(text_tokenizer(tokenizer), head, split, range(len(split)))
    if not kept:
        raise DataError(f"task {head.name!r}: no row has a token of an answer; raise max_length of the task.")
    index = [known.name for known in model.heads.heads].index(head.name)
    rows = longest_first(
        Dataset.from_dict({**columns, "labels": [0.0] * len(kept), "graft_rows": [index] * len(kept)})
    )
    total = tokens = losses = 0.0
    make = collate(tokenizer)
    for start in range(0, len(rows), BATCH):
        batch = [rows[i] for i in range(start, min(start + BATCH, len(rows)))]
        own = forward_rows(model, batch, make).logits[:, 0].double()
        counts = torch.tensor([float(sum(row[TRAINED])) for row in batch], dtype=torch.float64)
        total += float((own * counts).sum())
        tokens += float(counts.sum())
        losses += float(own.sum())
        advance(len(batch))
    loss = losses / len(kept)
    return {"loss": loss, "likelihood": math.exp(-loss), "perplexity": math.exp(min(total / tokens, 700.0))}
