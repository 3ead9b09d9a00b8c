from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from graftwork.data.live_rows import BLOCK, stdin_rows
from graftwork.errors import DataError


def give(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_lists_hold_no_more_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, b'{"a": 1}\n' * 25)
    sizes = [len(rows) for rows in stdin_rows(10)]
    assert sum(sizes) == 25
    assert max(sizes) <= 10


def test_a_line_longer_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "é" * (2 * BLOCK)
    give(monkeypatch, f'{{"a": 1}}\n{{"a": "{long}"}}\n\n{{"a": 3}}'.encode())
    rows: list[dict[str, Any]] = [row for some in stdin_rows(10) for row in some]
    assert [row["a"] for row in rows] == [1, long, 3]


def test_a_text_stream_in_place_of_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"a": "é"}\n'))
    assert list(stdin_rows(10)) == [[{"a": "é"}]]


def test_no_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="standard input is closed"):
        list(stdin_rows(10))


def test_a_standard_input_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import os

    descriptor = os.open(tmp_path, os.O_RDONLY)
    stream = io.StringIO()
    stream.fileno = lambda: descriptor  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", stream)
    try:
        with pytest.raises(DataError, match="standard input cannot be read: Is a directory"):
            list(stdin_rows(10))
    finally:
        os.close(descriptor)
