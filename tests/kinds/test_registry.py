"""Every kind is complete, and another one needs no change elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from graftwork.data.splits import load_task
from graftwork.data.task import Task
from graftwork.kinds.answers import Answers
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.kind import Column, Head, Metric
from graftwork.kinds.linear_heads import TaskHeads
from graftwork.kinds.losses import LOSSES
from graftwork.kinds.registry import KINDS, KindName
from graftwork.kinds.regression import Regression
from graftwork.kinds.scores import majority_score, per_task_scores
from graftwork.kinds.scoring.metrics import score
from graftwork.texts.scores import _PACKAGES, METRICS, _there
from toy_heads import HEADS

TAGS = KINDS["tokens"].column([("O", "B-a", "I-a"), ("B-b",)])


def test_every_kind_has_a_name_a_loss_and_metrics_that_are_known() -> None:
    assert list(KINDS) == list(get_args(KindName)) == list(LOSSES)
    for name, kind in KINDS.items():
        assert kind.name == name
        assert set(kind.metrics) <= set(get_args(Metric))
        for metric in kind.metrics:
            values = {"tokens": TAGS, "retrieval": np.ones(4)}.get(name, np.arange(4))
            if metric == "likelihood":  # of losses, not of what is right
                assert score(metric, np.full(4, math.log(2)), np.arange(4)) == pytest.approx(0.5)
            elif name == "generation":
                if metric not in _PACKAGES or _there(metric):
                    assert METRICS[metric](
                        ["red lamp 3 on it"] * 2, [["red lamp 3 on it"]] * 2
                    ) == pytest.approx(1)
            else:
                assert score(metric, values, values) == 1.0
        labels = () if name in ("regression", "retrieval", "generation") else ("a", "b", "c")
        head = TaskHead("t", ("text",), "label", name, kind.metrics[0], labels)  # type: ignore[arg-type]
        assert kind.predicted(np.zeros((2, head.size), np.float32)).dtype == kind.dtype


def test_the_loss_of_a_mixed_batch_is_that_of_every_kind_to_the_bit() -> None:
    torch.manual_seed(0)
    heads = TaskHeads(HEADS, 5)
    rows, labels = torch.arange(60) % 3, torch.randint(0, 2, (60,)).float()
    for chosen in (rows, rows * 0, rows * 0 + 1):
        logits = heads(torch.randn(60, 5), chosen).detach().requires_grad_()
        numeric = chosen == 1
        entropy = F.cross_entropy(logits, labels.long().masked_fill(numeric, 0), reduction="none")
        expected = torch.where(numeric, (logits[:, 0] - labels) ** 2, entropy)
        found = heads.row_losses(logits, labels, chosen)
        assert torch.equal(found, expected)
        gradients = [torch.autograd.grad(loss.mean(), logits)[0] for loss in (found, expected)]
        assert torch.equal(*gradients)


class Counts(Regression):
    """Numbers from 0 on, learned as their logarithms."""

    name = "counts"
    metrics = ("pearson",)
    several = "different counts"
    answers = ("count",)

    def targets(
        self, values: Sequence[Any], labels: Sequence[str], column: Column, origin: str
    ) -> np.ndarray:
        return np.log1p(super().targets(values, labels, column, origin))

    def answer(
        self, head: Head, outputs: Sequence[float], top: int | None, digits: int | None
    ) -> Mapping[str, Any]:
        return {"count": round(math.expm1(outputs[0] * head.std + head.mean))}


def test_another_kind_needs_its_class_and_its_loss_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "counts", Counts())
    monkeypatch.setitem(LOSSES, "counts", lambda logits, targets, *_: (logits[:, 0] - targets).abs())
    rows = [{"text": f"text {i}", "label": i} for i in range(60)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = Task("many", str(tmp_path / "train.jsonl"), kind="counts")  # type: ignore[arg-type]
    data = load_task(task)
    assert (data.head.metric, data.head.size, data.head.labels) == ("pearson", 1, ())
    assert data.head.mean == pytest.approx(data.splits["train"].targets.mean())
    assert TaskHead.from_dict(json.loads(json.dumps(data.head.as_dict()))) == data.head
    heads = TaskHeads((*HEADS, data.head), 5)
    chosen, labels = torch.tensor([0, 1, 3, 3]), torch.tensor([1.0, 0.5, 0.25, -1.0])
    logits = heads(torch.randn(4, 5), chosen)
    assert torch.equal(heads.row_losses(logits, labels, chosen)[2:], (logits[2:, 0] - labels[2:]).abs())
    split = data.splits["test"]
    learned = ((split.targets - data.head.mean) / data.head.std)[:, None]
    assert per_task_scores(learned, learned[:, 0], np.zeros(len(split)), [data.head]) == {
        "many": pytest.approx(1.0)
    }
    assert majority_score(data.head, split.targets, split.targets) == 0.0
    assert Answers().describe(data.head, [float(learned[0, 0])]) == {
        "task": "many",
        "count": round(math.expm1(split.targets[0])),
    }
