"""Rows to damage: the sentences of the licence."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from graftwork.data.splits import content_hash
from graftwork.data.task import Task
from graftwork.data.task_data import Split, TaskData

LICENSE = Path(__file__).parents[1] / "LICENSE"
SENTENCES = [
    " ".join(part.split())
    for part in re.split(r"(?<=[.;:,)])\s+", LICENSE.read_text(encoding="utf-8"))
    if len(part.split()) > 3
]
PACKAGES = {"characters": "textnoisr", "ocr": "nlpaug", "keyboard": "nlpaug"}


def need(kind: str) -> None:
    package = PACKAGES.get(kind)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (pip install 'graftwork[noise]')")


def toy_data(
    texts: list[str] | None = None, *, pair: bool = False, scores: bool = False, classes: int = 3
) -> TaskData:
    texts = SENTENCES if texts is None else texts
    names = () if scores else tuple(f"class {i}" for i in range(classes))
    task = Task(
        "toy", text=("one", "two") if pair else "text", kind="regression" if scores else "classification"
    )
    splits = {}
    for name, start in (("train", 0), ("validation", 1), ("test", 2)):
        rows = texts[start:] + texts[:start]
        columns = (rows, rows[::-1]) if pair else (rows,)
        targets = np.arange(len(rows)) / 7 if scores else np.arange(len(rows), dtype=np.float64) % classes
        splits[name] = Split(columns, targets, content_hash(columns, targets, task.kind, names))
    train = splits["train"].targets
    head = task.head(mean=float(train.mean()), std=float(train.std())) if scores else task.head(names)
    return TaskData(head, splits)


def reorder(data: TaskData, rows: list[int]) -> TaskData:
    splits = {}
    for name, split in data.splits.items():
        texts = tuple([column[i] for i in rows] for column in split.texts)
        splits[name] = Split(
            texts,
            split.targets[rows],
            content_hash(texts, split.targets[rows], data.head.kind, data.head.labels),
        )
    return TaskData(data.head, splits)
