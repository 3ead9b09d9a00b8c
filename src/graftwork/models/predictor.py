"""`Predictor`: labels and probabilities from a saved model, rows of several tasks in one batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from graftwork.data.tokens import encode, pad
from graftwork.edges import forward_errors
from graftwork.errors import DataError
from graftwork.kinds.answers import Answers
from graftwork.kinds.heads import TaskHead
from graftwork.messages import listed, mended, shown
from graftwork.models.causal.answering import answer_texts
from graftwork.models.files import read_report
from graftwork.models.folder import Loading, load_model
from graftwork.texts.rows import Reader
from graftwork.texts.template import template_fields

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from graftwork.models.multitask import MultiTaskModel

__all__ = ["Predictor", "RowLike", "load"]

RowLike = Mapping[str, Any] | str | Sequence[str]
"""A row to predict: a mapping with the text fields of its task, or its text, or its pair of texts."""

CHUNK = 64
"""Batches whose rows are read ahead and sorted by length together."""


WRITTEN = 4
"""The same for models that write: each batch takes long, and its answers are wanted."""


class Predictor:
    """Predicts with a multi-task model. A row is a text, a pair of texts, or a mapping with its text fields.

    For classes the probabilities are the softmax of a row's logits, for numbers the score is
    `mean + std * logit`, in the unit of the training scores. A row's answer does not depend on other rows.

    Args:
        model: the model, in evaluation mode.
        tokenizer: its tokenizer.
        max_length: tokens of a row; longer ones are cut. Default: those of the training.
        batch_size: rows per forward pass.
        folder: where the model is saved, to find its report.

    Raises:
        CheckpointError: in `load`: the folder is no complete model, or belongs to another backbone.
        DataError: in `predict`: a row has no task, an unknown one, or other texts than its task.

    Example:
        >>> predictor = gw.load("runs/colours")
        >>> (answer,) = predictor.predict(["a red stone"], task="colour")
        >>> answer["task"], sorted(answer["probabilities"])
        ('colour', ['blue', 'red'])
        >>> predictor.predict([{"text": "a red stone", "task": "length"}])
        [{'task': 'length', 'score': ...}]
        >>> list(predictor.report["tasks"])
        ['colour', 'same', 'length']
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int | None = None,
        batch_size: int = 64,
        folder: Path | None = None,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_length = model.max_length if max_length is None else max_length
        self.batch_size = batch_size
        self.folder = folder
        self.heads: dict[str, TaskHead] = {head.name: head for head in model.heads.heads}

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        backbone: str | None = None,
        tokenizer: str | None = None,
        backbone_unchecked: bool = False,
        revision: str | None = None,
        **options: Any,
    ) -> Predictor:
        """A predictor for the model in `folder`.

        Args:
            folder: written by `graftwork fit`; or `user/model` on the hub, if no folder has that name.
            backbone: where the backbone is now, if it has moved.
            tokenizer: in place of the tokenizer saved with the model.
            backbone_unchecked: take a backbone of the same shape though its weights are others.
            revision: of a model of the hub: a branch, a tag or a commit.
            **options: of the predictor.

        Raises:
            CheckpointError: the folder is no complete model, or belongs to another backbone; or it is neither
                here nor on the hub, or the hub cannot be reached.
        """
        loading: Loading = {
            "backbone": backbone,
            "tokenizer": tokenizer,
            "backbone_unchecked": backbone_unchecked,
            "revision": revision,
        }
        return cls(*load_model(folder, **loading), folder=Path(folder), **options)

    @cached_property
    def report(self) -> dict[str, Any]:
        """`report.json` of the model: scores, data digests, sizes, versions; empty if it has none.

        Raises:
            CheckpointError: the file is damaged.
        """
        return {} if self.folder is None else read_report(self.folder)

    def predict(
        self,
        rows: Sequence[RowLike],
        task: str | None = None,
        *,
        keep: Sequence[str] = (),
        top: int | None = None,
        digits: int | None = None,
    ) -> list[dict[str, Any]]:
        """Predictions in the order of the rows.

        Args:
            rows: texts, pairs of texts, or mappings with the text fields; with several tasks and no `task`,
                mappings that also have the field `task`.
            task: the task of all rows.
            keep: fields of a row that its prediction begins with.
            top: only the `top` likeliest labels, in order of probability.
            digits: decimals of probabilities, and of scores in units of their deviation; all, unless given.

        Returns:
            `{"task", "label", "probabilities": {label: p}}` for classes, `{"task", "score"}` for numbers,
            `{"task", "text"}` for tasks that the language model answers in its own words.

        Raises:
            DataError: a row has no task, an unknown one, other texts than its task, or lacks a field that is
                to be kept.
        """
        if isinstance(rows, str | Mapping):
            raise DataError(f"rows is {shown(rows)}, a single row; give a list of rows, such as [row].")
        return list(self.stream(rows, task, keep=keep, top=top, digits=digits))

    def stream(
        self, rows: Iterable[RowLike], task: str | None = None, **options: Any
    ) -> Iterator[dict[str, Any]]:
        """The same for any number of rows, in bounded memory: `ahead` rows are taken at a time."""
        remaining = iter(rows)
        lists = iter(lambda: list(islice(remaining, self.ahead)), [])
        for answers in self.stream_lists(lists, task, **options):
            yield from answers

    def stream_lists(
        self, lists: Iterable[Sequence[RowLike]], task: str | None = None, **options: Any
    ) -> Iterator[list[dict[str, Any]]]:
        """The same for rows that come in lists, each of which is answered before the next one is taken.

        The rows before a bad one are answered before its error is raised.
        """
        answers = Answers(**options)
        number = 0
        for rows in lists:
            read: list[_Row] = []
            fault: DataError | None = None
            for row in rows:
                number += 1
                try:
                    read.append(self._read(row, number, task, answers))
                except DataError as error:
                    fault = error
                    break
            if read:
                yield self._predict_rows(read, answers)
            if fault is not None:
                raise fault

    @property
    def ahead(self) -> int:
        """How many rows are sorted by length together."""
        return (CHUNK if not self.model.causal else WRITTEN) * self.batch_size

    def _predict_rows(self, rows: list[_Row], answers: Answers) -> list[dict[str, Any]]:
        index_of = {name: index for index, name in enumerate(self.heads)}
        results: list[dict[str, Any]] = [{} for _ in rows]
        asked = [index for index, row in enumerate(rows) if row.head.written]
        if asked:
            self._write(rows, asked, index_of, results, answers)
            rest = [index for index, row in enumerate(rows) if not row.head.written]
            others = self._predict_rows([rows[index] for index in rest], answers) if rest else []
            for index, found in zip(rest, others, strict=True):
                results[index] = found
            return results
        tokens = self._tokenise(rows)
        order = sorted(range(len(rows)), key=lambda index: -len(tokens[index]["input_ids"]))
        for start in range(0, len(order), self.batch_size):
            picked = order[start : start + self.batch_size]
            batch = pad(self.tokenizer, [tokens[index] for index in picked])
            graft_rows = torch.tensor([index_of[rows[index].head.name] for index in picked])
            device = self.model.heads.weight.device
            with torch.inference_mode():
                inputs = {name: value.to(device) for name, value in batch.items()}
                with forward_errors(inputs):
                    logits = self.model(**inputs, graft_rows=graft_rows.to(device)).logits.cpu()
            for index, outputs in zip(picked, logits.tolist(), strict=True):
                row = rows[index]
                results[index] = row.kept | answers.describe(row.head, outputs[: row.head.size])
        return results

    def _write(
        self,
        rows: list[_Row],
        asked: list[int],
        index_of: Mapping[str, int],
        results: list[dict[str, Any]],
        answers: Answers,
    ) -> None:
        """Write the answers of some rows, all tasks together, into the results."""
        sources = [rows[index].texts[0] for index in asked]
        tasks = [index_of[rows[index].head.name] for index in asked]
        heads = list(self.heads.values())
        texts = answer_texts(
            self.model.backbone, self.tokenizer, heads, tasks, sources, batch_size=self.batch_size
        )
        for index, text in zip(asked, texts, strict=True):
            results[index] = rows[index].kept | answers.written(rows[index].head, text)

    def _read(self, row: RowLike, number: int, task: str | None, answers: Answers) -> _Row:
        head = self.heads[self._task_of(row, number, task)]
        if not isinstance(row, Mapping):
            row = _with_fields(row, number, head)
        if head.writing is not None:
            source = Reader(head.writing).asked(row, f"row {number}")
            return _Row(head, (source,), answers.kept(row, number))
        texts = tuple(_text(row, field, number, head.name) for field in head.text)
        return _Row(head, texts, answers.kept(row, number))

    def _task_of(self, row: RowLike, number: int, task: str | None) -> str:
        if not isinstance(row, Mapping | str | list | tuple):
            raise DataError(
                f"row {number} is {shown(row)}, not a text, a pair of texts or an object of fields."
            )
        own = row.get("task") if isinstance(row, Mapping) else None
        name = task or own or (next(iter(self.heads)) if len(self.heads) == 1 else None)
        if name is None:
            raise DataError(
                f"row {number} names no task; pass --task (in Python task=) or give each row a field `task` "
                f"({', '.join(self.heads)})."
            )
        if not isinstance(name, str) or name not in self.heads:
            raise DataError(
                f"unknown task {shown(name)} (row {number}); the model has {', '.join(self.heads)}."
            )
        return name

    def _tokenise(self, rows: list[_Row]) -> list[dict[str, list[int]]]:
        """Token lists of every row, with one tokenizer call for single texts and one for pairs."""
        tokens: list[dict[str, list[int]]] = [{} for _ in rows]
        groups: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            groups.setdefault(len(row.texts), []).append(index)
        for members in groups.values():
            columns = list(zip(*(rows[index].texts for index in members), strict=True))
            encoded = encode(self.tokenizer, columns, self.max_length)
            for place, index in enumerate(members):
                tokens[index] = {name: values[place] for name, values in encoded.items()}
        return tokens


