"""`kind: choice` as a kind: rows, targets, digests, noise and the constant guess."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graftwork.data.splits import load_task
from graftwork.data.task import Task
from graftwork.data.task_data import TaskData
from graftwork.errors import DataError
from graftwork.kinds.registry import KINDS
from graftwork.models.causal.scoring import constant_score, right_places, row_choices
from graftwork.texts.rows import messages_of
from toyrun import write_lines

CHOICE = KINDS["choice"]


def own_rows(count: int) -> list[dict[str, Any]]:
    return [
        {"text": f"text {i}", "choices": [f"a{i}", "b", "c"][: 2 + i % 2], "label": i % 4 % (2 + i % 2)}
        for i in range(count)
    ]


def load(path: Path, **settings: Any) -> TaskData:
    return load_task(Task("t", str(path), kind="choice", **settings))


def test_labels_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": ["so so", "bad", "very good"][i % 3]} for i in range(60)]
    found = load(write_lines(tmp_path / "rows.jsonl", rows))
    assert found.head.labels == ("bad", "so so", "very good")
    assert found.head.size == 1
    test = found.splits["test"]
    assert test.answers is None
    assert row_choices(found.head, test) == [found.head.labels] * len(test)
    assert right_places(test).tolist() == test.targets.tolist()
    listed = load(tmp_path / "rows.jsonl", labels=["very good", "bad", "so so"])
    assert listed.head.labels == ("very good", "bad", "so so")


def test_rows_keep_their_own_choices_through_splitting_and_sampling(tmp_path: Path) -> None:
    rows = own_rows(80)
    found = load(write_lines(tmp_path / "rows.jsonl", rows), choices="choices", max_train=20)
    assert found.head.labels == ()
    assert found.counts["train"] == 20
    known = {row["text"]: row for row in rows}
    for split in found.splits.values():
        for text, own, right in zip(
            split.texts[0], row_choices(found.head, split), right_places(split), strict=True
        ):
            assert list(own) == known[text]["choices"]
            assert right == known[text]["label"]


def test_the_digest_knows_the_choices_and_the_right_one(tmp_path: Path) -> None:
    digests = set()
    for change in ({}, {"choices": ["a0", "other"]}, {"label": 1}):
        rows = own_rows(60)
        rows[0] |= change
        path = write_lines(tmp_path / "rows.jsonl", rows)
        digests.add(tuple(load(path, choices="choices", validation=str(path)).sha256.values()))
    assert len(digests) == 3


def test_a_table_has_choices_as_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "choices", "label"])
        for row in own_rows(40):
            writer.writerow([row["text"], json.dumps(row["choices"]), row["label"]])
    lines = write_lines(tmp_path / "rows.jsonl", own_rows(40))
    assert load(path, choices="choices").sha256 == load(lines, choices="choices").sha256


def test_a_conversation_keeps_its_last_question(tmp_path: Path) -> None:
    turns = ["user", "assistant", "user"]
    rows = [
        {"messages": [{"role": role, "content": f"{role} {i}"} for role in turns], "label": "ab"[i % 2]}
        for i in range(40)
    ]
    found = load(write_lines(tmp_path / "rows.jsonl", rows))
    talk = messages_of(found.splits["train"].texts[0][0])
    assert [message["role"] for message in talk] == turns


def test_the_constant_guess(tmp_path: Path) -> None:
    rows = own_rows(40)
    path = write_lines(tmp_path / "rows.jsonl", rows)
    found = load(path, choices="choices", validation=str(path), test=str(path))
    places = np.array([row["label"] for row in rows])
    assert constant_score(found) == pytest.approx(float((places == np.bincount(places).argmax()).mean()))
    labelled = [{"text": f"text {i}", "label": "yes" if i % 4 else "no"} for i in range(40)]
    path = write_lines(tmp_path / "labels.jsonl", labelled)
    assert constant_score(load(path, validation=str(path), test=str(path))) == pytest.approx(0.75)


def test_noise_gives_another_label_or_the_choices_of_another_row(tmp_path: Path) -> None:
    rows = np.array([1, 3])
    labelled = Task("t", "x", kind="choice").head(["a", "b", "c"])
    changed = CHOICE.damaged(labelled, np.zeros(4), rows, lambda row: row)
    assert (changed != 0).tolist() == [False, True, False, True]
    own = Task("t", "x", kind="choice", choices="c").head()
    assert CHOICE.damaged(own, np.arange(4.0), rows, lambda row: row).tolist() == [0, 3, 2, 1]


def test_one_label_is_nothing_to_learn(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": "yes"} for i in range(40)]
    with pytest.raises(DataError, match="all 40 rows have the label 'yes'; there is nothing to learn"):
        load(write_lines(tmp_path / "rows.jsonl", rows))


def test_weights_are_not_advised(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": "yes" if i % 20 else "no"} for i in range(80)]
    found = load(write_lines(tmp_path / "rows.jsonl", rows))
    notes = " ".join(CHOICE.notes(found.head, found.splits["train"].targets))
    assert "macro_f1 counts every class alike" in notes
    assert "class_weights" not in notes


def test_a_mistaken_field_of_labels_is_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", own_rows(40))
    with pytest.raises(DataError, match="has no field 'answer'; its fields: text, choices, label"):
        load(path, choices="choices", label="answer")
