"""The answers of many tasks to the same rows, in passes that branch where the paths of the tasks part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from graftwork.data.asked_rows import RowLike, check_row, fields_of, lacking, texts_of
from graftwork.data.tokens import encode_rows, pad, row_length
from graftwork.distributed.notes import note_once
from graftwork.edges import forward_errors
from graftwork.errors import DataError
from graftwork.kinds.answers import Answers
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.registry import KINDS
from graftwork.kinds.scoring.tags import of_row
from graftwork.messages import listed
from graftwork.trunk.trunk import find_trunk

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from graftwork.data.images.reader import Reader
    from graftwork.models.multitask import MultiTaskModel
    from graftwork.trunk.tree import Tree

__all__ = ["AskedRow", "answer_rows", "read_row"]


@dataclass(frozen=True)
class AskedRow:
    """A row that has been checked.

    Attributes:
        kept: fields that its answer begins with.
        questions: texts -> the tasks that read them; one pass carries the tasks of equal texts together.
        skipped: task -> what the row lacks for it.
    """

    kept: dict[str, Any]
    questions: Mapping[tuple[str, ...], list[TaskHead]]
    skipped: dict[str, str]


def read_row(
    row: RowLike, number: int, heads: Sequence[TaskHead], answers: Answers, beside: Path | None = None
) -> AskedRow:
    """Sort the tasks by what they read of a row.

    Raises:
        DataError: it is no row, has the fields of none of the tasks, or a field is no text.
    """
    check_row(row, number)
    questions: dict[tuple[str, ...], list[TaskHead]] = {}
    skipped: dict[str, str] = {}
    fields: Mapping[str, Any] = {}
    for head in heads:
        lack = lacking(row, head)
        if lack is None:
            fields = fields_of(row, number, head)
            questions.setdefault(texts_of(fields, number, head, beside), []).append(head)
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
                f"task {head.name!r} is skipped for rows without {listed(head.text)}; "
                "the field `skipped` of their answers says so."
            )
    return AskedRow(answers.kept(fields, number), questions, skipped)


@dataclass(frozen=True)
class _Question:
    """Texts of one row, and the tasks that read them."""

    row: int
    texts: tuple[str, ...]
    heads: list[TaskHead]


def answer_rows(
    model: MultiTaskModel,
    tokenizer: Reader,
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
    questions = [
        _Question(index, texts, heads)
        for index, row in enumerate(rows)
        for texts, heads in row.questions.items()
    ]
    asked = [(question.texts, question.heads) for question in questions]
    tokens, words = encode_rows(tokenizer, asked, max_length)
    order = sorted(range(len(questions)), key=lambda place: -row_length(tokens[place]))
    index_of = {head.name: task for task, head in enumerate(model.heads.heads)}
    trunk = find_trunk(model.backbone)
    if trunk is not None and trunk.reason is not None:
        note_once(f"tasks do not share a trunk on this backbone: {trunk.reason}; each is a pass of its own.")
    tree = None if trunk is None else trunk.tree(model.backbone, range(len(index_of)))
    device = model.heads.weight.device
    found: list[dict[str, Any]] = [{} for _ in rows]
    for places in _batches([questions[place] for place in order], tree, index_of, batch_size):
        picked = [order[place] for place in places]
        batch = pad(tokenizer, [tokens[place] for place in picked])
        wanted = torch.zeros(len(picked), len(index_of), dtype=torch.bool)
        for line, place in enumerate(picked):
            wanted[line, [index_of[head.name] for head in questions[place].heads]] = True
        with torch.inference_mode():
            inputs = {name: value.to(device) for name, value in batch.items()}
            some = None if bool(wanted.all()) else wanted.to(device)
            with forward_errors(inputs):
                logits = model.forward_all(inputs, some, tree).tolist()
        for line, place in enumerate(picked):
            for head in questions[place].heads:
                own = words[place] if KINDS[head.kind].per == "token" else None
                outputs = of_row(logits[line][index_of[head.name]], head.size, questions[place].texts[0], own)
                found[questions[place].row][head.name] = answers.describe(head, outputs)
    return [
        row.kept
        | {"answers": {name: mine[name] for name in index_of if name in mine}, "skipped": row.skipped}
        for row, mine in zip(rows, found, strict=True)
    ]


def _batches(
    questions: Sequence[_Question], tree: Tree | None, index_of: Mapping[str, int], most: int
) -> Iterator[list[int]]:
    """Places of questions, as many in a batch as keep its last layer below `most` rows, but at least one."""
    batch: list[int] = []
    rows = 0
    for place, question in enumerate(questions):
        last = None if tree is None else tree.nodes[-1]
        own = 1 if last is None else len({last[index_of[head.name]] for head in question.heads})
        if batch and rows + own > most:
            yield batch
            batch, rows = [], 0
        batch.append(place)
        rows += own
    if batch:
        yield batch
