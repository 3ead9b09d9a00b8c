"""Which of a row's choices is right, given as its text or as its place."""

from __future__ import annotations

from typing import Any

import pytest

from graftwork.errors import DataError
from graftwork.texts.choices import choices_of, right_choices

PLACES = ["row 1", "row 2"]


@pytest.mark.parametrize(
    ("values", "choices", "right"),
    [
        ([1, 0], [("a", "b"), ("c", "d")], ["b", "c"]),
        (["b", " c "], [("a", "b"), ("c", "d")], ["b", "c"]),
        # A column of texts that are digits, as CSV files have it: places, unless all are choices.
        (["1", "0"], [("a", "b"), ("c", "d")], ["b", "c"]),
        (["1", "2"], [("2", "1"), ("1", "2")], ["1", "2"]),
        (["1", "0"], [("1", "2"), ("c", "d")], ["2", "c"]),
        # Numbers that can only be choices, and those that are both and agree.
        ([7, 5], [("5", "7"), ("5", "6")], ["7", "5"]),
        ([1, 0], [("0", "1"), ("0", "1")], ["1", "0"]),
    ],
)
def test_a_column_is_read_in_one_way(values: list[Any], choices: list[Any], right: list[str]) -> None:
    assert right_choices(values, choices, "label", PLACES) == right


@pytest.mark.parametrize(
    ("values", "choices", "message"),
    [
        ([1, 1], [("1", "2"), ("1", "2")], "row 1: 'label' is 1, which is one of the row's choices"),
        ([0, 2], [("a", "b"), ("a", "b")], "row 2: 'label' is 2, which is neither .* from 0 to 1"),
        ([-1, 0], [("a", "b"), ("a", "b")], "row 1: 'label' is -1, which is neither"),
        ([True, 0], [("a", "b"), ("a", "b")], "row 1: 'label' is True, which is neither"),
        ([["a"], 0], [("a", "b"), ("a", "b")], "row 1: 'label' is"),
        ([0, "b"], [("a", "b"), ("a", "b")], "row 2: 'label' is 'b', a text, but in other rows the place"),
    ],
)
def test_what_is_neither_is_refused(values: list[Any], choices: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        right_choices(values, choices, "label", PLACES)


def test_choices_are_a_list_or_the_text_of_one() -> None:
    assert choices_of({"c": [" a ", 3]}, "c", "row 1") == ("a", "3")
    assert choices_of({"c": '["a", "b"]'}, "c", "row 1") == ("a", "b")
    for value in ("[a", 7, {"text": ["a", "b"]}, None):
        with pytest.raises(DataError, match="not a list of texts to choose from"):
            choices_of({"c": value}, "c", "row 1")
    for item in (True, 1.5, ["a"]):
        with pytest.raises(DataError, match="which is no text to choose"):
            choices_of({"c": ["a", item]}, "c", "row 1")
