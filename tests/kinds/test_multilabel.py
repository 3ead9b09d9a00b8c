"""`multilabel`: reading, thresholds, scores, loss; then a whole run, mixed with other kinds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from rich.console import Console
from sklearn.metrics import f1_score

import graftwork as gw
from graftwork.cli import main
from graftwork.data.splits import load_task
from graftwork.data.task import Task
from graftwork.data.tokens import tokenise
from graftwork.errors import DataError, RecipeError
from graftwork.finished.evaluate import rescore
from graftwork.finished.extract import extract
from graftwork.fitting.fit import fit
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.linear_heads import TaskHeads
from graftwork.kinds.multilabel import best_thresholds
from graftwork.kinds.registry import KINDS
from graftwork.kinds.scores import majority_score
from graftwork.kinds.scoring.metrics import score
from graftwork.models.backbone import load_backbone
from graftwork.models.folder import load_model
from graftwork.noise.applying import apply_to_task
from graftwork.noise.kinds import Noise
from graftwork.recipe.loading import load_recipe
from toy_heads import HEADS
from toy_kinds import LABELS, things, write_things
from toyrun import recipe_dict, write_lines, write_recipe, write_run

QUIET = Console(quiet=True)
KIND = KINDS["multilabel"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`out`: things beside classes and scores."""
    folder = tmp_path_factory.mktemp("multilabel")
    write_run(folder)
    write_things(folder / "data")
    recipe = recipe_dict(folder)
    recipe["tasks"].append(things(folder))
    recipe["training"] |= {"epochs": 12, "batch_size": 8}
    fit(load_recipe(write_recipe(folder, recipe)), console=QUIET)
    return folder


def read(values: list[Any], tmp_path: Path, **settings: Any) -> Any:
    rows = [{"text": f"text {i}", "label": value} for i, value in enumerate(values)]
    path = write_lines(tmp_path / "a.jsonl", rows)
    return load_task(
        Task("t", str(path), validation=str(path), test=str(path), kind="multilabel", **settings)
    )


def test_lists_and_separated_texts_are_the_same_targets(tmp_path: Path) -> None:
    listed = read([["b", "a"], [], ["c", "c"], [1, "a"]], tmp_path)
    assert listed.head.labels == ("1", "a", "b", "c")
    assert listed.splits["train"].targets.tolist() == [
        [0, 1, 1, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 1],
        [1, 1, 0, 0],
    ]
    table = tmp_path / "a.csv"
    table.write_text("text,label\ntext 0,b| a\ntext 1,\ntext 2,c|c\ntext 3,1|a\n", encoding="utf-8")
    given = {"validation": str(table), "test": str(table)}
    parted = load_task(Task("t", str(table), **given, kind="multilabel", separator="|"))
    assert (parted.head, parted.sha256) == (listed.head, listed.sha256)


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ([["a"], "b|c"], {}, r"line 2: 'label' is 'b\|c', not a list of labels; give their separator"),
        ([["a"], None], {}, r"line 2: 'label' is None, not a list of labels; \[\] stands for none"),
        ([["a", "b"], [{}]], {}, "line 2: 'label' has a label of type dict"),
        ([["a"], ["d"]], {"labels": ("a", "b")}, r"line 2 has the label 'd' in 'label'; allowed \(given"),
        ([["a"], []], {}, "the rows have a in 'label'; a multilabel task needs two labels or more"),
        ([[], []], {}, "the rows have no label"),
        ([["a", "b"], ["b", "a"]], {}, "all 2 rows have the labels a, b; there is nothing to learn"),
        ([[f"x{i}", f"y{i}"] for i in range(20)], {}, "40 of 40 labels in 'label' are different"),
    ],
)
def test_a_bad_row_is_named(values: Any, settings: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(values, tmp_path, **settings)


def test_bad_settings_are_named() -> None:
    for settings, message in (
        ({"class_weights": "balanced"}, "a multilabel task has no class_weights"),
        ({"labels": ("a",)}, "labels has a; give two or more"),
        ({"separator": ""}, "separator is '', not a text"),
        ({"metric": "accuracy"}, "metric is 'accuracy'; allowed for multilabel: micro_f1, macro_f1"),
    ):
        with pytest.raises(RecipeError, match=message):
            Task("t", kind="multilabel", **settings)
    with pytest.raises(RecipeError, match="separator is for kind: multilabel, not classification"):
        Task("t", separator="|")


ROWS = st.tuples(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 3.0]), st.booleans())


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(st.lists(ROWS, min_size=1, max_size=12))
def test_a_threshold_has_the_best_f1_there_is(rows: list[tuple[float, bool]]) -> None:
    logits, has = (np.array(column) for column in zip(*rows, strict=True))
    (threshold,) = best_thresholds(logits[:, None], has[:, None].astype(float))
    assert 0 < threshold < 1
    if not has.any():
        assert threshold == 0.5
        return
    cut = math.log(threshold / (1 - threshold))
    best = max(f1_score(has, logits >= other) for other in logits)
    assert f1_score(has, logits >= cut) == pytest.approx(best)


