"""Scores of tasks that a language model answers: losses of the right answers, and what it writes itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graftwork.data.images.reader import text_tokenizer
from graftwork.data.targets.written import TRAINED, written_tokens
from graftwork.data.tokens import collate, longest_first
from graftwork.errors import DataError
from graftwork.kinds.registry import KINDS
from graftwork.kinds.scores import figures_of, majority_score
from graftwork.kinds.scoring.metrics import score
from graftwork.models.causal.answering import BATCH, answer_texts
from graftwork.models.causal.choosing import choice_outputs
from graftwork.models.outputs import forward_rows
from graftwork.texts.rows import messages_of
from graftwork.texts.scores import text_figures, text_score

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from graftwork.data.images.reader import InputReader
    from graftwork.data.task_data import Split, TaskData
    from graftwork.kinds.heads import TaskHead
    from graftwork.models.causal.frozen import FrozenAnswers
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
    """Rows whose answers were written, or chosen."""
    examples: list[dict[str, Any]]
    """Some of them: `prompt`, `answer`, `right`; of answers that were chosen their `probability`, too."""
    chosen: bool = False
    """Whether answers were chosen, not written."""
    details: dict[str, Any] = field(default_factory=dict)
    """Figures of every label of a task with labels."""
    notes: tuple[str, ...] = ()
    """What the score hides."""

    def as_dict(self) -> dict[str, Any]:
        """For reports."""
        counted = "scored_rows" if self.chosen else "written_rows"
        return {**self.figures, counted: self.rows, "examples": self.examples}


def written_rows(data: TaskData, split: str, most: int | None) -> list[int]:
    """The rows that are scored: all of them where answers are chosen.

    Where they are written, `most` evenly spaced ones, so that they are the same in every run.
    """
    rows = data.splits[split]
    if data.head.kind == "choice":
        return list(range(len(rows)))
    count = min(len(rows), MOST if most is None else most)
    return sorted({int(place) for place in np.linspace(0, len(rows) - 1, count)})


def score_texts(
    backbone: nn.Module,
    tokenizer: InputReader,
    datas: Sequence[TaskData],
    split: str,
    *,
    most: Mapping[str, int | None],
    advance: Callable[[int], object] = lambda count: None,
    routed: bool = True,
    order: Sequence[str] | None = None,
    memory: FrozenAnswers | None = None,
) -> dict[str, TextScore]:
    """Answer rows of all written tasks, those of all tasks mixed in batches, and score the answers.

    Those of `kind: generation` are written; of `kind: choice` all choices are scored.

    Args:
        backbone: a causal model, perhaps under adapters.
        tokenizer: its tokenizer.
        datas: tasks; those that are not written are passed over.
        split: of which rows.
        most: rows of a task; None: `MOST`.
        advance: told how many rows were answered since the last time.
        routed: whether the adapters have several tasks.
        order: the tasks of the model in its order, if they are others than `datas`.
        memory: of a frozen backbone, what it has answered before.
    """
    if not any(data.head.written for data in datas):
        return {}
    reader = text_tokenizer(tokenizer)
    picked = {
        data.head.name: written_rows(data, split, most.get(data.head.name))
        for data in datas
        if data.head.kind == "generation" and split in data.splits
    }
    names = [data.head.name for data in datas] if order is None else list(order)
    options: dict[str, Any] = {"advance": advance, "routed": routed}
    chooser = {} if memory is None else {"read": memory.choose}
    writer = {} if memory is None else {"write": memory.write}
    present = [data for data in datas if split in data.splits]
    found = _chosen(backbone, reader, present, split, names, {**options, **chooser})
    heads = {data.head.name: data.head for data in datas}
    tasks, sources = [], []
    for data in datas:
        for row in picked.get(data.head.name, ()):
            tasks.append(names.index(data.head.name))
            sources.append(data.splits[split].texts[0][row])
    known: Any = [heads.get(name) for name in names]
    texts = iter(answer_texts(backbone, reader, known, tasks, sources, **writer, **options))
    for data in datas:
        name = data.head.name
        if name in picked:
            answers = [next(texts) for _ in picked[name]]
            found[name] = _scored(data, split, picked[name], answers)
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


def _chosen(
    backbone: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    datas: Sequence[TaskData],
    split: str,
    names: Sequence[str],
    options: Mapping[str, Any],
) -> dict[str, TextScore]:
    """What the model chooses in all rows of tasks of `kind: choice`, scored."""
    mine = [data for data in datas if data.head.kind == "choice"]
    heads = {data.head.name: data.head for data in mine}
    offers = {data.head.name: row_choices(data.head, data.splits[split]) for data in mine}
    tasks = [names.index(name) for name, own in offers.items() for _ in own]
    sources = [text for data in mine for text in data.splits[split].texts[0]]
    known: Any = [heads.get(name) for name in names]
    choices = [row for own in offers.values() for row in own]
    outputs = iter(choice_outputs(backbone, tokenizer, known, tasks, sources, choices, **options))
    return {
        data.head.name: _of_choices(
            data, split, offers[data.head.name], [next(outputs) for _ in offers[data.head.name]]
        )
        for data in mine
    }


def row_choices(head: TaskHead, split: Split) -> list[tuple[str, ...]]:
    """What every row of a task of `kind: choice` may choose from."""
    if split.answers is None:
        return [head.labels] * len(split)
    return [own[1:] for own in split.answers_of(range(len(split)))]


def right_places(split: Split) -> NDArray[np.int64]:
    """The index of the right one among the choices of every row, [N]."""
    if split.answers is None:
        return split.targets.astype(np.int64)
    return np.array([own[1:].index(own[0]) for own in split.answers_of(range(len(split)))], dtype=np.int64)


def _of_choices(
    data: TaskData, split: str, choices: Sequence[Sequence[str]], outputs: Sequence[Sequence[float]]
) -> TextScore:
    head, expected = data.head, right_places(data.splits[split])
    predicted = np.array([int(np.argmax(own)) for own in outputs], dtype=np.int64)
    metrics = KINDS[head.kind].metrics if head.labels else ("accuracy",)
    broken = not all(math.isfinite(value) for own in outputs for value in own)
    figures: dict[str, float] = {
        name: math.nan if broken else score(name, predicted, expected) for name in metrics
    }
    writing, texts = head.writing, data.splits[split].texts[0]
    examples = []
    for row in range(min(EXAMPLES, len(outputs))):
        said = messages_of(texts[row])[-1]["content"] if writing and writing.is_list else texts[row]
        own = np.array(outputs[row], dtype=np.float64)
        powers = np.exp(own - own.max())
        examples.append(
            {
                "prompt": said,
                "answer": choices[row][predicted[row]],
                "right": choices[row][expected[row]],
                "probability": round(float(powers.max() / powers.sum()), 6),
            }
        )
    details = figures_of(head, predicted, expected) if head.labels else {}
    note = KINDS[head.kind].says_little(head, predicted, expected)
    return TextScore(
        figures[head.metric],
        figures,
        len(outputs),
        examples,
        chosen=True,
        details=details,
        notes=() if note is None else (note,),
    )


def _other(metric: str, answers: Sequence[str], right: Sequence[Sequence[str]]) -> float:
    return math.nan if metric == "likelihood" else text_score(metric, answers, right)


def constant_score(data: TaskData) -> float:
    """Test score of the most frequent train answer, whatever the row; of likelihoods 0.

    Of rows with their own choices that of the place in them which is most often right.
    """
    if data.head.metric == "likelihood":
        return 0.0
    train, test = data.splits["train"], data.splits["test"]
    if data.head.kind == "choice":
        return majority_score(data.head, right_places(train), right_places(test))
    common = Counter(right[0] for right in train.answers_of(range(len(train)))).most_common(1)[0][0]
    return text_score(data.head.metric, [common] * len(test), test.answers_of(range(len(test))))


@torch.no_grad()
def losses_of(
    model: MultiTaskModel,
    tokenizer: InputReader,
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
