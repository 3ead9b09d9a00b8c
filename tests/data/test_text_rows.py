from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.data.text_rows import DELIMITERS, delimiter_faults, read_csv, read_json, read_tsv
from graftwork.errors import DataError

ROWS = [
    {"id": "1", "text": 'one;\r\ntwo, "three"\tfour | five', "label": "x"},
    {"id": "2", "text": "", "label": "y"},
]


def exported(rows: list[dict[str, Any]], delimiter: str, end: str = "\r\n") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_the_delimiter_is_found(delimiter: str, end: str) -> None:
    assert read_csv(exported(ROWS, delimiter, end), "x").rows == ROWS
    assert read_csv(exported(ROWS, delimiter, end), "x", delimiter).rows == ROWS


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@settings(deadline=None)
@given(cells=st.lists(st.tuples(CELL, CELL), max_size=6), delimiter=st.sampled_from(DELIMITERS))
def test_every_table_of_two_named_fields_comes_back(cells: list[tuple[str, str]], delimiter: str) -> None:
    rows = [{"text": text, "label": label} for text, label in [("a", "b"), *cells]]
    assert read_csv(exported(rows, delimiter), "x").rows == rows


def test_the_line_of_a_spreadsheet_that_names_the_delimiter() -> None:
    rows = read_csv("sep=;\r\n" + exported(ROWS, ";"), "x")
    assert rows.rows == ROWS
    assert rows.marks[0] == 4


def test_one_column_is_one_column() -> None:
    assert read_csv("text\na;b\nc|d\n", "x").rows == [{"text": "a;b"}, {"text": "c|d"}]


def test_the_comma_wins_where_it_fits() -> None:
    assert read_csv("a,b;c\n1,2;3\n", "x").rows == [{"a": "1", "b;c": "2;3"}]


def test_a_header_with_a_comma_of_its_own() -> None:
    assert read_csv("id;text, raw;label\n1;hello, you, there;x\n2;hi;y\n", "x").rows[1]["label"] == "y"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text;label\na;x\nb;c;y\n", "x line 3 has 3 fields with the delimiter ';', its header has 2"),
        ("text,label\na,x\nb,c,y\n", "x line 3 has 3 fields, its header has 2"),
        ("text\na,b\n", "x line 2 has 2 fields, its header has 1"),
        ("a;b|c\n1;2|3\n", r"the delimiters ';' and '\|' both fit; set delimiter"),
        ('text;label\n"a;x\n', "x line 2 cannot be read with the delimiter ';'"),
        ("text;text\na;x\n", "x line 1 names the field 'text' twice"),
    ],
)
def test_what_fits_no_delimiter_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_csv(text, "x")


def test_a_tsv_has_quotes_only_where_it_cannot_be_read_without() -> None:
    assert read_tsv('text\tlabel\n"one\tx\ntwo"\ty\n', "x").rows[0]["text"] == '"one'
    assert read_tsv(exported(ROWS, "\t"), "x").rows == ROWS
    assert read_tsv('"text"\t"label"\n"one\ttwo\nthree"\t"y"\n', "x").rows == [
        {"text": "one\ttwo\nthree", "label": "y"}
    ]
    assert read_tsv("a;b\n1;2\n", "x", ";").rows == [{"a": "1", "b": "2"}]
    with pytest.raises(DataError, match="x line 3 has 1 fields, its header has 2"):
        read_tsv("a\tb\n1\t2\n3\n", "x")


def test_json_lines_and_a_list() -> None:
    assert read_json('{"a": 1}\n\n{"a": 2}', "x", may_be_list=True).marks == [1, 3]
    assert read_json('[{"a": 1}]', "x", may_be_list=True).rows == [{"a": 1}]
    with pytest.raises(DataError, match=r"x line 1 is not a JSON object"):
        read_json("[1]", "x", may_be_list=False)


def test_wrong_delimiters() -> None:
    for good in (None, ";", "\t", "|", ":", "~"):
        assert not delimiter_faults(good)
    for bad in ("", ";;", '"', "a", "7", " ", "\n", 3):
        assert "not one character" in delimiter_faults(bad)[0]