def load(folder: str | Path, **options: Any) -> Predictor:
    """A trained model, ready to predict: `Predictor.load`.

    Args:
        folder: written by `graftwork fit`; or `user/model` on the hub, if no folder has that name.
        **options: of `Predictor.load`, such as `backbone`, where the backbone is now, or `revision` of a
            model of the hub.

    Raises:
        CheckpointError: the folder is no complete model, or belongs to another backbone; or the hub cannot be
            reached and the model is not in its cache.

    Example:
        >>> answers = gw.load("runs/colours").predict(["a red stone", "a blue bird"], task="colour")
        >>> [sorted(answer["probabilities"]) for answer in answers]
        [['blue', 'red'], ['blue', 'red']]
    """
    return Predictor.load(folder, **options)


def _with_fields(row: str | Sequence[str], number: int, head: TaskHead) -> dict[str, Any]:
    """The texts of a row under the names of its task's fields.

    Raises:
        DataError: they are more or fewer than the task has.
    """
    texts = [row] if isinstance(row, str) else list(row)
    if head.writing is not None:
        fields = template_fields(head.writing.prompt or "") or (head.writing.source,)
        if head.writing.is_list or len(fields) != len(texts):
            given = "a list of messages" if head.writing.is_list else f"the fields {listed(fields)}"
            raise DataError(f"row {number} is a text, but task {head.name!r} reads {given}; give a mapping.")
        return dict(zip(fields, texts, strict=True))
    if len(texts) != len(head.text):
        raise DataError(
            f"row {number} has {len(texts)} texts, but task {head.name!r} reads "
            f"{len(head.text)} ({', '.join(head.text)})."
        )
    return dict(zip(head.text, texts, strict=True))


@dataclass(frozen=True)
class _Row:
    """A row that has been checked."""

    head: TaskHead
    texts: tuple[str, ...]
    kept: dict[str, Any]


def _text(row: Mapping[str, Any], field: str, number: int, task: str) -> str:
    if field not in row:
        raise DataError(
            f"row {number} has no field {field!r}, which task {task!r} reads; its fields: "
            f"{listed(row) or 'none'}."
        )
    if not isinstance(row[field], str):
        raise DataError(f"row {number}: field {field!r} is {shown(row[field])}, not a text.")
    return mended(row[field])
