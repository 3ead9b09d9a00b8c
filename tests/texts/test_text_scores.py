"""How written answers are scored."""

from __future__ import annotations

import pytest

from graftwork.errors import ConfigError
from graftwork.texts import scores
from graftwork.texts.scores import check_packages, text_figures, text_score

has_packages = pytest.mark.skipif(
    not (scores._there("rougeL") and scores._there("bleu")), reason="needs the extra generation"
)


@pytest.mark.parametrize(
    ("metric", "answer", "right", "score"),
    [
        ("exact_match", "The red lamp.", ["red  lamp"], 1),
        ("exact_match", "red", ["red lamp"], 0),
        ("exact_match", "", ["red"], 0),
        ("token_f1", "red lamp", ["lamp blue"], 0.5),
        ("token_f1", "red red", ["red"], 2 / 3),
        ("token_f1", "the", ["a"], 1),
        ("token_f1", "red", ["blue", "red"], 1),
        ("number", "so it is 1,010.0", ["1010"], 1),
        ("number", "10 - 3 = 7", ["7.0"], 1),
        ("number", "7 apples of 10", ["7"], 0),
        ("number", "none", ["0"], 0),
        ("number", "-3", ["3"], 0),
    ],
)
def test_scores(metric: str, answer: str, right: list[str], score: float) -> None:
    assert text_score(metric, [answer, answer], [right, right]) == pytest.approx(score)


def test_numbers_are_not_scored_where_none_are_right() -> None:
    assert "number" not in text_figures(["1"], [["red"]])
    assert text_figures(["1"], [["1.0"]])["number"] == 1


@has_packages
@pytest.mark.parametrize("metric", ["rouge1", "rouge2", "rougeL", "bleu", "chrf"])
def test_scores_of_packages_are_between_0_and_1(metric: str) -> None:
    right = [
        ["the red lamp stands on the table", "on the table is a red lamp"],
        ["one bird sings in the tree"],
    ]
    assert text_score(metric, [row[0] for row in right], right) == pytest.approx(1)
    assert text_score(metric, ["xyz", "qqq"], right) < 0.2


@pytest.mark.parametrize(("metric", "package"), [("rougeL", "rouge-score"), ("bleu", "sacrebleu")])
def test_a_missing_package_is_named(metric: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "_there", lambda name: False)
    with pytest.raises(
        ConfigError, match=rf"{package}, which is not installed: pip install 'graftwork\[gener"
    ):
        check_packages(metric)
    assert set(text_figures(["a"], [["a"]])) == {"token_f1", "exact_match"}
