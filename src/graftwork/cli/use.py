"""Commands that use a model: `evaluate` and `predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftwork.textrows import TextFormat

__all__ = ["evaluate", "predict"]

DIGITS = 6
"""Decimals of probabilities."""


def evaluate(folder: Path, backbone: str | None = None, split: str = "test", as_json: bool = False) -> None:
    """Score a saved model again on the data of its recipe.

    Args:
        folder: Written by `graftwork fit`.
        backbone: Where the backbone is now, if it has moved.
        split: train, validation or test.
        as_json: Print JSON instead of a table.
    """
    from graftwork.rescore import rescore

    scores = rescore(folder, backbone=backbone, split=split)
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
    batch_size: int = 64,
    keep: str | None = None,
    top: int | None = None,
    encoding: str = "utf-8",
    delimiter: str | None = None,
) -> None:
    """Predict rows: text fields in, label and probabilities (or score) out as JSON lines, in the same order.

    Args:
        folder: Written by `graftwork fit`.
        task: Task of all rows; else each row names its own in a field `task`.
        input: JSONL, JSON, CSV, TSV or Parquet file, also with .gz; default JSON lines on standard input.
        output: JSON lines file to write; default standard output, where each row is answered as it comes.
        backbone: Where the backbone is now, if it has moved.
        batch_size: Rows per forward pass.
        keep: Fields of the rows that go into their answers, such as id,text.
        top: Only so many labels, the likeliest first.
        encoding: Of the input; several, such as utf-8,cp1252, are tried in their order.
        delimiter: Of a CSV or TSV file; else the one that fits.
    """
    from graftwork.answers import Answers, to_json
    from graftwork.decoding import encoding_faults
    from graftwork.errors import DataError
    from graftwork.textrows import TextFormat, delimiter_faults

    form = TextFormat(_names(encoding.strip("[]")), delimiter)
    faults = [*encoding_faults(form.encodings), *delimiter_faults(delimiter)]
    if faults:
        raise DataError("; ".join(faults))
    options: dict[str, Any] = {"keep": _names(keep), "top": top, "digits": DIGITS}
    Answers(**options)  # wrong options show before the model is loaded
    from graftwork.predict import Predictor
    from graftwork.storage import staged_file

    predictor = Predictor.load(folder, backbone=backbone, batch_size=batch_size)
    answers = predictor.stream_lists(_row_lists(input, form, predictor.ahead), task, **options)
    if output is None:
        _answer(answers)
        return
    if output.exists() and not output.is_file():
        raise DataError(f"{output} is no regular file; leave --output out, and send standard output there.")
    with staged_file(output) as staged, staged.open("w", encoding="utf-8") as sink:
        for some in answers:
            sink.writelines(map(to_json, some))


def _answer(answers: Iterable[list[dict[str, Any]]]) -> None:
    """Print answers as soon as they are there."""
    from graftwork.answers import to_json

    # Escapes are right in every locale.
    ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    try:
        for some in answers:
            sys.stdout.write("".join(to_json(answer, ascii_only=ascii_only) for answer in some))
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("graftwork: interrupted.", file=sys.stderr)
        sys.exit(130)


def _names(value: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",")) if value else ()


def _row_lists(input: Path | None, form: TextFormat, most: int) -> Iterator[Sequence[dict[str, Any]]]:
    from graftwork.livelines import stdin_rows
    from graftwork.sources import read_rows

    if input is None:
        yield from stdin_rows(most, form.encodings)
        return
    rows = read_rows(str(input), form=form)
    for start in range(0, len(rows), most):
        yield rows[start : start + most]
