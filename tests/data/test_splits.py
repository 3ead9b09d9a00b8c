from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graftwork.data.splits import carved_with, load_split, load_task
from graftwork.data.task import Task
from graftwork.errors import DataError

Rows = list[dict[str, Any]]
Write = Callable[[str, Rows], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def writer(name: str, rows: Rows) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return str(path)

    return writer


def toy(count: int, labels: tuple[Any, ...] = ("n", "y")) -> Rows:
    return [{"text": f"text {i}", "label": labels[i % len(labels)]} for i in range(count)]


def test_given_splits_are_kept_in_order(write: Write) -> None:
    task = Task(
        "t", write("a", toy(4)), write("b", toy(2)), write("c", [{"text": "q", "label": "y", "more": 1}])
    )
    data = load_task(task)
    assert data.counts == {"train": 4, "validation": 2, "test": 1}
    assert data.head.labels == ("n", "y")
    assert data.splits["train"].texts == (["text 0", "text 1", "text 2", "text 3"],)
    assert data.splits["train"].targets.tolist() == [0, 1, 0, 1]
    assert data.splits["test"].targets.tolist() == [1]


def test_a_folder_brings_its_own_splits_unless_others_are_given(write: Write, tmp_path: Path) -> None:
    for name, count in (("train", 8), ("validation", 3), ("test", 2), ("other", 5)):
        write(name, toy(count))
    data = load_task(Task("t", str(tmp_path), validation=str(tmp_path / "other.jsonl")))
    assert data.counts == {"train": 8, "validation": 5, "test": 2}


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ((10, 9), ("9", "10")),
        ((True, False), ("false", "true")),
        ((1.0, 0.0), ("0", "1")),
        (("b", " a"), ("a", "b")),
    ],
)
def test_labels_of_every_type_are_named(
    write: Write, labels: tuple[Any, ...], names: tuple[str, ...]
) -> None:
    assert load_task(Task("t", write("a", toy(20, labels)))).head.labels == names


def test_given_labels_fix_the_order(write: Write) -> None:
    data = load_task(Task("t", write("a", toy(20)), labels=("y", "unseen", "n")))
    assert data.head.labels == ("y", "unseen", "n")
    assert set(data.splits["train"].targets) == {0, 2}


def test_a_pair_has_two_columns(write: Write) -> None:
    rows = [{"u": f"{i}", "v": f"{-i}", "label": i % 2} for i in range(20)]
    texts = load_task(Task("t", write("a", rows), text=("u", "v"))).splits["train"].texts
    assert [int(u) for u in texts[0]] == [-int(v) for v in texts[1]]


