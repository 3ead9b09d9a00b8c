"""Rows of text files: JSON lines, a JSON list, and CSV or TSV with the delimiter they have."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from graftwork.errors import DataError
from graftwork.files.decoding import UTF8
from graftwork.files.reading import parse_json
from graftwork.messages import shown

__all__ = [
    "Rows",
    "TextFormat",
    "delimiter_faults",
    "json_row",
    "read_conll",
    "read_csv",
    "read_json",
    "read_tsv",
]

Row = dict[str, Any]
DELIMITERS = (",", ";", "\t", "|")
"""Delimiters that are tried in a CSV file; the first one that fits is taken."""
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n")
"""A first line with which spreadsheets say their delimiter."""


@dataclass(frozen=True)
class TextFormat:
    """Encoding and delimiter of text files; Parquet files and hub datasets hold their own."""

    encodings: tuple[str, ...] = UTF8
    """Encodings, tried in this order (`graftwork.files.decoding.decode`)."""
    delimiter: str | None = None
    """Delimiter of CSV and TSV files; found in the file if not given."""


@dataclass(frozen=True)
class Rows:
    """Rows, and the lines (or positions, if `unit` is `row`) at which they were found."""

    rows: list[Row]
    marks: Sequence[int]
    unit: str = "line"


def delimiter_faults(delimiter: object) -> list[str]:
    """What is wrong with a setting `delimiter`."""
    if delimiter is None or (
        isinstance(delimiter, str)
        and len(delimiter) == 1
        and (delimiter == "\t" or delimiter.isprintable())
        and not delimiter.isalnum()
        and delimiter not in "\"' _"
    ):
        return []
    return [f'delimiter is {shown(delimiter)}, not one character such as ";", "|" or "\\t"']


def json_row(line: str, where: str) -> Row:
    """The row in a line of JSON.

    Raises:
        DataError: it is not a JSON object.
    """
    try:
        row = parse_json(line)
    except ValueError as error:
        what = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        raise DataError(f"{where} is not valid JSON ({what})") from None
    if not isinstance(row, dict):
        raise DataError(f"{where} is not a JSON object but {line.strip()[:40]!r}")
    return row


def read_json(text: str, name: str, *, may_be_list: bool) -> Rows:
    """Rows of JSON lines, or of one JSON list if that may be."""
    if may_be_list and text.lstrip().startswith("["):
        return _json_list(text, name)
    # Not splitlines(): U+2028 and the like are legal inside JSON strings.
    lines = enumerate(text.split("\n"), start=1)
    found = [(number, line) for number, line in lines if line and not line.isspace()]
    return Rows(
        [json_row(line, f"{name} line {number}") for number, line in found], [number for number, _ in found]
    )


def _json_list(text: str, name: str) -> Rows:
    try:
        rows = parse_json(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{name} line {error.lineno} is not valid JSON ({error.msg})") from None
    except ValueError as error:
        raise DataError(f"{name} is not valid JSON ({error})") from None
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{name} row {number} is not a JSON object but {shown(row)[:60]}")
    return Rows(rows, range(1, len(rows) + 1), "row")


def read_csv(text: str, name: str, delimiter: str | None = None) -> Rows:
    """Rows of a CSV file; every value stays a string.

    Guessing types would turn the text "null" or "NA" into a missing value. A delimiter that is not given is
    the comma wherever it fits: the header has two fields or more, and every row as many. Else it is the one
    other delimiter that fits. A line `sep=;`, which spreadsheets write, says it too.

    Raises:
        DataError: a row has not as many fields as the header, a quote is not closed, a field is named
            twice, or two delimiters fit.
    """
    said = _SEPARATOR_LINE.match(text)
    if delimiter is None and said:
        return _delimited(text, name, said[1], skip=1)
    if delimiter is not None:
        return _delimited(text, name, delimiter)
    first = _delimited_or_fault(text, name, ",")
    if isinstance(first, Rows) and _width(text, ",") > 1:
        return first
    widths = {one: _width(text, one) for one in DELIMITERS}
    tried = {one: _delimited_or_fault(text, name, one) for one in DELIMITERS[1:] if widths[one] > 1}
    fitting = [one for one, found in tried.items() if isinstance(found, Rows)]
    if len(fitting) > 1:
        both = " and ".join(map(repr, fitting))
        raise DataError(f"{name}: the delimiters {both} both fit; set delimiter to the right one")
    found = tried[fitting[0]] if fitting else first
    if not fitting and widths[","] < 2 and tried:
        # No delimiter fits: what is wrong is said of the one that the header has.
        found = tried[max(tried, key=lambda one: widths[one])]
    if isinstance(found, DataError):
        raise found
    return found


def read_tsv(text: str, name: str, delimiter: str | None = None) -> Rows:
    """Rows of a TSV file, which has no quoting: with it, one stray quote would swallow many rows.

    Spreadsheets write quotes, around line ends at least: a file whose header has them, or that cannot be read
    without, is read with them.

    Raises:
        DataError: as for `read_csv`.
    """
    if text.startswith('"'):
        return _delimited(text, name, delimiter or "\t")
    plain = _delimited_or_fault(text, name, delimiter or "\t", quoting=csv.QUOTE_NONE)
    if isinstance(plain, Rows):
        return plain
    quoted = _delimited_or_fault(text, name, delimiter or "\t")
    if isinstance(quoted, Rows):
        return quoted
    raise plain


def read_conll(text: str, name: str) -> Rows:
    """Rows with `tokens` and `tags` from lines of a word, perhaps other columns, and its tag.

    A blank line ends a row. Columns are parted by tabs if a line has any, else by blanks; lines that begin
    with `-DOCSTART-` are passed over.

    Raises:
        DataError: a line has fewer than two columns, or another number than the first.
    """
    rows: list[Row] = []
    marks: list[int] = []
    width, begun = 0, False
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            begun = False
            continue
        cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
        width = width or len(cells)
        if len(cells) < 2 or len(cells) != width:
            raise DataError(
                f"{name} line {number} has {len(cells)} columns, "
                + ("not a word and its tag" if width < 2 else f"but the lines before have {width}")
            )
        if not begun:
            rows.append({"tokens": [], "tags": []})
            marks.append(number)
            begun = True
        rows[-1]["tokens"].append(cells[0])
        rows[-1]["tags"].append(cells[-1])
    return Rows(rows, marks)


def _delimited_or_fault(
    text: str, name: str, delimiter: str, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
) -> Rows | DataError:
    try:
        return _delimited(text, name, delimiter, quoting=quoting)
    except DataError as error:
        return error


def _width(text: str, delimiter: str) -> int:
    """Fields of the header; 0 if it cannot be read with this delimiter."""
    try:
        return len(next(_long_fields(_reader(text, delimiter, csv.QUOTE_MINIMAL)), []))
    except csv.Error:
        return 0


def _reader(text: str, delimiter: str, quoting: Literal[0, 3]) -> Any:
    return csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter, quoting=quoting)


def _delimited(
    text: str, name: str, delimiter: str, *, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL, skip: int = 0
) -> Rows:
    rows: list[Row] = []
    marks: list[int] = []
    reader = _reader(text, delimiter, quoting)
    by = "" if delimiter in ",\t" else f" with the delimiter {delimiter!r}"
    try:
        records = _long_fields(reader)
        for _ in range(skip):
            next(records, None)
        header = next(records, [])
        twice = [field for field, count in Counter(header).items() if count > 1]
        if twice:
            raise DataError(
                f"{name} line {1 + skip} names the field {shown(twice[0])} twice; give each a name of its own"
            )
        for cells in records:
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{name} line {reader.line_num} has {len(cells)} fields{by}, its header has {len(header)}"
                )
            rows.append(dict(zip(header, cells, strict=True)))
            marks.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{name} line {reader.line_num} cannot be read{by} ({error})") from None
    return Rows(rows, marks)


def _long_fields(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """Iterate with csv's limit of 131,072 characters per field lifted: documents are longer."""
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield from reader
    finally:
        csv.field_size_limit(limit)