def test_a_head_with_thresholds_is_read_back_and_checked() -> None:
    head = Task("t", kind="multilabel").head(LABELS, thresholds=(0.2, 0.5, 0.9))
    assert TaskHead.from_dict(json.loads(json.dumps(head.as_dict()))) == head
    assert "thresholds" not in Task("t", kind="multilabel").head(LABELS).as_dict()
    for wrong in ([0.5], [0.5, 0.5, 1.0], "x"):
        with pytest.raises(gw.errors.CheckpointError, match="saved head of task 't' has thresholds="):
            TaskHead.from_dict({**head.as_dict(), "thresholds": wrong})


def test_scores_are_those_of_scikit_learn_and_the_floor_is_the_best_constant() -> None:
    rng = np.random.default_rng(0)
    expected, predicted = rng.integers(0, 2, (50, 3)), rng.integers(0, 2, (50, 3))
    for average in ("micro", "macro"):
        assert score(f"{average}_f1", predicted, expected) == f1_score(expected, predicted, average=average)
    head = Task("t", kind="multilabel").head(LABELS)
    targets = np.array([[1.0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0]])
    assert majority_score(head, targets, targets) == pytest.approx(6 / 8)  # always the first label
    figures = KIND.figures(head, predicted, expected)
    assert figures["micro"]["f1"] == f1_score(expected, predicted, average="micro")
    assert figures["classes"]["bird"]["support"] == expected[:, 0].sum()


def test_the_loss_is_the_mean_over_the_labels_of_the_head_to_the_bit() -> None:
    torch.manual_seed(0)
    wide = Task("wide", kind="multilabel").head([f"w{i}" for i in range(5)])
    heads = TaskHeads([*HEADS, Task("t", kind="multilabel").head(LABELS), wide], 5)
    rows = torch.arange(40) % 5
    targets = torch.full((40, 5), -100.0)
    targets[:, 0] = torch.randint(0, 2, (40,))
    targets[rows == 3, :3] = torch.randint(0, 2, (8, 3)).float()
    targets[rows == 4] = torch.randint(0, 2, (8, 5)).float()
    logits = heads(torch.randn(40, 5), rows).detach().requires_grad_()
    found = heads.row_losses(logits, targets, rows)
    plain = F.binary_cross_entropy_with_logits(
        logits[rows == 3, :3], targets[rows == 3, :3], reduction="none"
    )
    assert torch.allclose(found[rows == 3], plain.mean(1))
    assert torch.equal(found[rows < 3], heads.row_losses(logits, targets[:, :1], rows)[rows < 3])
    assert torch.autograd.grad(found.sum(), logits)[0].isfinite().all()
    broken = logits.detach().clone()
    broken[3, 1] = float("nan")
    assert heads.row_losses(broken, targets, rows)[3].isnan()


def test_noise_in_labels_and_rows(folder: Path) -> None:
    data = load_task(Task("things", str(folder / "data/things"), label="things", kind="multilabel"))
    noisy, report = apply_to_task(data, Noise("labels", 0.25))
    unlike = data.splits["train"].targets != noisy.splits["train"].targets
    assert unlike.sum() == 24
    assert unlike.any(axis=1).sum() == 24
    assert report.realised["train"] == 0.25
    fewer, _ = apply_to_task(data, Noise("row_drop", 0.5))
    assert fewer.counts["train"] == 48


