"""`Predictor`: labels and probabilities from a saved model, rows of several tasks in one batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from graftwork.data import encode, pad
from graftwork.errors import DataError
from graftwork.files import listed, mended, shown
from graftwork.persist import Loading, load_model
from graftwork.tasks import TaskHead

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from graftwork.multitask import MultiTaskModel

__all__ = ["Predictor"]

CHUNK = 64
"""Batches that are read ahead and sorted by length together."""


class Predictor:
    """Predicts with a multi-task model. Rows are dictionaries with the text fields of their task.

    Args:
        model: the model, in evaluation mode.
        tokenizer: its tokenizer.
        max_length: tokens of a row; longer ones are cut. Default: those of the training.
        batch_size: rows per forward pass.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int | None = None,
        batch_size: int = 64,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_length = model.max_length if max_length is None else max_length
        self.batch_size = batch_size
        self.heads: dict[str, TaskHead] = {head.name: head for head in model.heads.heads}

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        backbone: str | None = None,
        tokenizer: str | None = None,
        backbone_unchecked: bool = False,
        **options: Any,
    ) -> Predictor:
        """A predictor for the model in `folder`.

        Args:
            folder: written by `graftwork fit`.
            backbone: where the backbone is now, if it has moved.
            tokenizer: in place of the tokenizer saved with the model.
            backbone_unchecked: take a backbone of the same shape though its weights are others.
            **options: of the predictor.

        Raises:
            CheckpointError: the folder is no complete model, or belongs to another backbone.
        """
        loading: Loading = {
            "backbone": backbone,
            "tokenizer": tokenizer,
            "backbone_unchecked": backbone_unchecked,
        }
        return cls(*load_model(folder, **loading), **options)

    def predict(self, rows: Sequence[Mapping[str, Any]], task: str | None = None) -> list[dict[str, Any]]:
        """Predictions in the order of the rows.

        Args:
            rows: text fields; with several tasks and no `task`, also the field `task`.
            task: the task of all rows.

        Returns:
            `{"task", "label", "probabilities": {label: p}}` for classes, `{"task", "score"}` for numbers.

        Raises:
            DataError: a row has no task, an unknown one, or lacks a text field.
        """
        return list(self.stream(rows, task))

    def stream(self, rows: Iterable[Mapping[str, Any]], task: str | None = None) -> Iterator[dict[str, Any]]:
        """The same for any number of rows, in bounded memory."""
        remaining = enumerate(rows, start=1)
        while chunk := list(islice(remaining, CHUNK * self.batch_size)):
            yield from self._predict_chunk(chunk, task)

    def _predict_chunk(
        self, chunk: list[tuple[int, Mapping[str, Any]]], task: str | None
    ) -> list[dict[str, Any]]:
        names = [self._task_of(row, number, task) for number, row in chunk]
        tokens = self._tokenise(chunk, names)
        order = sorted(range(len(chunk)), key=lambda index: -len(tokens[index]["input_ids"]))
        index_of = {name: index for index, name in enumerate(self.heads)}
        results: list[dict[str, Any]] = [{} for _ in chunk]
        for start in range(0, len(order), self.batch_size):
            picked = order[start : start + self.batch_size]
            batch = pad(self.tokenizer, [tokens[index] for index in picked])
            graft_rows = torch.tensor([index_of[names[index]] for index in picked])
            device = self.model.heads.weight.device
            with torch.inference_mode():
                inputs = {name: value.to(device) for name, value in batch.items()}
                logits = self.model(**inputs, graft_rows=graft_rows.to(device)).logits.cpu()
            for index, outputs in zip(picked, logits, strict=True):
                results[index] = _describe(self.heads[names[index]], outputs)
        return results

    def _task_of(self, row: Mapping[str, Any], number: int, task: str | None) -> str:
        if not isinstance(row, Mapping):
            raise DataError(f"row {number} is {shown(row)}, not an object with text fields.")
        name = task or row.get("task") or (next(iter(self.heads)) if len(self.heads) == 1 else None)
        if name is None:
            raise DataError(
                f"row {number} names no task; pass --task or give each row a field `task` "
                f"({', '.join(self.heads)})."
            )
        if not isinstance(name, str) or name not in self.heads:
            raise DataError(
                f"unknown task {shown(name)} (row {number}); the model has {', '.join(self.heads)}."
            )
        return name

    def _tokenise(
        self, chunk: list[tuple[int, Mapping[str, Any]]], names: list[str]
    ) -> list[dict[str, list[int]]]:
        """Token lists of every row, with one tokenizer call for single texts and one for pairs."""
        tokens: list[dict[str, list[int]]] = [{} for _ in chunk]
        groups: dict[int, list[int]] = {}
        for index, name in enumerate(names):
            groups.setdefault(len(self.heads[name].text), []).append(index)
        for width, members in groups.items():
            columns: list[list[str]] = [[] for _ in range(width)]
            for index in members:
                number, row = chunk[index]
                for column, field in zip(columns, self.heads[names[index]].text, strict=True):
                    column.append(_text(row, field, number, names[index]))
            encoded = encode(self.tokenizer, columns, self.max_length)
            for place, index in enumerate(members):
                tokens[index] = {name: values[place] for name, values in encoded.items()}
        return tokens


def _text(row: Mapping[str, Any], field: str, number: int, task: str) -> str:
    if field not in row:
        raise DataError(
            f"row {number} has no field {field!r}, which task {task!r} reads; its fields: "
            f"{listed(row) or 'none'}."
        )
    if not isinstance(row[field], str):
        raise DataError(f"row {number}: field {field!r} is {shown(row[field])}, not a text.")
    return mended(row[field])


def _describe(head: TaskHead, outputs: torch.Tensor) -> dict[str, Any]:
    if head.kind == "regression":
        return {"task": head.name, "score": float(outputs[0]) * head.std + head.mean}
    probabilities = outputs[: head.size].softmax(0).tolist()
    if not all(map(math.isfinite, probabilities)):
        raise DataError(
            f"the model gives no finite probabilities for task {head.name!r}; its weights are damaged."
        )
    best = max(range(head.size), key=probabilities.__getitem__)
    return {
        "task": head.name,
        "label": head.labels[best],
        "probabilities": dict(zip(head.labels, probabilities, strict=True)),
    }
