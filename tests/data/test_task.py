from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from graftwork.data.task import Task
from graftwork.errors import CheckpointError, RecipeError
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.labels import label_name, sort_labels


def test_a_task_fills_in_the_metric_of_its_kind() -> None:
    assert Task("a").metric == "accuracy"
    assert Task("a", kind="regression").metric == "spearman"


def test_lists_become_tuples_and_paths_strings() -> None:
    task = Task("a", train=Path("x/y.csv"), text=["u", "v"], labels=[0, True, "no"])  # type: ignore[arg-type]
    assert task.train == "x/y.csv"
    assert task.text == task.text_fields == ("u", "v")
    assert task.labels == ("0", "true", "no")
    assert Task("a").text_fields == ("text",)
    hash(task)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "a b"}, "task 'a b': a name is made of letters, digits"),
        ({"name": "../x"}, "a name is made of"),
        ({"name": "a", "train": 5}, "train is 5, not a path"),
        ({"name": "a", "test": " "}, "test is ' ', not a path"),
        ({"name": "a", "text": ("u", "v", "w")}, "text names 3 fields; give one, or two for a pair"),
        ({"name": "a", "text": ("u", 5)}, "both are names of fields"),
        ({"name": "a", "text": ("u", "label")}, r"name a field twice \(u, label, label\)"),
        ({"name": "a", "kind": "ranking"}, "kind is 'ranking'; allowed: classification, regression"),
        (
            {"name": "a", "metric": "pearson"},
            "metric is 'pearson'; allowed for classification: accuracy, macro_f1, matthews",
        ),
        (
            {"name": "a", "kind": "regression", "metric": "accuracy"},
            "allowed for regression: spearman, pearson",
        ),
        ({"name": "a", "kind": "regression", "labels": ("x", "y")}, "a regression task has no labels"),
        ({"name": "a", "labels": ("x",)}, "labels has x; give two or more, each once"),
        ({"name": "a", "labels": ("x", "x")}, "labels has x, x; give two or more, each once"),
        ({"name": "a", "labels": ("x", None)}, r"task 'a': labels has no label \(null\)"),
        ({"name": "a", "labels": "xy"}, "labels is 'xy', not a list of names"),
        ({"name": "a", "max_train": 0}, "max_train is 0, not a whole number of at least 1"),
        ({"name": "a", "max_test": True}, "max_test is True, not a whole number"),
        ({"name": "a", "minimum": {"c": "high"}}, "minimum is {'c': 'high'}, not field names with numbers"),
        ({"name": "a", "drop_broken": "yes"}, "drop_broken is 'yes', not true or false"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        Task(**settings)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(RecipeError, match=r"max_train is -1.*; kind is 'x'"):
        Task("a", max_train=-1, kind="x")  # type: ignore[arg-type]


def test_a_task_survives_json() -> None:
    task = Task("a", "t.csv", text=("u", "v"), labels=("x", "y"), minimum={"c": 0.5}, max_train=3)
    assert Task.from_dict(json.loads(json.dumps(task.as_dict()))) == task


def test_unknown_and_missing_keys_are_refused() -> None:
    with pytest.raises(RecipeError, match="task 'a' has the unknown key 'metrics'; did you mean 'metric'"):
        Task.from_dict({"name": "a", "metrics": "accuracy"})
    with pytest.raises(RecipeError, match=r"a task has no name \(its keys: train\)"):
        Task.from_dict({"train": "x"})


def test_a_head_survives_json_exactly() -> None:
    heads = [
        Task("a", text=("u", "v")).head(("x", "y", "z")),
        Task("b", kind="regression", label="s").head(mean=0.1, std=1 / 3),
    ]
    assert [TaskHead.from_dict(json.loads(json.dumps(head.as_dict()))) for head in heads] == heads
    assert [head.size for head in heads] == [3, 1]
    values = heads[0].as_dict()
    values["scale"] = values.pop("std")
    with pytest.raises(CheckpointError, match=r"head of task 'a' does not fit \(scale, std\)"):
        TaskHead.from_dict(values)


@pytest.mark.parametrize(
    ("value", "name"), [(" a ", "a"), (3, "3"), (2.0, "2"), (True, "true"), (False, "false"), (-1, "-1")]
)
def test_labels_of_every_scalar_type_have_a_name(value: object, name: str) -> None:
    assert label_name(value) == name


@pytest.mark.parametrize("value", [None, "", " ", 1.5, float("nan"), float("inf"), [1], {"a": 1}])
def test_what_is_no_label_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="label"):
        label_name(value)


def test_integer_labels_sort_by_value() -> None:
    assert sort_labels({"10", "9", "-1"}) == ("-1", "9", "10")
    assert sort_labels({"10", "9", "b"}) == ("10", "9", "b")


def test_labels_of_thousands_of_digits_sort_as_text() -> None:
    names = ["9" * 5000, "1" * 5000]
    assert sort_labels(names) == tuple(sorted(names))


def test_half_a_surrogate_pair_in_a_label_is_replaced() -> None:
    assert label_name("a\ud800") == "a\ufffd"
    assert label_name("\ud83d\ude00") == "\U0001f600"


def test_labels_of_one_value_have_one_order() -> None:
    names = ["7", "07", "-0", "0", "007"]
    orders = {sort_labels(order) for order in itertools.permutations(names)}
    assert orders == {("-0", "0", "007", "07", "7")}