def test_tokens_are_cached_and_other_tasks_keep_their_columns(folder: Path, tmp_path: Path) -> None:
    _, tokenizer = load_backbone(str(folder / "backbone"))
    colour = load_task(Task("colour", str(folder / "data/colour")))
    several = load_task(Task("things", str(folder / "data/things"), label="things", kind="multilabel"))
    alone = tokenise([colour], tokenizer, 16, tmp_path)["train"]
    mixed = tokenise([colour, several], tokenizer, 16, tmp_path)["train"]
    assert alone["labels"] == [row[0] for row in mixed["labels"][:96]]
    assert mixed["labels"][96:] == several.splits["train"].targets.tolist()
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = tokenise([colour, several], tokenizer, 16, tmp_path)["train"]
    assert again["labels"] == mixed["labels"]
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_a_run_learns_it_and_serves_what_was_scored(folder: Path) -> None:
    report = json.loads((folder / "out/report.json").read_text())
    task = report["tasks"]["things"]
    assert task["test"] > 1.2 * task["majority"]
    assert task["linear_probe"] > task["majority"]
    model, _ = load_model(folder / "out")
    head = model.heads.heads[-1]
    assert len(head.thresholds) == 3
    assert rescore(folder / "out", details=True)["tasks"]["things"]["score"] == task["test"]
    assert rescore(folder / "out", split="validation")["tasks"]["things"]["score"] == task["validation"]
    rows = [json.loads(line) for line in (folder / "data/things/test.jsonl").read_text().splitlines()]
    predictor = gw.load(folder / "out")
    answers = predictor.predict([row["text"] for row in rows], task="things")
    told = np.array([[label in answer["labels"] for label in LABELS] for answer in answers])
    true = np.array([[label in row["things"] for label in LABELS] for row in rows])
    assert f1_score(true, told, average="micro") == pytest.approx(task["test"])
    for answer in answers:
        over = [
            name
            for name, cut in zip(LABELS, head.thresholds, strict=True)
            if answer["probabilities"][name] >= cut
        ]
        assert answer["labels"] == over
    short = predictor.predict(["stone stone"], task="things", top=1, digits=3)[0]
    assert list(short["probabilities"]) == ["stone"]


def test_a_rows_answer_does_not_depend_on_the_rows_beside_it(folder: Path) -> None:
    predictor = gw.load(folder / "out")
    rows = [
        {"task": "things", "text": "stone road"},
        {"task": "colour", "text": "red tree tree tree"},
        {"task": "same", "first": "lamp", "second": "lamp lamp"},
        {"task": "length", "text": "tree"},
    ]
    for row, answer in zip(rows, predictor.predict(rows), strict=True):
        alone = predictor.predict([row])[0]
        assert alone.keys() == answer.keys()
        if "probabilities" in answer:
            assert alone["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)


def test_the_commands_know_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(folder / "out"), "--per-class"]) is None
    out = capsys.readouterr().out
    assert "things: every class" in out
    assert "(micro mean)" in out
    rows = folder / "in.jsonl"
    write_lines(rows, [{"text": "stone road"}, {"text": "tree"}])
    assert main(["predict", str(folder / "out"), "--input", str(rows), "--task", "things"]) is None
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["labels"] for answer in answers] == [["road", "stone"], []]
    card = (folder / "out/README.md").read_text()
    assert "any of 3" in card


def test_extract_and_add(folder: Path) -> None:
    out, alone = folder / "out", folder / "alone"
    extract(out, "things", alone)
    text = ["stone road", "tree", "bird"]
    whole = gw.load(out).predict(text, task="things")
    for one, other in zip(gw.load(alone).predict(text), whole, strict=True):
        assert one["labels"] == other["labels"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    recipe = recipe_dict(folder)
    recipe["output"] = str(folder / "plain")
    recipe["training"]["epochs"] = 1
    del recipe["tasks"][1:]
    fit(load_recipe(write_recipe(folder, recipe, "plain.yaml")), console=QUIET)
    training = {"epochs": 6, "batch_size": 16, "learning_rate": 0.01}
    added = write_recipe(folder, {"tasks": [things(folder)], "training": training}, "add.yaml")
    report = gw.add_task(folder / "plain", added, folder / "more", console=QUIET)
    assert report["additions"][0]["older_tasks_change"] == 0
    assert report["tasks"]["things"]["test"] > report["tasks"]["things"]["majority"]
    assert rescore(folder / "more", task="things")["tasks"]["things"]["score"] == pytest.approx(
        report["tasks"]["things"]["test"]
    )


def test_rows_in_memory(folder: Path) -> None:
    """A DataFrame has lists as they are, or as arrays where it comes from a Parquet file."""
    import pandas as pd

    rows = [json.loads(line) for line in (folder / "data/things/train.jsonl").read_text().splitlines()]
    frame = pd.DataFrame(rows)
    frame["things"] = [np.array(labels) for labels in frame["things"]]
    model = gw.fit(
        model=str(folder / "backbone"),
        tasks={"things": {"train": frame, "label": "things", "kind": "multilabel"}},
        graft={"budget": "5%", "pool_size": 4},
        training={"epochs": 1, "max_length": 16},
        console=QUIET,
    )
    assert model.predict(["tree"])[0].keys() == {"task", "labels", "probabilities"}
    assert model.report["tasks"]["things"]["labels"] == list(LABELS)
