"""The answers of many tasks to the same rows, in passes that branch where the paths of the tasks part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from graftwork.data.asked_rows import RowLike, check_row, encode_rows, fields_of, lacking, texts_of
from graftwork.data.encoding.windows import WINDOWS, window_count
from graftwork.data.pairs.second import sequences, texts_as_tokens
from graftwork.data.tokens import pad, row_length
from graftwork.distributed.notes import note_once
from graftwork.edges import forward_errors
from graftwork.errors import DataError
from graftwork.kinds.answers import Answers
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.registry import KINDS
from graftwork.kinds.scoring.tags import Tagged, Word, of_row
from graftwork.messages import listed, shown
from graftwork.trunk.trunk import find_trunk

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from graftwork.data.images.reader import InputReader
    from graftwork.models.multitask import MultiTaskModel
    from graftwork.trunk.tree import Tree

__all__ = [
    "AskedRow",
    "Outputs",
    "Question",
    "answer_rows",
    "ask",
    "branching_pass",
    "find_tree",
    "heads_named",
    "leaves",
    "read_row",
    "routed_pass",
]

Outputs = list[float] | Tagged
"""What a task says of a row, for `graftwork.kinds.answers.Answers.describe`."""


@dataclass(frozen=True)
class AskedRow:
    """A row that has been checked.

    Attributes:
        kept: fields that its answer begins with.
        questions: texts, and the tasks that read them in one way; one pass carries these together.
        skipped: task -> what the row lacks for it.
    """

    kept: dict[str, Any]
    questions: Sequence[tuple[tuple[str, ...], list[TaskHead]]]
    skipped: dict[str, str]

    def asked(self) -> Iterator[tuple[tuple[str, ...], list[TaskHead]]]:
        """Texts and the tasks that read them in the same windows."""
        for texts, heads in self.questions:
            apart: dict[int | None, list[TaskHead]] = {}
            for head in heads:
                apart.setdefault(head.stride, []).append(head)
            yield from ((texts, own) for own in apart.values())


def heads_named(heads: Mapping[str, TaskHead], names: Sequence[str] | None) -> list[TaskHead]:
    """The tasks of these names, default all.

    Raises:
        DataError: there are no names, or one is unknown.
    """
    if names is None:
        return list(heads.values())
    if isinstance(names, str) or not names:
        raise DataError(f"tasks is {shown(names)}; give a list of names ({', '.join(heads)}).")
    unknown = [name for name in names if name not in heads]
    if unknown:
        raise DataError(f"unknown task {shown(unknown[0])}; the model has {', '.join(heads)}.")
    return [heads[name] for name in dict.fromkeys(names)]


def read_row(
    row: RowLike, number: int, heads: Sequence[TaskHead], answers: Answers, beside: Path | None = None
) -> AskedRow:
    """Sort the tasks by what they read of a row.

    Raises:
        DataError: it is no row, has the fields of none of the tasks, or a field is no text.
    """
    check_row(row, number)
    questions: dict[tuple[tuple[str, ...], bool], list[TaskHead]] = {}
    skipped: dict[str, str] = {}
    fields: Mapping[str, Any] = {}
    for head in heads:
        lack = lacking(row, head)
        if lack is None:
            fields = fields_of(row, number, head)
            texts = texts_of(fields, number, head, beside)
            questions.setdefault((texts, head.separate), []).append(head)
        else:
            skipped[head.name] = lack
    if not questions:
        raise DataError(
            f"row {number} can be read by none of the tasks: "
            + listed((f"{name}: {lack}" for name, lack in skipped.items()), 3)
            + "."
        )
    for head in heads:
        if head.name in skipped:
            note_once(
                f"task {head.name!r} is skipped for rows without {listed(head.fields)}; "
                "the field `skipped` of their answers says so."
            )
    asked = [(texts, heads) for (texts, _), heads in questions.items()]
    return AskedRow(answers.kept(fields, number), asked, skipped)


@dataclass(frozen=True)
class Question:
    """Texts of one row as tokens, and the tasks that read them.

    Attributes:
        texts: as the row has them.
        heads: the tasks.
        tokens: columns of the tokenizer, without padding.
        words: if a task has targets per token.
    """

    texts: tuple[str, ...]
    heads: Sequence[TaskHead]
    tokens: Mapping[str, list[int]]
    words: Sequence[Word] | None

    def __len__(self) -> int:
        """Tokens of its longest sequence, to which a pass is padded: a window, or a text; an image is one."""
        return max(self.tokens.get(WINDOWS) or [row_length(self.tokens)])

    @property
    def windows(self) -> int:
        """How many windows are read."""
        return window_count(self.tokens)

    @property
    def size(self) -> int:
        """Tokens of all its sequences."""
        if sequences(self.tokens) == 1:
            return row_length(self.tokens)
        return sum(map(len, texts_as_tokens(self.tokens)))


def ask(
    tokenizer: InputReader,
    asked: Sequence[tuple[tuple[str, ...], Sequence[TaskHead]]],
    max_length: int,
) -> list[Question]:
    """Questions in the order in which they are asked: the texts of each, and the tasks that read them."""
    tokens, words = encode_rows(tokenizer, asked, max_length)
    return [
        Question(texts, heads, tokens[place], words.get(place)) for place, (texts, heads) in enumerate(asked)
    ]


def leaves(question: Question, tree: Tree | None, index_of: Mapping[str, int]) -> int:
    """How many rows the last layer of a pass has for a question: sequences, times groups of its tasks.

    Sequences are windows of a long text, or two texts that are read separately.
    """
    groups = 1 if tree is None else len({tree.nodes[-1][index_of[head.name]] for head in question.heads})
    return groups * question.windows * sequences(question.tokens)


def find_tree(model: MultiTaskModel) -> Tree | None:
    """Where the tasks of a model part; None if its adapters have no routes, so that they never do."""
    trunk = find_trunk(model.backbone)
    if trunk is not None and trunk.reason is not None:
        note_once(f"tasks do not share a trunk on this backbone: {trunk.reason}; each is a pass of its own.")
    return None if trunk is None else trunk.tree(model.backbone, range(len(model.heads.heads)))


def branching_pass(
    model: MultiTaskModel,
    tokenizer: InputReader,
    questions: Sequence[Question],
    tree: Tree | None,
) -> list[dict[str, Outputs]]:
    """What the tasks of every question say, in one pass that branches where they part.

    Raises:
        DataError: the backbone cannot take the rows.
    """
    index_of = {head.name: task for task, head in enumerate(model.heads.heads)}
    device = model.heads.weight.device
    batch = pad(tokenizer, [question.tokens for question in questions])
    wanted = torch.zeros(len(questions), len(index_of), dtype=torch.bool)
    for line, question in enumerate(questions):
        wanted[line, [index_of[head.name] for head in question.heads]] = True
    with torch.inference_mode():
        inputs = {name: value.to(device) for name, value in batch.items()}
        some = None if bool(wanted.all()) else wanted.to(device)
        with forward_errors(inputs):
            logits = model.forward_all(inputs, some, tree).tolist()
    return [
        {head.name: _of_head(question, head, line[index_of[head.name]]) for head in question.heads}
        for question, line in zip(questions, logits, strict=True)
    ]


def routed_pass(
    model: MultiTaskModel, tokenizer: InputReader, questions: Sequence[Question]
) -> list[dict[str, Outputs]]:
    """The same for questions of one task each: the pass that `Predictor.predict` makes.

    Raises:
        DataError: the backbone cannot take the rows.
    """
    index_of = {head.name: task for task, head in enumerate(model.heads.heads)}
    device = model.heads.weight.device
    batch = pad(tokenizer, [question.tokens for question in questions])
    tasks = torch.tensor([index_of[question.heads[0].name] for question in questions])
    with torch.inference_mode():
        inputs = {name: value.to(device) for name, value in batch.items()}
        with forward_errors(inputs):
            logits = model(**inputs, graft_rows=tasks.to(device)).logits.tolist()
    return [
        {question.heads[0].name: _of_head(question, question.heads[0], line)}
        for question, line in zip(questions, logits, strict=True)
    ]


def _of_head(question: Question, head: TaskHead, outputs: Sequence[Any]) -> Outputs:
    own = question.words if KINDS[head.kind].per == "token" else None
    return of_row(outputs, head.size, question.texts[0], own)


def answer_rows(
    model: MultiTaskModel,
    tokenizer: InputReader,
    rows: Sequence[AskedRow],
    answers: Answers,
    *,
    max_length: int,
    batch_size: int,
) -> list[dict[str, Any]]:
    """The answers of all tasks to rows.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        rows: as read by `read_row`.
        answers: how answers are given.
        max_length: tokens of a row.
        batch_size: rows in the widest layer of a pass, where most tasks have parted.
    """
    asked = [(index, *one) for index, row in enumerate(rows) for one in row.asked()]
    questions = ask(tokenizer, [(texts, heads) for _, texts, heads in asked], max_length)
    order = sorted(range(len(questions)), key=lambda place: -len(questions[place]))
    index_of = {head.name: task for task, head in enumerate(model.heads.heads)}
    tree = find_tree(model)
    found: list[dict[str, Any]] = [{} for _ in rows]
    for places in _batches([questions[place] for place in order], tree, index_of, batch_size):
        picked = [order[place] for place in places]
        said = branching_pass(model, tokenizer, [questions[place] for place in picked], tree)
        for place, outputs in zip(picked, said, strict=True):
            for head in questions[place].heads:
                found[asked[place][0]][head.name] = answers.describe(head, outputs[head.name])
    return [
        row.kept
        | {"answers": {name: mine[name] for name in index_of if name in mine}, "skipped": row.skipped}
        for row, mine in zip(rows, found, strict=True)
    ]


def _batches(
    questions: Sequence[Question], tree: Tree | None, index_of: Mapping[str, int], most: int
) -> Iterator[list[int]]:
    """Places of questions, as many in a batch as keep its last layer below `most` rows, but at least one."""
    batch: list[int] = []
    rows = 0
    for place, question in enumerate(questions):
        own = leaves(question, tree, index_of)
        if batch and rows + own > most:
            yield batch
            batch, rows = [], 0
        batch.append(place)
        rows += own
    if batch:
        yield batch
