"""Read the rows of a source: files, folders, files inside installed packages, hub datasets.

Every fault is one `DataError` line that says which file and which line.
"""

from __future__ import annotations

import csv
import difflib
import importlib.util
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.edges import library_errors
from graftwork.errors import DataError
from graftwork.files import exists, parse_json, read_regular, shown, user_path

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Table", "locate", "read_rows", "read_table", "split_file"]

Row = dict[str, Any]
_HUB_PART = re.compile(r"\w[\w.-]*")
"""A part of a hub id. No path: `datasets` would take one for a folder."""
_HUB_SPLIT = re.compile(r"[\w.+%:\[\]-]+")
"""A split, perhaps with slices and sums."""


@dataclass(frozen=True)
class Table:
    """The rows of a source, and where each was found."""

    rows: list[Row]
    path: str
    unit: str
    """What `marks` count: lines or rows; empty if they are the names of files."""
    marks: Sequence[int | str]

    def where(self, index: int) -> str:
        """Say where a row was found, e.g. `data/train.jsonl line 17`."""
        mark = self.marks[index]
        return f"{self.path} {self.unit} {mark}" if self.unit else f"{self.path}/{mark}"


def locate(path: str) -> Path:
    """Turn a path, or `package:NAME/sub/path`, into a path that exists.

    A package is found by its import spec and never imported: importing may print, download or fail.

    Raises:
        DataError: The package is not installed, or there is no such file.
    """
    if path.startswith("package:"):
        return _in_package(path)
    found = user_path(path)
    if not exists(found):
        near = _near(found)
        raise DataError(f"{_short(path)} does not exist" + (f"; did you mean {near}?" if near else ""))
    return found


def read_rows(source: str, *, task: str = "", split: str = "train") -> list[Row]:
    """Read the rows of a source as dictionaries.

    Args:
        source: As described at `graftwork.tasks.Task`.
        task: The task's name, for messages.
        split: Which file of a folder, or which split of a hub dataset, and for messages.

    Raises:
        DataError: The source is missing, empty or broken; names the file and the line.
    """
    return read_table(source, task=task, split=split).rows


def read_table(source: str, *, task: str = "", split: str = "train") -> Table:
    """Read a source like `read_rows`, with the place of every row."""
    try:
        table = _hub(source, split) if source.startswith("hub:") else _local(locate(source), split)
        if not table.rows:
            raise DataError(f"{table.path} has no rows")
    except DataError as error:
        raise DataError(f"{split} of task {task!r}: {error}" if task else str(error)) from None
    except OSError as error:
        raise DataError(
            f"{split} of task {task!r}: cannot read {_short(source)}: {error.strerror or error}"
        ) from None
    return table


def split_file(source: str, split: str) -> str | None:
    """Return the file of a split if the source is a folder with one file per split."""
    if source.startswith("hub:"):
        return None
    folder = locate(source)
    files = (folder / f"{split}{suffix}" for suffix in _READERS)
    return next((str(file) for file in files if file.is_file()), None) if folder.is_dir() else None


def _in_package(path: str) -> Path:
    name, _, inside = path.removeprefix("package:").partition("/")
    if not name.isidentifier():
        raise DataError(f"{_short(path)}: give package:NAME/sub/path, NAME as in 'import NAME'")
    if Path(inside).is_absolute() or ".." in Path(inside).parts:
        raise DataError(
            f"{_short(path)}: the path must stay inside the package; leave out '..' and a leading '/'"
        )
    try:
        spec = importlib.util.find_spec(name)
    except (ValueError, ImportError):  # a module without a spec, such as __main__
        spec = None
    if spec is None:
        raise DataError(
            f"{_short(path)}: package {name} is not installed; pip install {name.replace('_', '-')}"
        )
    # A namespace package may lie in several folders.
    roots = [Path(root) for root in spec.submodule_search_locations or ()]
    for root in roots:
        if exists(root / inside):
            return root / inside
    near = next((match for root in roots if (match := _near(root / inside))), None)
    raise DataError(
        f"{_short(path)}: package {name} has no {_short(inside)}"
        + (f"; did you mean {near}?" if near else "")
    )


def _short(text: str) -> str:
    """A path or a source for a message."""
    return text if len(text) <= 300 and text.isprintable() else shown(text)


def _near(path: Path) -> Path | None:
    """Find the entry beside a missing path whose name is nearest."""
    if not exists(path.parent) or not path.parent.is_dir() or len(path.name) > 255:
        return None
    names = [entry.name for entry in path.parent.iterdir()]
    match = difflib.get_close_matches(path.name, names, n=1)
    return path.parent / match[0] if match else None


def _local(path: Path, split: str) -> Table:
    if path.is_dir():
        file = split_file(str(path), split)
        return _local(Path(file), split) if file else _class_folders(path, split)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is of an unknown type; allowed: {', '.join(_READERS)}, or a folder")
    return reader(path)


