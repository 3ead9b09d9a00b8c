"""`Predictor`: labels and probabilities from a saved model, rows of several tasks in one batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from graftwork.data.asked_rows import (
    RowLike,
    answered,
    check_list,
    check_row,
    encode_rows,
    fields_of,
    task_of,
    texts_of,
)
from graftwork.data.encoding.windows import in_batches, window_count
from graftwork.data.images.reader import text_tokenizer
from graftwork.data.tokens import pad, row_length
from graftwork.edges import forward_errors
from graftwork.errors import DataError
from graftwork.kinds.answers import Answers
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.scoring.tags import of_row
from graftwork.models.all_tasks import answer_rows, heads_named, read_row
from graftwork.models.causal.replies import reply_rows
from graftwork.models.files import read_report
from graftwork.models.folder import Loading, load_model
from graftwork.models.vectors.rows import embed_rows
from graftwork.trunk.trunk import find_trunk, trunk_price

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from graftwork.data.images.reader import InputReader
    from graftwork.models.multitask import MultiTaskModel

__all__ = ["Predictor", "RowLike", "load"]

CHUNK = 64
"""Batches whose rows are read ahead and sorted by length together."""
WRITTEN = 4
"""The same for models that write: each batch takes long, and its answers are wanted."""


class Predictor:
    """Predicts with a multi-task model. A row is a text, a pair, an image or its path, or a mapping.

    For classes the probabilities are the softmax of a row's logits, for numbers the score is
    `mean + std * logit`, in the unit of the training scores. A row's answer does not depend on other rows.

    Args:
        model: the model, in evaluation mode.
        tokenizer: its tokenizer, or the reader of its images.
        max_length: tokens of a row; longer ones are cut. Default: those of the training.
        batch_size: rows per forward pass.
        folder: where the model is saved, to find its report.
        beside: where relative paths of images are looked for first; then in the current folder.

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
        >>> (row,) = predictor.predict_all(["a red stone"])
        >>> sorted(row["answers"]), row["skipped"]
        (['colour', 'length'], {'same': '1 texts, but the task reads 2 (first, second)'})
        >>> predictor.embed(["a red stone", "a blue bird"], task="colour").shape
        (2, 32)
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tokenizer: InputReader,
        *,
        max_length: int | None = None,
        batch_size: int = 64,
        folder: Path | None = None,
        beside: Path | None = None,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_length = model.max_length if max_length is None else max_length
        self.batch_size = batch_size
        self.folder = folder
        self.beside = beside
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
            tokenizer: in place of the tokenizer, or image processor, saved with the model.
            backbone_unchecked: take a backbone of the same shape though its weights are others.
            revision: of a model of the hub: a branch, a tag or a commit.
            **options: of the predictor.

        Raises:
            CheckpointError: the folder is no complete model, or belongs to another backbone; or it is neither
                here nor on the hub, or the hub cannot be reached.
        """
        loading = Loading(
            backbone=backbone,
            tokenizer=tokenizer,
            backbone_unchecked=backbone_unchecked,
            revision=revision,
        )
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
            `{"task", "labels", "probabilities"}` for several labels, and for tokens
            `{"task", "spans": [{"start", "end", "label", "text", "probability"}]}`, with `read_to` if the
            text was cut: the character up to which it was read. Words that are given as a list count as
            one text with a blank between two. `{"task", "text"}` for tasks that the language model answers
            in its own words; of those in which it chooses, `label` and `probabilities` as for classes.

        Raises:
            DataError: a row has no task, an unknown one, other texts than its task, or lacks a field that is
                to be kept.
        """
        check_list(rows)
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
        return answered(
            lists,
            lambda row, number: self._read(row, number, task, answers),
            lambda rows: self._predict_rows(rows, answers),
        )

    def predict_all(
        self,
        rows: Sequence[RowLike],
        tasks: Sequence[str] | None = None,
        *,
        keep: Sequence[str] = (),
        top: int | None = None,
        digits: int | None = None,
    ) -> list[dict[str, Any]]:
        """What all tasks say of every row: one pass that branches where the paths of the tasks part.

        The answers are those of `predict`, up to rounding (1e-5); `price` says what they cost.
        A task is skipped for rows that lack its fields; a field `task` of a row means nothing here.

        Args:
            rows: texts, pairs of texts, or mappings with the text fields.
            tasks: names of tasks; default all.
            keep: as for `predict`.
            top: as for `predict`.
            digits: as for `predict`.

        Returns:
            `{"answers": {task: answer of predict}, "skipped": {task: what the row lacks}}` for every row.

        Raises:
            DataError: a row has the fields of none of the tasks, or a task is unknown; or the model writes;
                else as for `predict`.
        """
        check_list(rows)
        options = {"keep": keep, "top": top, "digits": digits}
        return [answer for some in self.stream_all([rows], tasks, **options) for answer in some]

    def stream_all(
        self, lists: Iterable[Sequence[RowLike]], tasks: Sequence[str] | None = None, **options: Any
    ) -> Iterator[list[dict[str, Any]]]:
        """`predict_all` for rows that come in lists, as for `stream_lists`."""
        if self.model.causal:
            raise DataError("all tasks in one pass need heads; ask a model that writes with predict.")
        heads, answers = heads_named(self.heads, tasks), Answers(**options, all_tasks=True)
        return answered(
            lists,
            lambda row, number: read_row(row, number, heads, answers, self.beside),
            lambda rows: answer_rows(
                self.model,
                self.tokenizer,
                rows,
                answers,
                max_length=self.max_length,
                batch_size=self.batch_size,
            ),
        )

    def price(self) -> float:
        """What `predict_all` costs if all tasks read the same fields, in passes of one (`trunk_price`)."""
        return 1.0 if find_trunk(self.model) is None else trunk_price(self.model)

    def embed(self, rows: Sequence[RowLike], task: str | None = None) -> NDArray[np.float32]:
        """Vectors [rows, d] of rows: the pooled last hidden state along the path of a task.

        Args:
            rows: as for `predict`; but of a task that reads two texts separately a row is one text, and the
                cosine of two vectors says how alike the texts are.
            task: of all rows; needed if the model has several.

        Raises:
            DataError: as for `predict`; or there are no rows, or the model is a language model that writes.
        """
        sizes = {"max_length": self.max_length, "batch_size": self.batch_size}
        return embed_rows(self.model, self.tokenizer, rows, task, beside=self.beside, **sizes)

    @property
    def ahead(self) -> int:
        """How many rows are sorted by length together."""
        return (CHUNK if not self.model.causal else WRITTEN) * self.batch_size

    def _predict_rows(self, rows: list[_Row], answers: Answers) -> list[dict[str, Any]]:
        written = {index: row for index, row in enumerate(rows) if row.head.written}
        if written:
            return self._written(rows, written, answers)
        asked = [(row.texts, (row.head,)) for row in rows]
        tokens, words = encode_rows(self.tokenizer, asked, self.max_length)
        order = sorted(range(len(rows)), key=lambda index: -row_length(tokens[index]))
        index_of = {name: index for index, name in enumerate(self.heads)}
        results: list[dict[str, Any]] = [{} for _ in rows]
        for picked in in_batches(order, list(map(window_count, tokens)), self.batch_size):
            batch = pad(self.tokenizer, [tokens[index] for index in picked])
            graft_rows = torch.tensor([index_of[rows[index].head.name] for index in picked])
            device = self.model.heads.weight.device
            with torch.inference_mode():
                inputs = {name: value.to(device) for name, value in batch.items()}
                with forward_errors(inputs):
                    logits = self.model(**inputs, graft_rows=graft_rows.to(device)).logits.cpu()
            for index, outputs in zip(picked, logits.tolist(), strict=True):
                row = rows[index]
                found = of_row(outputs, row.head.size, row.texts[0], words.get(index))
                results[index] = row.kept | answers.describe(row.head, found)
        return results

    def _written(
        self, rows: list[_Row], written: Mapping[int, _Row], answers: Answers
    ) -> list[dict[str, Any]]:
        """Answers to rows some of which the language model itself answers, those of all tasks together."""
        rest = [index for index in range(len(rows)) if index not in written]
        others = self._predict_rows([rows[index] for index in rest], answers) if rest else []
        found = dict(zip(rest, others, strict=True))
        asked = [(row.head, row.texts) for row in written.values()]
        reader = text_tokenizer(self.tokenizer)
        said = reply_rows(self.model, reader, asked, answers, batch_size=self.batch_size)
        found |= {index: row.kept | own for (index, row), own in zip(written.items(), said, strict=True)}
        return [found[index] for index in range(len(rows))]

    def _read(self, row: RowLike, number: int, task: str | None, answers: Answers) -> _Row:
        check_row(row, number)
        head = self.heads[task_of(row, number, task, tuple(self.heads))]
        fields = fields_of(row, number, head)
        return _Row(head, texts_of(fields, number, head, self.beside), answers.kept(fields, number))


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


@dataclass(frozen=True)
class _Row:
    """A row that has been checked."""

    head: TaskHead
    texts: tuple[str, ...]
    kept: dict[str, Any]