def test_scores_keep_their_scale_and_give_mean_and_deviation(write: Write) -> None:
    rows = [{"text": f"{i}", "label": str(i) if i % 2 else i} for i in range(10)]
    source = write("a", rows)
    data = load_task(Task("t", source, source, source, kind="regression"))
    assert data.splits["test"].targets.tolist() == list(range(10))
    assert (data.head.mean, data.head.std) == (4.5, pytest.approx(np.arange(10).std()))
    assert (data.head.labels, data.head.size) == ((), 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(seed=st.integers(-5, 5), count=st.integers(8, 200), repeat=st.integers(1, 4))
def test_carved_splits_share_no_text_and_lose_no_row(
    write: Write, seed: int, count: int, repeat: int
) -> None:
    rows = [
        {"text": f"Text  {i}" if j % 2 else f"text {i} ", "label": i % 3}
        for i in range(count)
        for j in range(repeat)
    ]
    data = load_task(Task("t", write("a", rows)), seed)
    seen = [{" ".join(text.lower().split()) for text in data.splits[s].texts[0]} for s in data.splits]
    assert sum(map(len, seen)) == len(set.union(*seen)) == count
    assert sum(data.counts.values()) == len(rows)
    assert len(seen[1]) == len(seen[2]) == max(1, round(0.1 * count))


def test_carving_is_seeded_and_stratified(write: Write) -> None:
    source = write("a", [{"text": f"{i}", "label": "rare" if i % 10 == 0 else "often"} for i in range(400)])
    one, same, other = (load_task(Task("t", source), seed) for seed in (1, 1, 2))
    assert one.sha256 == same.sha256
    assert one.sha256["train"] != other.sha256["train"]
    for name, count in (("train", 32), ("validation", 4), ("test", 4)):
        assert abs(Counter(one.splits[name].targets)[1.0] - count) <= 1


def test_only_what_is_missing_is_carved(write: Write) -> None:
    data = load_task(Task("t", write("a", toy(100)), test=write("b", toy(7))))
    assert data.counts == {"train": 90, "validation": 10, "test": 7}


def test_sub_samples_are_seeded_and_keep_the_order(write: Write) -> None:
    source = write("a", toy(500))
    task = Task("t", source, source, source, max_train=50, max_validation=20, max_test=9999)
    data, other = load_task(task, 1), load_task(task, 2)
    assert data.counts == {"train": 50, "validation": 20, "test": 500}
    numbers = [int(text.split()[1]) for text in data.splits["train"].texts[0]]
    assert numbers == sorted(set(numbers))
    assert data.sha256 == load_task(task, 1).sha256
    assert data.sha256["train"] != other.sha256["train"]
    assert data.sha256["test"] == other.sha256["test"]


def test_the_hash_depends_on_texts_and_label_names(write: Write) -> None:
    hashes = {
        load_task(Task("t", source, source, source)).sha256["train"]
        for source in (
            write("a", toy(4)),
            write("b", toy(4, ("n", "z"))),
            write("c", [{**row, "text": row["text"] + "."} for row in toy(4)]),
        )
    }
    assert len(hashes) == 3


def test_rows_below_a_minimum_or_broken_are_dropped(write: Write) -> None:
    rows = toy(60)
    for i, row in enumerate(rows):
        row["confidence"] = ["0.95", 0.9, "", None, 0.5, "1"][i % 6]
    rows[0]["text"] = "bro\ufffdken"
    data = load_task(Task("t", write("a", rows), minimum={"confidence": 0.9}, drop_broken=True))
    assert sum(data.counts.values()) == 29
    with pytest.raises(DataError, match="minimum and drop_broken leave none of the 60 rows"):
        load_task(Task("t", write("a", rows), minimum={"confidence": 2}))


def test_half_a_surrogate_pair_counts_as_broken(tmp_path: Path) -> None:
    lines = [f'{{"text": "{i}", "label": {i % 2}}}' for i in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, '{"text": "\\ud83d!", "label": 1}']))
    task = Task("t", str(tmp_path / "a.jsonl"))
    texts = [text for split in load_task(task).splits.values() for text in split.texts[0]]
    assert "\ufffd!" in texts
    assert sum(load_task(Task("t", task.train, drop_broken=True)).counts.values()) == 20


