from __future__ import annotations

import math
import re
from typing import Any

import pytest

from graftwork.diagnosis.floor import evaluation_notes, floor_note, floor_notes, noise_of

TASK: dict[str, Any] = {
    "metric": "accuracy",
    "test": 0.427,
    "linear_probe": 0.79,
    "majority": 0.2,
    "rows": {"train": 300, "validation": 100, "test": 500},
}


def test_noise_is_the_standard_error_of_a_difference() -> None:
    assert noise_of("accuracy", 0.5, 0.5, 200) == pytest.approx(math.sqrt(0.5 / 200))
    assert noise_of("spearman", 0.0, 1.0, 101) == pytest.approx(0.1)
    assert noise_of("matthews", 2.0, -0.5, 1) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("score", "probe", "majority", "words"),
    [
        (0.427, 0.79, 0.2, "ends below its linear probe: accuracy 0.427 on 500 rows"),
        (0.78, 0.79, 0.2, None),
        (0.75, 0.79, 0.2, "ends below its linear probe"),
        (0.9, 0.79, 0.2, None),
        (
            0.2,
            0.79,
            0.2,
            "ends at its majority class: .* always guessing the most frequent class has 0.200, the",
        ),
        (0.1, 0.1, 0.2, "has learned nothing that shows: .* check its fields text and label"),
        (0.2, 0.2004, 0.2, "has learned nothing that shows"),
    ],
)
def test_a_sentence_for_what_is_below(score: float, probe: float, majority: float, words: str | None) -> None:
    note = floor_note("trec", "accuracy", score, probe, majority, 500)
    if words is None:
        assert note is None
    else:
        assert note is not None
        assert re.search(words, note)


def test_few_rows_are_noisy() -> None:
    assert floor_note("a", "accuracy", 0.7, 0.78, 0.2, 20) is None
    assert floor_note("a", "accuracy", 0.7, 0.78, 0.2, 2000) is not None


def test_a_constant_guess_of_numbers_has_no_class() -> None:
    note = floor_note("sts", "spearman", 0.0, 0.7, 0.0, 500)
    assert note is not None
    assert "a constant guess has 0.000" in note


def test_reports_lead_to_sentences_and_what_they_lack_is_passed_over() -> None:
    (note,) = floor_notes({"trec": TASK, "sst2": {**TASK, "test": 0.9}})
    assert note.startswith("Task 'trec' ends below its linear probe")
    for key in ("test", "linear_probe", "majority", "rows"):
        assert floor_notes({"trec": {**TASK, key: None}}) == []
        assert floor_notes({"trec": {name: value for name, value in TASK.items() if name != key}}) == []
    assert floor_notes({"trec": 3}) == []


def test_a_score_measured_again_is_judged_by_the_yardsticks_of_the_report() -> None:
    scored = {
        "trec": {"metric": "accuracy", "score": 0.5, "rows": 40},
        "new": {"metric": "x", "score": 0, "rows": 1},
    }
    (note,) = evaluation_notes({"tasks": {"trec": TASK}}, "test", scored)
    assert "accuracy 0.500 on 40 rows" in note
    assert evaluation_notes({"tasks": {"trec": TASK}}, "train", scored) == []
    assert evaluation_notes({}, "test", scored) == []
    assert evaluation_notes({"tasks": {"trec": 3}}, "test", scored) == []


def test_a_probe_that_was_left_out_is_not_told_of() -> None:
    bare = {name: value for name, value in TASK.items() if name != "linear_probe"}
    (note,) = floor_notes({"trec": {**bare, "test": bare["majority"]}})
    assert note.startswith("Task 'trec' ends at its majority class")
    assert "probe" not in note
