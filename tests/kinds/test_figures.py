from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import classification_report, f1_score

from graftwork.data.task import Task
from graftwork.kinds.scores import figures_of
from graftwork.kinds.scoring.figures import class_figures, number_figures


def test_figures_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    expected, predicted = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    labels = ("a", "b", "c", "d")
    found = class_figures(labels, predicted, expected)
    report = classification_report(expected, predicted, target_names=labels, output_dict=True)
    for name in labels:
        entry = found["classes"][name]
        for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert entry[ours] == pytest.approx(report[name][theirs])
            assert found["macro"][ours] == pytest.approx(report["macro avg"][theirs])
            assert found["weighted"][ours] == pytest.approx(report["weighted avg"][theirs])
        assert entry["support"] == report[name]["support"]
    assert found["accuracy"] == report["accuracy"]
    matrix = np.array(found["confusion"]["matrix"])
    assert matrix[2, 1] == ((expected == 2) & (predicted == 1)).sum()
    assert matrix.sum() == 200


def test_a_class_that_does_not_occur_does_not_lower_the_macro_mean() -> None:
    expected, predicted = np.array([0, 0, 1]), np.array([0, 1, 1])
    found = class_figures(("a", "b", "never"), predicted, expected)
    assert found["macro"]["f1"] == pytest.approx(f1_score(expected, predicted, average="macro"))
    assert found["classes"]["never"] == {
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "support": 0,
        "predicted": 0,
    }


def test_a_single_row() -> None:
    found = class_figures(("a", "b"), np.array([1]), np.array([1]))
    assert found["accuracy"] == found["macro"]["f1"] == found["weighted"]["f1"] == 1
    assert found["confusion"]["matrix"] == [[0, 0], [0, 1]]


def test_errors_of_numbers() -> None:
    expected, predicted = np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 2.0])
    found = figures_of(Task("t", kind="regression").head(), predicted, expected)
    assert found == number_figures(predicted, expected)
    assert (found["mae"], found["rmse"]) == (1.0, 1.0)
    assert found["pearson"] == pytest.approx(np.corrcoef(expected, predicted)[0, 1])
    constant = number_figures(np.ones(4), expected)
    assert constant["pearson"] == constant["spearman"] == 0
