# ruff: noqa: RUF001
from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.errors import DataError
from graftwork.files.decoding import decode, encoding_faults, read_text

RUSSIAN = "text,label\nПривет, как дела? Это очень хороший фильм\n"


@settings(deadline=None)
@given(text=st.text())
def test_utf8_comes_back(text: str) -> None:
    try:
        content = text.encode()
    except UnicodeEncodeError:
        return
    if "\0" not in text and not text.startswith("PK\x03\x04"):
        assert decode(content, "x").text == text.removeprefix("\ufeff")
        assert decode(b"\xef\xbb\xbf" + content, "x").text == text


@pytest.mark.parametrize(
    "encoding", ["cp1251", "gb18030", "shift_jis", "utf-16", "utf-16-le", "utf-32", "cp037"]
)
def test_a_named_encoding_is_used(encoding: str) -> None:
    text = "a,b\nя,あ\n" if encoding.startswith("utf") else "a,b\n"
    assert decode(text.encode(encoding), "x", (encoding,)).text == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            RUSSIAN.encode("cp1251"),
            r"x line 2 is not UTF-8 \(byte 0xcf, number 12\); it is likely cp1251 \('Прив",
        ),
        ("这部电影非常好看，我昨天看的。".encode("gbk"), r"likely gb18030 \('这部"),
        (
            "здесь один битый байт".encode() + b"\n\n\xd1",
            r"line 3 .* it is UTF-8 but for 1 broken characters",
        ),
        (
            "text,label\n".encode("utf-16"),
            "begins with the byte order mark of UTF-16, it is not utf-8; give utf-16",
        ),
        (
            "text,label\n".encode("utf-16-le"),
            "has the null bytes of UTF-16-LE, .* give utf-16-le as encoding",
        ),
        ("text,label\n".encode("utf-16-be"), "has the null bytes of UTF-16-BE"),
        ("text,label\n".encode("utf-32-le"), "has the null bytes of UTF-32-LE"),
        ("text,label\n".encode("utf-32"), "begins with the byte order mark of UTF-32"),
        (("看好" * 20 + ",\n").encode("utf-16-le"), "has null bytes: it is no text, or UTF-16"),
        (gzip.compress(b"a", mtime=0), "is compressed with gzip; let its name end in .gz"),
        (b"PK\x03\x04 xlsx", "is a zip archive or a spreadsheet"),
    ],
)
def test_what_is_not_utf8_is_refused_with_advice(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        decode(content, "x")
    assert "\n" not in str(caught.value)


def test_wide_text_is_never_taken_for_another_encoding() -> None:
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        with pytest.raises(DataError, match="UTF-"):
            decode("text,label\n".encode(encoding), "x", ("utf-8", "cp1252"))
    with pytest.raises(DataError, match=r"null bytes"):
        decode(("看好" * 20 + ",\n").encode("utf-16-le"), "x", ("utf-8", "cp1252"))
    with pytest.raises(DataError, match=r"no byte order mark; say utf-8, utf-16-le or utf-16-be"):
        decode("看".encode("utf-16-le"), "x", ("utf-16",))


def test_a_mark_of_utf8_rules_out_other_encodings() -> None:
    with pytest.raises(DataError, match="begins with the byte order mark of UTF-8, but encoding is cp1252"):
        decode("\ufeffé".encode(), "x", ("cp1252",))


def test_several_encodings_are_tried_in_their_order() -> None:
    order = ("utf-8", "cp1252")
    assert decode("é".encode(), "x", order).text == "é"
    assert decode(b"\xe9", "x", order).text == "é"
    last = decode(b"\xe9 \x81 \x8d", "x", order)
    assert (last.text, last.unknown) == ("é \ufffd \ufffd", 2)
    lenient = decode("é".encode() + b" \xff", "x", ("ascii", "utf-8"))
    assert (lenient.text, lenient.unknown) == ("é \ufffd", 1)


def test_a_file_of_utf8_that_is_said_to_be_something_else() -> None:
    with pytest.raises(
        DataError, match=r"is not ascii .* it is likely utf-8 \('Привет.* give utf-8 as encoding"
    ):
        decode(RUSSIAN.encode(), "x", ("ascii",))
    with pytest.raises(DataError, match=r"is not utf-16-le .* it is likely utf-8 \('abc'\)"):
        decode(b"abc", "x", ("utf-16-le",))


def test_the_line_is_counted_from_the_one_that_is_given() -> None:
    with pytest.raises(DataError, match="x line 12 is not UTF-8"):
        decode(b"a\n\xe9", "x", line=11)


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-9", "'utf-9', which Python does not know"),
        ("hex", "'hex', which Python does not know"),
        ("a\0b", "which Python does not know"),
        ([], "not a name such as utf-8"),
        (7, "not a name such as utf-8"),
        (["utf-8", 7], "not a name such as utf-8"),
        (["utf-8", "utf8"], "names one encoding twice"),
        (["cp1252", "utf-8"], "utf-8 after cp1252, which reads nearly every file; put utf-8 first"),
    ],
)
def test_wrong_settings(encoding: Any, message: str) -> None:
    (fault,) = encoding_faults(encoding)
    assert message in fault
    assert not encoding_faults(["utf-8", "cp1252"])
    assert not encoding_faults(("ascii", "UTF8"))


def test_a_gzip_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress("é".encode()))
    assert read_text(path).text == "é"
    whole = path.read_bytes()
    for content in (whole[:-9], b"no", whole[:12] + b"\xff" * 9):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a.csv.gz is not a whole gzip file \("):
            read_text(path)


def test_a_gzip_file_that_is_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"a" * (2**26 + 2**20)))
    with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
        read_text(path)
