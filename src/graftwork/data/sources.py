"""Read the rows of a source: files, folders, files inside installed packages, hub datasets.

Every fault is one `DataError` line that says which file and which line.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.data.images.row_image import ENDINGS
from graftwork.data.memory import GivenRows
from graftwork.data.text_rows import TextFormat, read_conll, read_csv, read_json, read_tsv
from graftwork.distributed.notes import note_once
from graftwork.edges import library_errors
from graftwork.errors import DataError
from graftwork.files.decoding import read_text
from graftwork.files.places import MEMORY
from graftwork.files.reading import exists, user_path
from graftwork.messages import near_misses, shown

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["SourceRows", "dataset_rows", "locate", "read_rows", "read_table", "split_file"]

Row = dict[str, Any]
_TEXTS = (".jsonl", ".json", ".csv", ".tsv")
"""Endings of text files; each may have `.gz` behind it."""
_TAGGED = (".conll", ".bio")
"""Endings of text files with a word and its tag on every line."""
_FILES = (*_TEXTS, *_TAGGED, ".parquet", *(f"{kind}.gz" for kind in (*_TEXTS, *_TAGGED)))
_ANY = TextFormat()
_HUB_PART = re.compile(r"\w[\w.-]*")
"""A part of a hub id. No path: `datasets` would take one for a folder."""
_HUB_SPLIT = re.compile(r"[\w.+%:\[\]-]+")
"""A split, perhaps with slices and sums."""


@dataclass(frozen=True)
class SourceRows:
    """The rows of a source, and where each was found."""

    rows: list[Row]
    path: str
    unit: str
    """What `marks` count: lines or rows; empty if they are the names of files."""
    marks: Sequence[int | str]
    unknown: int = 0
    """Characters that the encoding does not know; they are U+FFFD."""

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


def read_rows(source: str, *, task: str = "", split: str = "train", form: TextFormat = _ANY) -> list[Row]:
    """Read the rows of a source as dictionaries.

    Args:
        source: As described at `graftwork.data.task.Task`.
        task: The task's name, for messages.
        split: Which file of a folder, or which split of a hub dataset, and for messages.
        form: Encoding and delimiter of text files.

    Raises:
        DataError: The source is missing, empty or broken; names the file and the line.
    """
    return read_table(source, task=task, split=split, form=form).rows


def read_table(source: str, *, task: str = "", split: str = "train", form: TextFormat = _ANY) -> SourceRows:
    """Read a source like `read_rows`, with the place of every row."""
    what = f"{split} of task {task!r}: " if task else ""
    try:
        table = _found(source, split, form)
        if not table.rows:
            raise DataError(f"{table.path} has no rows")
    except DataError as error:
        raise DataError(f"{what}{error}") from None
    except OSError as error:
        raise DataError(f"{what}cannot read {_short(source)}: {error.strerror or error}") from None
    if table.unknown:
        note_once(
            f"{what}{table.path}: {table.unknown:,} characters that {form.encodings[-1]} does not know "
            "became U+FFFD"
        )
    return table


def _found(source: str, split: str, form: TextFormat) -> SourceRows:
    if isinstance(source, GivenRows):
        return SourceRows(source.rows, source.what, "row", range(1, len(source.rows) + 1))
    if source.startswith(MEMORY):
        raise DataError(
            f"{_short(source)} are rows that were given in Python, which are not kept with a model; name a "
            "file, or call gw.fit with the rows"
        )
    return _hub(source, split) if source.startswith("hub:") else _local(locate(source), split, form)


def split_file(source: str, split: str) -> str | None:
    """Return the file of a split if the source is a folder with one file per split."""
    if source.startswith(("hub:", MEMORY)):
        return None
    folder = locate(source)
    files = (folder / f"{split}{suffix}" for suffix in _FILES)
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
    match = near_misses(path.name, names)
    return path.parent / match[0] if match else None


def _local(path: Path, split: str, form: TextFormat) -> SourceRows:
    if path.is_dir():
        file = split_file(str(path), split)
        return _local(Path(file), split, form) if file else _class_folders(path, split, form)
    kind = _kind(path)
    if kind == ".parquet":
        return _parquet(path)
    if kind.removesuffix(".gz") not in (*_TEXTS, *_TAGGED):
        allowed = ", ".join((*_TEXTS, ".parquet"))
        raise DataError(
            f"{path} is of an unknown type; allowed: {allowed}, or a folder (texts also with .gz); for "
            "kind: tokens also .conll"
        )
    return _text_rows(path, form, kind.removesuffix(".gz"))


def _kind(path: Path) -> str:
    """The ending of a file's name, with `.gz` and what stands before it."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() + suffix if suffix == ".gz" else suffix


