from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graftwork.data.sources import locate, read_rows, read_table, split_file
from graftwork.data.text_rows import TextFormat
from graftwork.errors import DataError

Write = Callable[[str, str | bytes], str]
ROWS = [{"text": 'a "b", c\td', "label": "x"}, {"text": "null", "label": "y"}]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def writer(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return writer


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package that fails when imported."""
    folder = tmp_path / "graftwork_toy_pkg"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def lines(rows: list[dict[str, Any]]) -> str:
    return "\n".join(map(json.dumps, rows))


def test_every_file_type_gives_the_same_rows(write: Write, tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list(ROWS).to_parquet(tmp_path / "d.parquet")
    sources = [
        write("a.jsonl", "\ufeff" + lines(ROWS) + "\n\n"),
        write("b.json", json.dumps(ROWS)),
        write("c.json", lines(ROWS)),
        write("d.csv", 'text,label\r\n"a ""b"", c\td",x\r\n\r\nnull,y\r\n'),
        str(tmp_path / "d.parquet"),
    ]
    assert [read_rows(source) for source in sources] == [ROWS] * len(sources)


def test_a_tsv_has_no_quoting(write: Write) -> None:
    assert read_rows(write("a.tsv", 'text\tlabel\n"Stop\tx\nno"\ty\n')) == [
        {"text": '"Stop', "label": "x"},
        {"text": 'no"', "label": "y"},
    ]


def test_odd_line_separators_inside_json_stay(write: Write) -> None:
    source = write("a.jsonl", '{"text": "one\u2028two\x85three"}\n')
    assert read_rows(source) == [{"text": "one\u2028two\x85three"}]


def test_class_labels_of_a_parquet_file_become_names(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    dataset = Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    dataset.to_parquet(tmp_path / "a.parquet")
    assert [row["label"] for row in read_rows(str(tmp_path / "a.parquet"))] == ["yes", "no", None]


WESTERN = TextFormat(("utf-8", "cp1252"))


def test_a_csv_in_another_encoding(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    source = write("a.csv", b"text,label\n\xa35 for caf\xe9 \x93x\x94,y\nbroken \x81,n\n")
    with pytest.raises(DataError, match=r"a.csv line 2 is not UTF-8 \(byte 0xa3, number 12\); it is likely"):
        read_rows(source)
    with pytest.raises(DataError, match=r"a.csv line 3 is not cp1252 \(byte 0x81, number 37\)"):
        read_rows(source, form=TextFormat(("cp1252",)))
    table = read_table(source, task="t", form=WESTERN)
    assert [row["text"] for row in table.rows] == ["£5 for café “x”", "broken \ufffd"]
    assert table.unknown == 1
    assert (
        f"note: train of task 't': {source}: 1 characters that cp1252 does not know"
        in capsys.readouterr().err
    )


def test_a_csv_may_hold_a_long_document(write: Write) -> None:
    import csv

    limit = csv.field_size_limit()
    assert len(read_rows(write("a.csv", f"text\n{'x' * 200_000}\n"))[0]["text"]) == 200_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "a.jsonl has no rows"),
        ("a.jsonl", "\n  \n", "a.jsonl has no rows"),
        ("a.jsonl", '{"a": 1}\n\n{"a": 1,}', r"a.jsonl line 3 is not valid JSON \(.+ at column \d+\)"),
        ("a.jsonl", '{"a": 1}\n[1, 2]', r"a.jsonl line 2 is not a JSON object but '\[1, 2\]'"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xe9"}', "a.jsonl line 2 is not UTF-8"),
        ("a.json", "[\n{},\n{]", r"a.json line 3 is not valid JSON"),
        ("a.json", '[{"a": 1}, 2]', "a.json row 2 is not a JSON object but 2"),
        ("a.json", "[]", "a.json has no rows"),
        ("a.csv", "", "a.csv has no rows"),
        ("a.csv", "text,label\n", "a.csv has no rows"),
        ("a.csv", "text,label\na,b\nc\n", "a.csv line 3 has 1 fields, its header has 2"),
        ("a.csv", "text,label\na,b,c\n", "a.csv line 2 has 3 fields, its header has 2"),
        ("a.csv", 'text,label\n"a,b\nc,d\n', "a.csv line 3 cannot be read"),
        ("a.csv", "text,label,text\na,b,c\n", "a.csv line 1 names the field 'text' twice"),
        ("a.jsonl", "[" * 100_000, r"a.jsonl line 1 is not valid JSON \(it is nested too deeply\)"),
        ("a.json", "[" * 100_000, r"a.json is not valid JSON \(it is nested too deeply\)"),
        ("a.jsonl", '{"a": ' + "9" * 5000 + "}", r"a.jsonl line 1 .* more than 4,300 digits"),
        ("a.parquet", "no", "a.parquet is not a Parquet file"),
        (
            "a.xlsx",
            "no",
            r"a.xlsx is of an unknown type; allowed: .jsonl, .json, .csv, .tsv, .parquet, or a fol",
        ),
    ],
)
def test_a_broken_file_is_one_clear_line(write: Write, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_rows(write(name, content), task="t", split="test")
    assert str(caught.value).startswith("test of task 't': ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("inside", ["../x", "a/../../x", "/etc/passwd"])
def test_a_source_does_not_leave_its_package(inside: str) -> None:
    with pytest.raises(DataError, match="must stay inside the package"):
        read_rows(f"package:json/{inside}")


@pytest.mark.parametrize("name", ["../x", "/etc", "a/..", "./a", "a:../b", "", "a//b"])
def test_a_hub_dataset_is_no_path(name: str) -> None:
    with pytest.raises(DataError, match="give hub:NAMESPACE/NAME"):
        read_rows(f"hub:{name}")


@pytest.mark.parametrize("source", ["a\0b.jsonl", "a" * 5000 + ".jsonl", "~nobody-of-this-name/a.jsonl"])
def test_what_cannot_be_a_path_does_not_exist(source: str) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_rows(source)


def test_a_device_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"a.jsonl is not a regular file"):
        read_rows(str(tmp_path / "a.jsonl"))


def test_a_missing_file_names_the_nearest(write: Write, tmp_path: Path) -> None:
    there = write("train.jsonl", "{}")
    with pytest.raises(DataError, match=f"trian.jsonl does not exist; did you mean {there}"):
        read_rows(str(tmp_path / "trian.jsonl"))
    with pytest.raises(DataError, match=r"none/zzz does not exist$"):
        read_rows(str(tmp_path / "none" / "zzz"))


def test_a_folder_with_one_file_per_split(write: Write, tmp_path: Path) -> None:
    write("d/train.jsonl", '{"a": 1}')
    write("d/test.csv", "a\n2")
    folder = str(tmp_path / "d")
    assert read_rows(folder) == [{"a": 1}]
    assert read_rows(folder, split="test") == [{"a": "2"}]
    assert split_file(folder, "test") == str(tmp_path / "d" / "test.csv")
    assert split_file(folder, "validation") is None
    assert split_file(str(tmp_path / "d" / "train.jsonl"), "train") is None
    with pytest.raises(DataError, match=r"has neither validation.jsonl nor one sub-folder of .txt files"):
        read_rows(folder, split="validation")


def test_a_folder_with_one_sub_folder_per_class(write: Write, tmp_path: Path) -> None:
    write("d/sport/2.txt", "  goal \n")
    write("d/sport/1.txt", b"\xa35 ticket")
    write("d/art/1.txt", "paint")
    write("d/readme.txt", "not a row")
    (tmp_path / "d" / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"sport/1.txt line 1 is not UTF-8 .* give \[utf-8, cp1252\] as encoding"
    ):
        read_table(str(tmp_path / "d"))
    table = read_table(str(tmp_path / "d"), form=WESTERN)
    assert table.rows == [
        {"text": "paint", "label": "art"},
        {"text": "£5 ticket", "label": "sport"},
        {"text": "goal", "label": "sport"},
    ]
    assert table.where(1) == f"{tmp_path}/d/sport/1.txt"


def test_rows_know_their_line(write: Write) -> None:
    source = write("a.jsonl", "\n{}\n\n{}")
    assert read_table(source).where(1) == f"{source} line 4"


def test_a_package_is_located_without_importing_it(package: Path) -> None:
    (package / "data").mkdir()
    (package / "data" / "a.jsonl").write_text('{"a": 1}')
    assert locate("package:graftwork_toy_pkg/data") == package / "data"
    assert locate("package:graftwork_toy_pkg") == package
    assert read_rows("package:graftwork_toy_pkg/data/a.jsonl") == [{"a": 1}]
    assert split_file("package:graftwork_toy_pkg/data", "a") == str(package / "data" / "a.jsonl")
    assert "graftwork_toy_pkg" not in sys.modules
    with pytest.raises(DataError, match=r"has no data/b.jsonl; did you mean .*a.jsonl"):
        locate("package:graftwork_toy_pkg/data/b.jsonl")


def test_an_absent_package_names_the_command() -> None:
    message = "package no_such_thing is not installed; pip install no-such-thing"
    with pytest.raises(DataError, match=f"train of task 'x': package:no_such_thing/data: {message}"):
        read_rows("package:no_such_thing/data", task="x")
    for odd in ("package:", "package:a.b/c", "package:../x"):
        with pytest.raises(DataError, match="give package:NAME/sub/path"):
            locate(odd)


def test_a_home_folder_is_expanded(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.csv", "a\n1")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/a.csv") == tmp_path / "a.csv"


@pytest.mark.parametrize(
    ("source", "arguments"),
    [
        ("hub:imdb", ("imdb", None, "test")),
        ("hub:nyu-mll/glue/mnli:validation_matched", ("nyu-mll/glue", "mnli", "validation_matched")),
    ],
)
def test_a_hub_source_names_id_config_and_split(
    source: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    calls = []

    def load(path: str, config: str | None, split: str) -> datasets.Dataset:
        calls.append((path, config, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read_rows(source, split="test") == ROWS
    assert calls == [arguments]
    assert split_file(source, "test") is None


def test_a_hub_source_that_cannot_be_loaded_is_one_line() -> None:
    with pytest.raises(DataError, match=r"hub:graftwork-none/none cannot be loaded \(.+\)") as caught:
        read_rows("hub:graftwork-none/none")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="give hub:NAMESPACE/NAME"):
        read_rows("hub:a/b/c/d")


@pytest.mark.parametrize("split", ["train[:10%]", "train[:100]+test[-50:]", "train.a-b"])
def test_a_hub_split_may_have_slices(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load(name: str, config: str | None, split: str) -> datasets.Dataset:
        asked.append((name, config, split))
        return datasets.Dataset.from_dict({"a": [1]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read_rows(f"hub:some/name/conf:{split}") == [{"a": 1}]
    assert asked == [("some/name", "conf", split)]


def test_a_parquet_file_whose_own_description_is_broken_is_refused(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": ["a"]}).replace_schema_metadata({b"huggingface": b"{"})
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(DataError, match=r"a.parquet is not a Parquet file"):
        read_rows(str(path))