def _class_folders(path: Path, split: str) -> Table:
    """Read one sub-folder of text files per class into rows with `text` and `label`."""
    files = sorted(path.glob("*/*.txt"))
    if not files:
        raise DataError(f"folder {path} has neither {split}.jsonl nor one sub-folder of .txt files per class")
    rows: list[Row] = [{"text": _decode(file).strip(), "label": file.parent.name} for file in files]
    return Table(rows, str(path), "", [f"{file.parent.name}/{file.name}" for file in files])


def _decode(path: Path) -> str:
    """Decode a text file: UTF-8, else Windows-1252.

    Windows-1252 is Latin-1 with the printable characters people use; its few undefined bytes become
    U+FFFD, which `drop_broken` finds.
    """
    content = read_regular(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _jsonl(path: Path) -> Table:
    content = read_regular(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path} line {number} is not UTF-8 ({error.reason})") from None
    if path.suffix.lower() == ".json" and text.lstrip().startswith("["):
        return _json_list(path, text)
    rows: list[Row] = []
    marks: list[int] = []
    # Not splitlines(): U+2028 and the like are legal inside JSON strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line or line.isspace():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            what = (
                f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            )
            raise DataError(f"{path} line {number} is not valid JSON ({what})") from None
        if not isinstance(row, dict):
            raise DataError(f"{path} line {number} is not a JSON object but {line.strip()[:40]!r}")
        rows.append(row)
        marks.append(number)
    return Table(rows, str(path), "line", marks)


def _json_list(path: Path, text: str) -> Table:
    try:
        rows = parse_json(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} line {error.lineno} is not valid JSON ({error.msg})") from None
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error})") from None
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path} row {number} is not a JSON object but {shown(row)[:60]}")
    return Table(rows, str(path), "row", range(1, len(rows) + 1))


def _csv(path: Path) -> Table:
    # Everything stays a string: guessing types would turn the text "null" or "NA" into a missing value.
    return _delimited(path, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def _tsv(path: Path) -> Table:
    # text/tab-separated-values has no quoting; with it, one stray quote would swallow many rows.
    return _delimited(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _delimited(path: Path, **style: Any) -> Table:
    rows: list[Row] = []
    marks: list[int] = []
    reader = csv.reader(io.StringIO(_decode(path), newline=""), strict=True, **style)
    try:
        header = next(_long_fields(reader), [])
        twice = [name for name, count in Counter(header).items() if count > 1]
        if twice:
            raise DataError(
                f"{path} line 1 names the field {shown(twice[0])} twice; give each a name of its own"
            )
        for cells in _long_fields(reader):
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{path} line {reader.line_num} has {len(cells)} fields, its header has {len(header)}"
                )
            rows.append(dict(zip(header, cells, strict=True)))
            marks.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num} cannot be read ({error})") from None
    return Table(rows, str(path), "line", marks)


def _long_fields(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """Iterate with csv's limit of 131,072 characters per field lifted: documents are longer."""
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield from reader
    finally:
        csv.field_size_limit(limit)


def _parquet(path: Path) -> Table:
    import pyarrow.parquet  # type: ignore[import-untyped]
    from datasets import Dataset

    if not path.is_file():
        raise DataError(f"{path} is not a regular file")
    with library_errors(f"{path} is not a Parquet file", DataError):
        # The types of the columns are JSON inside the file, read by `datasets`.
        return _from_dataset(Dataset(pyarrow.parquet.read_table(path)), str(path))


_READERS: dict[str, Callable[[Path], Table]] = {
    ".jsonl": _jsonl,
    ".json": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}


def _hub(source: str, split: str) -> Table:
    """Load `hub:ID[/CONFIG][:SPLIT]`; the first two parts are the id (`namespace/name`)."""
    from datasets import load_dataset
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    name, _, wanted = source.removeprefix("hub:").partition(":")
    parts = name.split("/")
    named = len(parts) <= 3 and all(map(_HUB_PART.fullmatch, parts))
    if not named or not _HUB_SPLIT.fullmatch(wanted or split):
        raise DataError(f"{_short(source)}: give hub:NAMESPACE/NAME, and if need be /CONFIG and :SPLIT")
    config = parts[2] if len(parts) == 3 else None
    bars = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with library_errors(f"{source} cannot be loaded", DataError):
            dataset = load_dataset("/".join(parts[:2]), config, split=wanted or split)
    finally:
        if not bars:
            enable_progress_bars()
    with library_errors(f"{source} cannot be read", DataError):
        return _from_dataset(dataset, source)


def _from_dataset(dataset: Dataset, path: str) -> Table:
    """Take the rows of a `datasets.Dataset`, with the names of its class labels in place of numbers."""
    from datasets import ClassLabel

    columns = {name: dataset.data.column(name).to_pylist() for name in dataset.column_names}
    for name, feature in dataset.features.items():
        if isinstance(feature, ClassLabel):
            # -1 is how the hub marks rows without a label.
            columns[name] = [_class_name(feature.names, index, name, path) for index in columns[name]]
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return Table(rows, path, "row", range(1, len(rows) + 1))


def _class_name(names: Sequence[str], index: int | None, column: str, path: str) -> str | None:
    if index is not None and index >= len(names):
        raise DataError(f"{path}: column {column!r} holds the class {index}, but names only {len(names)}")
    return names[index] if index is not None and index >= 0 else None
