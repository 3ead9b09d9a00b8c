from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.data.task import Task
from graftwork.errors import DataError
from graftwork.kinds.answers import Answers, to_json
from graftwork.kinds.heads import TaskHead


def head(size: int) -> TaskHead:
    return Task("t").head([f"c{i}" for i in range(size)])


@pytest.mark.parametrize("digits", [None, 6])
@settings(deadline=None)
@given(
    logits=st.lists(st.floats(-50, 50), min_size=2, max_size=30),
    top=st.none() | st.integers(1, 40),
)
def test_probabilities(logits: list[float], top: int | None, digits: int | None) -> None:
    answer = Answers(top=top, digits=digits).describe(head(len(logits)), logits)
    whole = Answers().describe(head(len(logits)), logits)
    assert sum(whole["probabilities"].values()) == pytest.approx(1)
    assert answer["label"] == whole["label"] == f"c{logits.index(max(logits))}"
    found = answer["probabilities"]
    assert len(found) == min(top or 99, len(logits))
    assert all(abs(value - whole["probabilities"][name]) <= 5e-7 for name, value in found.items())
    if top is not None:
        assert next(iter(found)) == answer["label"]
        assert list(found.values()) == sorted(found.values(), reverse=True)
    else:
        assert list(found) == list(whole["probabilities"])


@pytest.mark.parametrize(
    ("std", "score"), [(1.0, 1.234568), (250.0, 308.642), (1e-4, 0.0001234568), (3e7, 37037037)]
)
def test_scores_are_rounded_by_their_deviation(std: float, score: float) -> None:
    length = Task("t", kind="regression").head(std=std)
    assert Answers(digits=6).describe(length, [1.23456789])["score"] == pytest.approx(score, rel=2e-6)
    assert Answers(digits=6).describe(Task("t", kind="regression").head(), [1.23456789])["score"] == 1.234568
    assert Answers().describe(length, [1.23456789])["score"] == 1.23456789 * std


def test_damaged_weights_are_named() -> None:
    for kind in (head(2), Task("t", kind="regression").head()):
        with pytest.raises(DataError, match="no finite outputs for task 't'"):
            Answers().describe(kind, [float("nan"), 1.0])


@pytest.mark.parametrize(
    ("given_so", "message"),
    [
        ({"top": 0}, "top is 0"),
        ({"top": True}, "top is True"),
        ({"keep": "id"}, "keep is 'id', not names of fields"),
        ({"keep": [""]}, "not names of fields"),
        ({"keep": ["score"]}, "keep has 'score'"),
    ],
)
def test_wrong_settings(given_so: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Answers(**given_so)


def test_a_line_is_ascii_if_asked() -> None:
    assert to_json({"a": "é"}) == '{"a": "é"}\n'
    assert to_json({"a": "é"}, ascii_only=True) == '{"a": "\\u00e9"}\n'
    assert json.loads(to_json({"a": "\ud83d x"})) == {"a": "\ufffd x"}