@pytest.mark.parametrize(
    ("row", "extra", "message"),
    [
        ({"text": "a"}, {}, r"train of task 't': .*a.jsonl line 21 has no field 'label'; its fields: text$"),
        ({"label": "n"}, {}, r"line 21 has no field 'text'; its fields: label$"),
        ({}, {}, r"line 21 has no field 'text'; its fields: none$"),
        ({"text": 5, "label": "n"}, {}, r"line 21: the text in 'text' is 5 \(int\), not a string"),
        ({"text": None, "label": "n"}, {}, r"line 21: the text in 'text' is null, not a string"),
        ({"text": "a", "label": None}, {}, r"line 21 has no label \(null\)"),
        ({"text": "a", "label": " "}, {}, r"line 21 has an empty label"),
        (
            {"text": "a", "label": 2.5},
            {},
            r"line 21 has the label 2.5: classes are strings, integers or bool",
        ),
        ({"text": "a", "label": ["n"]}, {}, r"line 21 has a label of type list"),
        (
            {"text": "a", "label": "m"},
            {"labels": ("n", "y")},
            r"line 21 has the label 'm'; allowed \(given by the task\): n, y",
        ),
        (
            {"text": "a", "label": "n"},
            {"minimum": {"c": 1}},
            r"line 1 has no field 'c'; its fields: text, label",
        ),
        (
            {"text": "a", "label": "n"},
            {"minimum": {"text": 1}},
            r"line 1: 'text' is 'text 0', not a finite number",
        ),
    ],
)
def test_a_bad_row_is_one_clear_line(
    write: Write, row: dict[str, Any], extra: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_task(Task("t", write("a", [*toy(20), row]), **extra))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("score", ["high", None, float("nan"), float("inf"), True, [1], ""])
def test_a_score_that_is_no_number_is_refused(write: Write, score: object) -> None:
    rows = [*({"text": f"{i}", "label": i} for i in range(20)), {"text": "z", "label": score}]
    with pytest.raises(DataError, match=r"a.jsonl line 21: 'label' is .*, not a finite number"):
        load_task(Task("t", write("a", rows), kind="regression"))


def test_places_survive_filtering(write: Write) -> None:
    good = [{"text": f"{i}", "label": i, "c": i} for i in range(20)]
    rows = [*good, {"text": "z", "label": "bad", "c": 20}]
    with pytest.raises(DataError, match=r"line 21: 'label' is 'bad'"):
        load_task(Task("t", write("a", rows), kind="regression", minimum={"c": 5}))


def test_a_label_unknown_to_training_is_named(write: Write) -> None:
    test = write("b", [*toy(3), {"text": "a", "label": "maybe"}])
    message = (
        r"test of task 't': .*b.jsonl line 4 has the label 'maybe'; allowed \(found in the train rows\): n, y"
    )
    with pytest.raises(DataError, match=message):
        load_task(Task("t", write("a", toy(20)), test=test))


def test_nothing_to_learn_is_refused(write: Write) -> None:
    with pytest.raises(DataError, match="all 20 rows have the class 'n'; there is nothing to learn"):
        load_task(Task("t", write("a", toy(20, ("n",)))))
    with pytest.raises(DataError, match="all 20 rows have the score 3"):
        load_task(Task("t", write("a", toy(20, (3,))), kind="regression"))


def test_too_few_texts_to_carve_and_no_source_are_refused(write: Write) -> None:
    with pytest.raises(DataError, match="has 3 distinct texts, too few to split off validation and test"):
        load_task(Task("t", write("a", toy(3) * 9)))
    with pytest.raises(DataError, match="task 't' has no training source"):
        load_task(Task("t"))


def test_a_score_that_no_float_holds_is_refused(write: Write) -> None:
    rows = [{"text": f"t{i}", "label": 10**400 if i == 3 else i} for i in range(20)]
    with pytest.raises(DataError, match=r"line 4: 'label' is .*, not a finite number"):
        load_task(Task("t", train=write("a.jsonl", rows), kind="regression"))


@pytest.mark.parametrize("own", [(), ("test",), ("validation",), ("validation", "test")])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_a_split_alone_is_that_of_the_whole_task(write: Write, own: tuple[str, ...], kind: Any) -> None:
    label = {"classification": ("n", "y", "z"), "regression": (0.5, 1, 4)}[kind]
    given = {name: write(name, toy(9, label)) for name in own}
    task = Task("t", write("a", toy(80, label)), **given, kind=kind, max_train=30, max_test=4)  # type: ignore[arg-type]
    whole = load_task(task, seed=3)
    for split, part in whole.splits.items():
        alone = load_split(task, whole.head, split, seed=3)
        assert alone.head == whole.head
        assert list(alone.splits) == [split]
        assert alone.sha256[split] == part.sha256
        assert alone.counts[split] == len(part)
    missing = [name for name in ("validation", "test") if name not in own]
    assert carved_with(task, "train") == missing
    for name in ("validation", "test"):
        assert carved_with(task, name) == (missing if name in missing else [])


def test_a_saved_head_says_what_the_classes_are(write: Write, tmp_path: Path) -> None:
    task = Task("t", write("a", toy(20)), test=write("b", toy(4)))
    head = Task("t").head(("y", "n"))
    assert load_split(task, head, "test").splits["test"].targets.tolist() == [1, 0, 1, 0]
    write("a", toy(20, ("n", "y", "new")))
    assert load_split(task, head, "test").splits["test"].targets.tolist() == [1, 0, 1, 0]
    message = (
        r"train of task 't': .*a.jsonl line 3 has the label 'new'; allowed \(the classes of the model\): y, n"
    )
    with pytest.raises(DataError, match=message):
        load_split(task, head, "validation")
