"""Commands that use a model: `evaluate` and `predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.cli.opening import Opening

if TYPE_CHECKING:
    from graftwork.data.text_rows import TextFormat

__all__ = ["evaluate", "predict"]

DIGITS = 6
"""Decimals of probabilities that are printed."""


def evaluate(
    folder: Path,
    *,
    opening: Opening,
    split: str = "test",
    data: str | None = None,
    task: str | None = None,
    per_class: bool = False,
    as_json: bool = False,
) -> None:
    """Score a saved model again on the data of its recipe, or on new rows with labels.

    Args:
        folder: Written by `graftwork fit`, or USER/MODEL on the hub.
        opening: Where its parts are now.
        split: train, validation or test.
        data: Score these rows instead: a source as in a recipe, with the fields of the task.
        task: Score this task alone; needed with --data if the model has several.
        per_class: Add precision, recall and F1 of every class and the confusion matrix, or errors of numbers.
        as_json: Print JSON instead of tables.
    """
    from rich.console import Console

    from graftwork.diagnosis.floor import evaluation_notes
    from graftwork.finished.evaluate import rescore
    from graftwork.finished.reports import read_report
    from graftwork.models.files import Loading, local_parts

    console = Console(stderr=True)
    place, parts = local_parts(folder, Loading(**opening))
    scores = rescore(
        place,
        split=split,
        data=data,
        task=task,
        details=per_class,
        console=console,
        **parts,
    )
    for note in scores["notes"]:
        print(f"note: {note}", file=sys.stderr)
    if as_json:
        print(json.dumps(scores))
        return
    from graftwork.finished.score_tables import print_scores

    print_scores(scores, folder, Console())
    if data is None:
        for note in evaluation_notes(read_report(place), split, scores["tasks"]):
            Console().print(f"note: {note}", highlight=False, markup=False)


def predict(
    folder: Path,
    task: str | None = None,
    input: Path | None = None,
    output: Path | None = None,
    *,
    opening: Opening,
    all_tasks: bool = False,
    batch_size: int = 64,
    keep: str | None = None,
    top: int | None = None,
    encoding: str = "utf-8",
    delimiter: str | None = None,
) -> None:
    """Predict rows: text fields in, label and probabilities, score, or text out as JSON lines, in order.

    Args:
        folder: Written by `graftwork fit`, or USER/MODEL on the hub.
        task: Task of all rows; else each row names its own in a field `task`.
        input: JSONL, JSON, CSV, TSV or Parquet file, also with .gz; default JSON lines on standard input.
        output: JSON lines file to write; default standard output, where each row is answered as it comes.
        opening: Where its parts are now.
        all_tasks: Ask all tasks about every row, in one pass that branches where their paths part.
        batch_size: Rows per forward pass.
        keep: Fields of the rows that go into their answers, such as id,text.
        top: Number of labels that are printed, the likeliest first.
        encoding: Of the input; several, such as utf-8,cp1252, are tried in their order.
        delimiter: Of a CSV or TSV file; else the one that fits.
    """
    from graftwork.data.text_rows import TextFormat, delimiter_faults
    from graftwork.errors import DataError
    from graftwork.files.decoding import encoding_faults
    from graftwork.kinds.answers import Answers, to_json

    form = TextFormat(_names(encoding.strip("[]")), delimiter)
    faults = [*encoding_faults(form.encodings), *delimiter_faults(delimiter)]
    if all_tasks and task is not None:
        faults.append("--task is one task and --all-tasks all of them; leave one out")
    if faults:
        raise DataError("; ".join(faults))
    options: dict[str, Any] = {"keep": _names(keep), "top": top, "digits": DIGITS}
    Answers(**options, all_tasks=all_tasks)  # wrong options show before the model is loaded
    from graftwork.distributed.notes import note
    from graftwork.files.writing import staged_file
    from graftwork.models.predictor import Predictor

    predictor = Predictor.load(
        folder,
        **opening,
        batch_size=batch_size,
        beside=None if input is None else input.parent,
    )
    lists = _row_lists(input, form, predictor.ahead)
    if all_tasks:
        answers = predictor.stream_all(lists, **options)
    else:
        answers = predictor.stream_lists(lists, task, **options)
    if output is None:
        _answer(answers)
    elif output.exists() and not output.is_file():
        raise DataError(f"{output} is no regular file; leave --output out, and send standard output there.")
    else:
        with staged_file(output) as staged, staged.open("w", encoding="utf-8") as sink:
            for some in answers:
                sink.writelines(map(to_json, some))
    if all_tasks:
        note(
            f"{len(predictor.heads)} tasks that read the same text cost {predictor.price():.2f} passes "
            "of one task."
        )


def _answer(answers: Iterable[list[dict[str, Any]]]) -> None:
    """Print answers as soon as they are there."""
    from graftwork.kinds.answers import to_json

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
    from graftwork.data.live_rows import stdin_rows
    from graftwork.data.sources import read_rows

    if input is None:
        yield from stdin_rows(most, form.encodings)
        return
    rows = read_rows(str(input), form=form)
    for start in range(0, len(rows), most):
        yield rows[start : start + most]
