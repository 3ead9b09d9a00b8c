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
    split: str = "test",
    data: str | None = None,
    task: str | None = None,
    per_class: bool = False,
    as_json: bool = False,
) -> None:
    """Score a saved model again on the data of its recipe, or on new rows with labels.

    Args:
        folder: Written by `graftwork fit`.
        backbone: Where the backbone is now, if it has moved.
        split: train, validation or test.
        data: Score these rows instead: a source as in a recipe, with the fields of the task.
        task: Score this task alone; needed with --data if the model has several.
        per_class: Add precision, recall and F1 of every class and the confusion matrix, or errors of numbers.
        as_json: Print JSON instead of tables.
    """
    from rich.console import Console

    from graftwork.floor import evaluation_notes
    from graftwork.report_tasks import read_report
    from graftwork.rescore import rescore

    console = Console(stderr=True)
    scores = rescore(
        folder, backbone=backbone, split=split, data=data, task=task, details=per_class, console=console
    )
    for note in scores["notes"]:
        print(f"note: {note}", file=sys.stderr)
    if as_json:
        print(json.dumps(scores))
        return
    from graftwork.score_tables import print_scores

    print_scores(scores, folder, Console())
    if data is None:
        for note in evaluation_notes(read_report(folder), split, scores["tasks"]):
            Console().print(f"note: {note}", highlight=False, markup=False)


def predict(
    folder: Path,
    task: str | None = None,
    input: Path | None = None,
    output: Path | None = None,
    backbone: str | None = None,
    batch_size: int = 64,
) -> None:
    """Predict rows of JSON lines: text fields in, label and probabilities (or score) out, in the same order.

    Args:
        folder: Written by `graftwork fit`.
        task: Task of all rows; else each row names its own in a field `task`.
        input: JSON lines file; default standard input.
        output: JSON lines file to write; default standard output.
        backbone: Where the backbone is now, if it has moved.
        batch_size: Rows per forward pass.
    """
    from graftwork.predict import Predictor
    from graftwork.sources import read_rows

    predictor = Predictor.load(folder, backbone=backbone, batch_size=batch_size)
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
