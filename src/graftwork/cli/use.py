"""Commands that use a model: `evaluate` and `predict`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["evaluate", "predict"]


def evaluate(
    folder: Path,
    backbone: str | None = None,
    tokenizer: str | None = None,
    backbone_unchecked: bool = False,
    split: str = "test",
    as_json: bool = False,
) -> None:
    """Score a saved model again on the data of its recipe.

    Args:
        folder: Written by `graftwork fit`.
        backbone: Where the backbone is now, if it has moved.
        tokenizer: Hub id, folder or package:NAME/folder of a tokenizer, in place of the model's own.
        backbone_unchecked: Take a backbone of the same shape though its weights are others.
        split: train, validation or test.
        as_json: Print JSON instead of a table.
    """
    from graftwork.rescore import rescore

    scores = rescore(
        folder,
        split=split,
        backbone=backbone,
        tokenizer=tokenizer,
        backbone_unchecked=backbone_unchecked,
    )
    if as_json:
        print(json.dumps(scores))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"{split} scores of {folder}"))
    for column in ("task", "metric", "score", "rows"):
        table.add_column(column, justify="right" if column in ("score", "rows") else "left")
    for name, task in scores["tasks"].items():
        table.add_row(escape(name), task["metric"], f"{task['score']:.3f}", f"{task['rows']:,}")
    Console().print(table)


def predict(
    folder: Path,
    task: str | None = None,
    input: Path | None = None,
    output: Path | None = None,
    backbone: str | None = None,
    tokenizer: str | None = None,
    backbone_unchecked: bool = False,
    batch_size: int = 64,
) -> None:
    """Predict rows of JSON lines: text fields in, label and probabilities (or score) out, in the same order.

    Args:
        folder: Written by `graftwork fit`.
        task: Task of all rows; else each row names its own in a field `task`.
        input: JSON lines file; default standard input.
        output: JSON lines file to write; default standard output.
        backbone: Where the backbone is now, if it has moved.
        tokenizer: Hub id, folder or package:NAME/folder of a tokenizer, in place of the model's own.
        backbone_unchecked: Take a backbone of the same shape though its weights are others.
        batch_size: Rows per forward pass.
    """
    from graftwork.predict import Predictor
    from graftwork.sources import read_rows

    predictor = Predictor.load(
        folder,
        backbone=backbone,
        tokenizer=tokenizer,
        backbone_unchecked=backbone_unchecked,
        batch_size=batch_size,
    )
    rows = _stdin_rows() if input is None else iter(read_rows(str(input)))
    lines = (json.dumps(result, ensure_ascii=False) + "\n" for result in predictor.stream(rows, task))
    if output is None:
        for line in lines:
            sys.stdout.write(line)
        return
    staged = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with staged.open("w", encoding="utf-8") as sink:
            sink.writelines(lines)
        staged.replace(output)
    finally:
        staged.unlink(missing_ok=True)


def _stdin_rows() -> Iterator[dict[str, Any]]:
    from graftwork.errors import DataError
    from graftwork.files import parse_json

    for number, line in enumerate(sys.stdin, start=1):
        if not line.strip():
            continue
        try:
            yield parse_json(line)
        except ValueError as error:
            raise DataError(f"standard input line {number} is not valid JSON ({error}).") from error
