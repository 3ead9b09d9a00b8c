"""`graftwork predict` beside other programs: rows as they come, files as they are, and what goes out."""

from __future__ import annotations

import functools
import gzip
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from commands import Command
from graftwork.models.predictor import Predictor
from toyrun import recipe_dict, write_backbone, write_lines, write_recipe, write_tasks

WAIT = 120
"""Seconds until a process that does not answer has failed."""


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@contextmanager
def process(*arguments: object, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "graftwork", *map(str, arguments)]
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    # A shell lets what it starts in the background ignore Ctrl-C, and processes hand that down.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, **pipes, env={**os.environ, **environment}, preexec_fn=heed) as running:
        try:
            yield running
        finally:
            running.kill()


def answer(running: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The next line of a process, within a time."""
    assert running.stdout is not None
    assert select.select([running.stdout], [], [], WAIT)[0], "no answer"
    return dict(json.loads(running.stdout.readline()))


def test_each_row_is_answered_before_the_next_is_written(fitted: Path) -> None:
    with process("predict", fitted / "out", "--task", "colour", "--keep", "id") as running:
        assert running.stdin is not None
        for i, colour in enumerate(["red", "blue", "red"]):
            running.stdin.write(lines({"text": f"tree {colour}", "id": i}))
            running.stdin.flush()
            assert answer(running) | {"probabilities": None} == {
                "id": i,
                "task": "colour",
                "label": colour,
                "probabilities": None,
            }
        running.stdin.write(lines({"text": "tree red", "id": 3}) + b'{"text": "\xff"}\n')
        running.stdin.flush()
        assert answer(running)["id"] == 3
        _, error = running.communicate(timeout=WAIT)
    assert running.returncode == 2
    assert (
        error.decode().splitlines()[-1].startswith("graftwork: standard input line 5 is not UTF-8 (byte 0xff")
    )
    assert b"Traceback" not in error


def test_ctrl_c_while_it_waits(fitted: Path) -> None:
    with process("predict", fitted / "out", "--task", "colour") as running:
        assert running.stdin is not None
        running.stdin.write(lines({"text": "tree red"}))
        running.stdin.flush()
        answer(running)
        running.send_signal(signal.SIGINT)
        assert running.stderr is not None
        assert running.wait(timeout=WAIT) == 130
        error = running.stderr.read().decode()
    assert error.splitlines()[-1] == "graftwork: interrupted."
    assert "Traceback" not in error
    assert "Fatal" not in error


def test_a_reader_that_goes_away(fitted: Path) -> None:
    with process("predict", fitted / "out", "--task", "colour") as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(lines({"text": "tree red"}))
        running.stdin.flush()
        answer(running)
        running.stdout.close()
        running.stdin.write(lines({"text": "tree red"}))
        running.stdin.close()
        assert running.stderr is not None
        assert running.wait(timeout=WAIT) == 1
        assert b"Traceback" not in running.stderr.read()


def test_a_locale_that_cannot_print_a_label(tmp_path: Path, command: Command) -> None:
    write_backbone(tmp_path / "backbone")
    write_tasks(tmp_path / "data")
    for split in ("train", "validation", "test"):
        path = tmp_path / f"data/colour/{split}.jsonl"
        path.write_text(path.read_text().replace('"label": "red"', '"label": "крас"'))
    recipe = recipe_dict(tmp_path)
    recipe["tasks"] = recipe["tasks"][:1]
    assert command("fit", write_recipe(tmp_path, recipe), "--set", "training.epochs=1").code == 0
    locale = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with process("predict", tmp_path / "out", "--keep", "text", **locale) as running:
        out, error = running.communicate(lines({"text": "река red"}), timeout=WAIT)
    assert running.returncode == 0, error
    assert json.loads(out)["text"] == "река red"
    assert "крас" in json.loads(out)["probabilities"]
    (tmp_path / "data/colour/test.jsonl").write_bytes(lines({"text": "red", "label": "синий"}))
    for arguments in (["evaluate", tmp_path / "out"], ["show", tmp_path / "out"]):
        with process(*arguments, **locale) as running:
            _, error = running.communicate(timeout=WAIT)
        assert b"Traceback" not in error
        assert b"codec can't encode" not in error
        if arguments[0] == "evaluate":
            assert running.returncode == 2
            assert b"\\u0441" in error


def test_rows_may_be_bytes_of_any_kind(fitted: Path, command: Command) -> None:
    arguments = ("predict", fitted / "out", "--task", "colour")
    first = lines({"text": "tree red"})
    marked = command(*arguments, stdin=b"\xef\xbb\xbf" + first + b"\r\n \n" + first.rstrip())
    assert [json.loads(line)["label"] for line in marked.out.splitlines()] == ["red", "red"]
    for content, message in (
        (first + '{"text": "été"}'.encode("cp1252"), "standard input line 2 is not UTF-8 (byte 0xe9"),
        (first + b'{"text"', "standard input line 2 is not valid JSON"),
        (first + b"[1]", "standard input line 2 is not a JSON object"),
        (first + b'{"txt": 1}', "row 2 has no field 'text'"),
    ):
        ended = command(*arguments, stdin=content)
        assert message in ended.message
        assert len(ended.out.splitlines()) == 1, "the rows before are answered"
    assert "UTF-16" in command(*arguments, stdin='{"text": "red"}\n'.encode("utf-16")).message
    assert "gzip" in command(*arguments, stdin=gzip.compress(first)).message
    western = command(
        *arguments, "--encoding", "cp1252", "--keep", "text", stdin=b'{"text": "\xe9t\xe9 red"}'
    )
    assert json.loads(western.out)["text"] == "été red"
    assert command(*arguments, stdin=b"").out == ""


def test_a_file_is_read_like_a_source(fitted: Path, tmp_path: Path, command: Command) -> None:
    rows = 'text;id\r\n"tree; red";1\r\nété blue;2\r\n'
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + rows.encode())
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(rows.replace(";", "|").encode("cp1252")))
    for arguments in (["a.csv"], ["b.csv.gz", "--encoding", "utf-8,cp1252", "--delimiter", "|"]):
        name, *options = arguments
        ended = command(
            "predict",
            fitted / "out",
            "--task",
            "colour",
            "--keep",
            "id",
            "--input",
            tmp_path / name,
            *options,
        )
        assert [json.loads(line)["id"] for line in ended.out.splitlines()] == ["1", "2"], ended.err
    refused = command("predict", fitted / "out", "--task", "colour", "--input", tmp_path / "b.csv.gz")
    assert "line 3 is not UTF-8 (byte 0xe9" in refused.message


def test_fields_are_kept_and_labels_are_few(fitted: Path, tmp_path: Path, command: Command) -> None:
    row = {"text": "tree red", "id": {"a": [1, "\ud800"]}, "task": "colour"}
    score = {"text": "tree red", "id": None, "task": "length"}
    ended = command("predict", fitted / "out", "--keep", "id,text", "--top", 1, stdin=lines(row, score))
    first, second = map(json.loads, ended.out.splitlines())
    assert list(first) == ["id", "text", "task", "label", "probabilities"]
    assert first["id"] == {"a": [1, "\ufffd"]}
    assert list(first["probabilities"]) == ["red"]
    assert first["probabilities"]["red"] == round(first["probabilities"]["red"], 6)
    assert second == {"id": None, "text": "tree red", "task": "length", "score": second["score"]}
    ended = command("predict", fitted / "out", "--top", 9, stdin=lines(row))
    assert list(json.loads(ended.out)["probabilities"]) == ["red", "blue"]
    ended = command("predict", fitted / "out", stdin=lines(row))
    assert list(json.loads(ended.out)["probabilities"]) == ["blue", "red"]
    whole = Predictor.load(fitted / "out").predict([row])[0]["probabilities"]
    assert json.loads(ended.out)["probabilities"] == {label: round(p, 6) for label, p in whole.items()}
    for options, message in (
        (["--keep", "name"], "row 1 has no field 'name', which is to be kept; its fields: text, id, task"),
        (["--keep", "label"], "keep has 'label', but answers have a field of that name"),
        (["--top", "0"], "top is 0; give how many labels, at least 1"),
        (["--encoding", "utf-9"], "which Python does not know"),
        (["--encoding", "utf-16"], "is read by lines"),
        (["--delimiter", "ab"], "not one character"),
        (["--output", tmp_path], "is no regular file; leave --output out"),
    ):
        assert message in command("predict", fitted / "out", *options, stdin=lines(row)).message


def test_dates_of_a_parquet_file_are_kept(fitted: Path, tmp_path: Path, command: Command) -> None:
    import datetime

    from datasets import Dataset

    rows = [{"text": "tree red", "day": datetime.date(2026, 11, 27), "image": b"\x00"}]
    Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    arguments = ("predict", fitted / "out", "--task", "colour", "--input", tmp_path / "a.parquet")
    assert json.loads(command(*arguments, "--keep", "day").out)["day"] == "2026-11-27"
    assert "cannot be written as JSON" in command(*arguments, "--keep", "image").message


def test_rows_in_a_list_of_many(fitted: Path, tmp_path: Path, command: Command) -> None:
    """More than one list of rows: the number of a bad one counts from the first row of all."""
    rows: list[dict[str, Any]] = [{"text": f"{'tree ' * (i % 5)}red"} for i in range(300)]
    source = write_lines(tmp_path / "a.jsonl", [*rows, {"txt": 1}])
    arguments = ("predict", fitted / "out", "--task", "colour", "--batch_size", 2)
    assert "row 301 has no field 'text'" in command(*arguments, "--input", source).message
    assert "row 301 has no field 'text'" in command(*arguments, stdin=source.read_bytes()).message
    whole = command(*arguments, stdin=lines(*rows)).out.splitlines()
    source = write_lines(tmp_path / "b.jsonl", rows)
    assert whole == command(*arguments, "--input", source).out.splitlines()
    assert len(whole) == 300
