# ruff: noqa: RUF001
"""Text files as they come: spreadsheets, other encodings, packed files, homes that cannot be written."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commands import Command
from graftwork.data.splits import load_task
from graftwork.data.task import Task
from graftwork.recipe.loading import load_recipe
from toyrun import recipe_dict, write_backbone, write_recipe, write_tasks

ROWS = [
    {"text": f'row {i}: "a", b; c\tпо\r\nсмотрел', "label": ("хорошо", "плохо")[i % 2]} for i in range(40)
]


def table(rows: list[dict[str, str]], delimiter: str) -> str:
    """As a spreadsheet writes it: quotes where they are needed, and line ends of its own."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    quoted = ([f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in line] for line in lines)
    return "".join(delimiter.join(line) + "\r\n" for line in quoted)


def load(path: Path, **settings: Any) -> dict[str, str]:
    return load_task(Task("t", train=str(path), **settings)).sha256


@pytest.fixture
def wanted(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "wanted.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return load(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_export_of_a_spreadsheet_reads(
    delimiter: str, packed: bool, tmp_path: Path, wanted: dict[str, str]
) -> None:
    content = b"\xef\xbb\xbf" + table(ROWS, delimiter).encode()
    path = tmp_path / f"a.csv{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert load(path) == wanted
    assert load(path, delimiter=delimiter) == wanted


def test_a_tsv_and_json_lines_packed(tmp_path: Path, wanted: dict[str, str]) -> None:
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(table(ROWS, "\t").encode()))
    (tmp_path / "d").mkdir()
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode())
    (tmp_path / "d/train.jsonl.gz").write_bytes(packed)
    assert load(tmp_path / "a.tsv.gz") == load(tmp_path / "d") == wanted


@pytest.mark.parametrize("encoding", ["cp1251", "gb18030", "utf-16", "utf-16-le", "koi8-r"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "class folders"])
def test_another_encoding_is_refused_until_it_is_named(
    kind: str, encoding: str, tmp_path: Path, wanted: dict[str, str]
) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    texts = {
        "csv": table(ROWS, ","),
        "tsv": table(ROWS, "\t"),
        "jsonl": "\n".join(lines),
        "json": f"[{','.join(lines)}]",
    }
    if kind == "class folders":
        path = tmp_path / "d"
        for i, row in enumerate(ROWS):
            file = path / ("good", "bad")[i % 2] / f"{i:02}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(row["text"].encode(encoding))
        texts_read = load_task(Task("t", train=str(path), encoding=encoding)).splits["train"].texts[0]
        assert all("смотрел" in text for text in texts_read)
    else:
        path = tmp_path / f"a.{kind}"
        path.write_bytes(texts[kind].encode(encoding))
        assert load(path, encoding=encoding) == wanted
    for given in ("utf-8", ["utf-8", "cp1252"])[: 2 if encoding.startswith("utf") else 1]:
        with pytest.raises(ValueError, match=r"UTF-16|UTF-8|null bytes") as caught:
            load(path, encoding=given)
        assert "\n" not in str(caught.value)


def test_a_bad_byte_ends_a_fit_in_one_line(tmp_path: Path, command: Command) -> None:
    write_backbone(tmp_path / "backbone")
    write_tasks(tmp_path / "data")
    recipe = recipe_dict(tmp_path)
    path = tmp_path / "data/colour/train.jsonl"
    path.write_bytes(path.read_bytes() + '{"text": "это красный", "label": "red"}\n'.encode("cp1251"))
    message = command("fit", write_recipe(tmp_path, recipe)).message
    assert "train.jsonl line 97 is not UTF-8 (byte 0xfd, number" in message
    assert "likely cp1251 ('" in message
    assert "это красный" in message
    assert "give [utf-8, cp1251] as encoding" in message
    recipe["tasks"][0]["encoding"] = ["utf-8", "utf-9"]
    assert "'utf-9', which Python does not know" in command("fit", write_recipe(tmp_path, recipe)).message
    recipe["tasks"][0] |= {"encoding": "utf-8", "delimiter": ";;"}
    assert "delimiter is ';;', not one character" in command("fit", write_recipe(tmp_path, recipe)).message
    assert not (tmp_path / "out").exists()


def test_recipes_hold_the_settings(tmp_path: Path) -> None:
    recipe = recipe_dict(tmp_path)
    plain = load_recipe(write_recipe(tmp_path, recipe)).tasks[0]
    assert not {"encoding", "delimiter"} & plain.as_dict().keys()
    recipe["tasks"][0] |= {"encoding": ["utf-8", "cp1252"], "delimiter": "\t"}
    task = load_recipe(write_recipe(tmp_path, recipe)).tasks[0]
    assert Task.from_dict(task.as_dict()) == task
    assert (task.text_format.encodings, task.text_format.delimiter) == (("utf-8", "cp1252"), "\t")


def test_a_home_that_cannot_be_written_does_not_stop_a_fit(fitted: Path, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("no folder")
    options = ["--output", str(tmp_path / "out"), "--set", "training.epochs=1"]
    done = subprocess.run(
        [sys.executable, "-m", "graftwork", "fit", str(fitted / "recipe.yaml"), *options],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("note: the token cache") == 1
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out/report.json").is_file()
