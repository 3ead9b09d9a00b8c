"""The rows of tasks: files of every kind, whatever is in them, and rows given to a model."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from guard import case, share
from hypothesis import given
from hypothesis import strategies as st
from strategies import SPECIAL, TEXTS, broken_bytes, broken_trees, special_files, values

from graftwork.data.sources import read_rows
from graftwork.data.splits import load_task
from graftwork.data.task import Task
from graftwork.experiments.results.collect import compare, read_results
from graftwork.models.predictor import Predictor
from models import run

ROWS: list[dict[str, Any]] = [
    {
        "text": f"word {i}",
        "other": "a\tb",
        "label": "yn"[i % 2],
        "score": i / 3,
        "several": ["a", "b", "c"][: i % 4],
        "spans": [{"start": 0, "end": 4, "label": "ab"[i % 2]}][: i % 3],
    }
    for i in range(30)
]
WAYS: dict[str, dict[str, Any]] = {
    "classes": {},
    "given": {"labels": ("n", "y")},
    "pair": {"text": ("text", "other")},
    "numbers": {"kind": "regression", "label": "score"},
    "several": {"kind": "multilabel", "label": "several"},
    "parted": {"kind": "multilabel", "separator": "|"},
    "spans": {"kind": "tokens", "label": "spans"},
    "words": {"kind": "tokens", "text": "tokens", "label": "tags"},
    "minimum": {"minimum": {"score": 1.0}, "drop_broken": True},
}
FIELDS = st.sampled_from(["text", "task", "first", "second", "x"])
ways = st.sampled_from(sorted(WAYS))


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ROWS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


FILES = {
    "a.jsonl": lines(ROWS),
    "a.json": json.dumps(ROWS).encode(),
    "a.csv": table(ROWS, ","),
    "a.conll": b"word x O\n0 x B-a\n\nword x I-a\n\n" * 20,
    "a.tsv": table([{**row, "other": "c"} for row in ROWS], "\t"),
}


def load(path: Path, way: str) -> None:
    data = load_task(Task("t", train=str(path), **WAYS[way]))
    assert all(data.counts.values())


@share(0.25)
@given(data=st.data(), name=st.sampled_from(sorted(FILES)), way=ways)
def test_a_file_with_broken_bytes(data: st.DataObject, name: str, way: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data.draw(broken_bytes(FILES[name])))
    with case("data", str(path), "train of task"):
        load(path, way)


@share(0.2)
@given(rows=broken_trees(ROWS), way=ways)
def test_a_file_with_broken_rows(rows: Any, way: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(rows if isinstance(rows, list) else [rows]))
    with case("data", str(path), "train of task"):
        load(path, way)


@share(0.1)
@given(
    column=st.lists(values, min_size=8, max_size=20),
    field=st.sampled_from(["text", "label", "score", "several", "spans"]),
    way=ways,
)
def test_a_column_of_anything(column: list[Any], field: str, way: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines([{**ROWS[i % 30], field: value} for i, value in enumerate(column)]))
    with case("data", str(path), "train of task"):
        load(path, way)


@share(0.06)
@given(
    source=st.sampled_from(TEXTS) | st.text(max_size=20),
    where=st.sampled_from(["train", "validation", "test"]),
)
def test_a_source_that_is_no_name(source: str, where: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(FILES["a.jsonl"])
    with case("data", where, "name"):
        load_task(Task("t", **{"train": str(tmp_path / "a.jsonl"), where: source}))


@share(0.04)
@given(name=st.sampled_from([*sorted(FILES), "a.parquet"]), how=st.sampled_from(SPECIAL))
def test_a_source_that_is_no_file(name: str, how: str, tmp_path: Path) -> None:
    path = tmp_path / name
    special_files(path, how)
    with case("data", str(path)):
        read_rows(str(path))


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b'{"text": ' * 50_000,
        b'{"text": "a", "label": ' + b"9" * 5000 + b"}",
        b'{"text": "a", "label": 1e999}\n' * 12,
        b'{"text": "\\ud800", "label": "\\udfff"}\n{"text": "b", "label": "\\ud800"}\n' * 9,
        b"".join(b'{"text": "a%d", "label": "%s"}\n' % (i, b"9" * (4400 + i)) for i in range(20)),
        b'{"text": "a", "text": "b", "label": "c"}\n' * 12,
        b"null\n",
        b"\0" * 100,
        b"\xef\xbb\xbf\xef\xbb\xbf{}",
        b"".join(b'{"text": "a%d", "label": "l%d"}\n' % (i, i) for i in range(3000)),
    ],
    ids=range(11),
)
def test_lines_that_are_meant_to_hurt(content: bytes, tmp_path: Path) -> None:
    for name in FILES:
        path = tmp_path / name
        path.write_bytes(content)
        for way in WAYS:
            with case("data", str(path), "train of task"):
                load(path, way)


@share(0.03)
@given(content=st.data())
def test_a_broken_parquet_file(content: st.DataObject, tmp_path: Path) -> None:
    from datasets import Dataset

    path = tmp_path / "a.parquet"
    Dataset.from_list(ROWS).to_parquet(str(path))
    path.write_bytes(content.draw(broken_bytes(path.read_bytes())))
    with case("data", str(path), "train of task"):
        load(path, "classes")


@share(0.1)
@given(
    rows=st.lists(st.dictionaries(FIELDS, values) | values),
    task=st.none() | st.sampled_from(["colour", "same", "length", "x", ""]),
)
def test_rows_given_to_a_model(rows: list[Any], task: str | None, predictor: Predictor) -> None:
    with case("data", "row", "task"):
        predictor.predict(rows, task)


@share(0.03)
@given(content=broken_bytes(b'{"text": "red stone", "task": "colour"}\n' * 3))
def test_a_file_given_to_predict(content: bytes, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with case("data"):
        run("predict", trained / "out", "--input", tmp_path / "rows.jsonl")


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return Predictor.load(trained / "out", batch_size=4)


RUN = {
    "format": 1,
    "key": "0123456789abcdef",
    "status": "done",
    "purpose": "final",
    "method": "lora",
    "label": "LoRA",
    "group": "g",
    "pair": "p",
    "seed": 0,
    "settings": {"vary": {"budget": 0.1}, "training": {"learning_rate": 0.001}},
    "tasks": {"a": {"metric": "accuracy", "test": 0.5, "validation": 0.6}},
    "suite": {"test": 0.5, "validation": 0.6},
}


@share(0.1)
@given(tree=broken_trees(RUN))
def test_result_files(tree: Any, tmp_path: Path) -> None:
    path = tmp_path / "0123456789abcdef.json"
    path.write_text(json.dumps(tree))
    with case("results", str(tmp_path)):
        runs = read_results(tmp_path)
        with case("results"):
            compare(runs)