def _class_folders(path: Path, split: str, form: TextFormat) -> SourceRows:
    """Read one sub-folder of text files per class into rows with `text` and `label`, or of images."""
    files = sorted([*path.glob("*/*.txt"), *path.glob("*/*.txt.gz")])
    if not files:
        return _image_folders(path, split)
    texts = [read_text(file, form.encodings) for file in files]
    rows: list[Row] = [
        {"text": decoded.text.strip(), "label": file.parent.name}
        for file, decoded in zip(files, texts, strict=True)
    ]
    marks = [f"{file.parent.name}/{file.name}" for file in files]
    return SourceRows(rows, str(path), "", marks, sum(decoded.unknown for decoded in texts))


def _image_folders(path: Path, split: str) -> SourceRows:
    """Read one sub-folder of images per class into rows with `image` and `label`."""
    found = [file for file in sorted(path.glob("*/*")) if file.is_file() and not file.name.startswith(".")]
    files = [file for file in found if file.suffix.lower() in ENDINGS]
    if not files:
        raise DataError(
            f"folder {path} has neither {split}.jsonl nor one sub-folder of .txt files or images per class"
        )
    if len(files) < len(found):
        other = next(file for file in found if file not in files)
        note_once(f"{path}: {len(found) - len(files):,} files are no images by their names, such as {other}")
    rows: list[Row] = [{"image": str(file.absolute()), "label": file.parent.name} for file in files]
    return SourceRows(rows, str(path), "", [f"{file.parent.name}/{file.name}" for file in files])


def _text_rows(path: Path, form: TextFormat, kind: str) -> SourceRows:
    decoded = read_text(path, form.encodings)
    name = str(path)
    if kind in (".csv", ".tsv"):
        found = (read_csv if kind == ".csv" else read_tsv)(decoded.text, name, form.delimiter)
    elif kind in _TAGGED:
        found = read_conll(decoded.text, name)
    else:
        found = read_json(decoded.text, name, may_be_list=kind == ".json")
    return SourceRows(found.rows, name, found.unit, found.marks, decoded.unknown)


def _parquet(path: Path) -> SourceRows:
    import pyarrow.parquet  # type: ignore[import-untyped]
    from datasets import Dataset

    if not path.is_file():
        raise DataError(f"{path} is not a regular file")
    with library_errors(f"{path} is not a Parquet file", DataError):
        # The types of the columns are JSON inside the file, read by `datasets`.
        return dataset_rows(Dataset(pyarrow.parquet.read_table(path)), str(path))


def _hub(source: str, split: str) -> SourceRows:
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
        return dataset_rows(dataset, source)


def dataset_rows(dataset: Dataset, path: str) -> SourceRows:
    """Take the rows of a `datasets.Dataset`, with the names of its class labels in place of numbers."""
    from datasets import ClassLabel

    # Not `dataset.data`: of a data set that was shuffled or selected from, it has the rows of before.
    table = dataset.with_format("arrow")[:]
    columns = {name: table.column(name).to_pylist() for name in dataset.column_names}
    for name, feature in dataset.features.items():
        if isinstance(feature, ClassLabel):
            # -1 is how the hub marks rows without a label.
            columns[name] = [_class_name(feature.names, index, name, path) for index in columns[name]]
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return SourceRows(rows, path, "row", range(1, len(rows) + 1))


def _class_name(names: Sequence[str], index: int | None, column: str, path: str) -> str | None:
    if index is not None and index >= len(names):
        raise DataError(f"{path}: column {column!r} holds the class {index}, but names only {len(names)}")
    return names[index] if index is not None and index >= 0 else None
