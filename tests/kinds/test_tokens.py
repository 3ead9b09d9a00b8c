"""`tokens`: how spans and tags are read, words, scores and loss; then a whole run, mixed with other kinds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from rich.console import Console

import graftwork as gw
from graftwork.cli import main
from graftwork.data.sources import read_rows
from graftwork.data.splits import load_task
from graftwork.data.targets.words import encode_words, word_notes
from graftwork.data.task import Task
from graftwork.data.tokens import collate, tokenise
from graftwork.errors import ConfigError, DataError, RecipeError
from graftwork.export.folder import export_folder
from graftwork.finished.evaluate import rescore
from graftwork.finished.extract import extract
from graftwork.fitting.fit import fit
from graftwork.kinds.linear_heads import TaskHeads
from graftwork.kinds.registry import KINDS
from graftwork.kinds.scoring import tags
from graftwork.kinds.scoring.metrics import score
from graftwork.kinds.scoring.tags import tag_words, tags_of_types, word_spans
from graftwork.models.backbone import load_backbone
from graftwork.models.folder import load_model
from graftwork.noise.applying import apply_to_task
from graftwork.noise.kinds import Noise
from graftwork.recipe.loading import load_recipe
from toy_heads import HEADS
from toy_kinds import TAGS, spans_task, write_spans
from toyrun import recipe_dict, write_backbone, write_lines, write_recipe, write_run

QUIET = Console(quiet=True)
KIND = KINDS["tokens"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`out`: spans beside classes and scores."""
    folder = tmp_path_factory.mktemp("tokens")
    write_run(folder)
    write_spans(folder / "data")
    recipe = recipe_dict(folder)
    del recipe["tasks"][1]
    recipe["tasks"].append(spans_task(folder))
    recipe["training"] |= {"epochs": 8, "batch_size": 8}
    fit(load_recipe(write_recipe(folder, recipe)), console=QUIET)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_backbone(str(write_backbone(tmp_path_factory.mktemp("backbone"))))[1]


def read(rows: list[dict[str, Any]], tmp_path: Path, **settings: Any) -> Any:
    path = str(write_lines(tmp_path / "a.jsonl", rows))
    return load_task(Task("t", path, validation=path, test=path, kind="tokens", **settings))


def span(start: int, end: int, label: str) -> dict[str, Any]:
    return {"start": start, "end": end, "label": label}


def test_spans_tags_and_conll_are_the_same_targets(tmp_path: Path) -> None:
    rows = [
        {"text": "red river road", "label": [span(4, 14, "place")]},
        {"text": "lamp stone", "label": [span(5, 10, "thing"), span(0, 4, "thing")]},
        {"text": "tree", "label": []},
    ]
    spans = read(rows, tmp_path)
    assert spans.head.labels == TAGS
    assert list(spans.splits["train"].targets) == [((4, 14, 1),), ((0, 4, 3), (5, 10, 3)), ()]
    tagged = [
        {"tokens": ["red", "river", "road"], "tags": ["O", "B-place", "I-place"]},
        {"tokens": ["lamp", "stone"], "tags": ["B-thing", "B-thing"]},
        {"tokens": ["tree"], "tags": ["O"]},
    ]
    fields = {"text": "tokens", "label": "tags"}
    other = read(tagged, tmp_path, **fields)
    assert (other.sha256, other.head.labels) == (spans.sha256, spans.head.labels)
    file = tmp_path / "a.conll"
    file.write_text(
        "-DOCSTART- -X- O\n\nred X O\nriver X B-place\nroad X I-place\n\nlamp X B-thing\n"
        "stone X B-thing\n\n\ntree X O\n"
    )
    assert read_rows(str(file)) == tagged
    file.write_text("red O\nriver\n")
    with pytest.raises(DataError, match=r"a\.conll line 2 has 1 columns, but the lines before have 2"):
        read_rows(str(file))


def test_plain_tags_are_kept_for_every_word(tmp_path: Path) -> None:
    rows = [{"tokens": ["red", "river"], "tags": ["ADJ", "NOUN"]}, {"tokens": ["lamp"], "tags": ["NOUN"]}]
    data = read(rows, tmp_path, text="tokens", label="tags", metric="token_accuracy")
    assert data.head.labels == ("ADJ", "NOUN")
    assert list(data.splits["train"].targets) == [((0, 3, 0), (4, 9, 1)), ((0, 4, 1),)]
    assert word_spans(["NOUN", "O", "NOUN"]) == [(0, 1, "NOUN"), (2, 3, "NOUN")]
    ends = [{"tokens": ["red", "river"], "tags": ["B-a", "E-a"]}]
    with pytest.raises(DataError, match="'tags' has the tag 'E-a' beside B- and I-; give IOB2"):
        read(ends, tmp_path, text="tokens", label="tags")


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"label": "x"}, {}, "line 2: 'label' is 'x', not a list of spans"),
        ({"label": [3]}, {}, "line 2: 'label' has the span 3; give {start, end, label}"),
        ({"label": [span(0, 99, "a")]}, {}, "has a span from 0 to 99, which is not within the 8 characters"),
        ({"label": [span(3, 3, "a")]}, {}, "a span from 3 to 3, which is not within"),
        ({"label": [span(0, 4, "a"), span(3, 8, "a")]}, {}, "line 2: 'label' has spans that overlap"),
        ({"label": [{"start": True, "end": 2, "label": "a"}]}, {}, "has the span"),
        ({"label": [span(0, 3, "")]}, {}, "line 2: 'label' has an empty label"),
        ({"label": [span(0, 3, "b")]}, {"labels": ("a",)}, r"line 2 has the label 'b' in 'label'; allowed"),
        ({"text": ["red"], "label": ["O", "O"]}, {}, "line 2: 'label' is 2 tags for 1 words"),
        ({"text": ["red", 3], "label": ["O", "O"]}, {}, r"line 2: the text in 'text' is \['red', 3\]"),
    ],
)
def test_a_bad_row_is_named(row: dict[str, Any], settings: Any, message: str, tmp_path: Path) -> None:
    good = {"text": "red lamp", "label": [span(0, 3, "a")]}
    with pytest.raises(DataError, match=message):
        read([good, {**good, **row}], tmp_path, **settings)


def test_bad_settings_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, message in (
        ({"class_weights": "balanced"}, "kind tokens has no class_weights"),
        ({"text": ("a", "b")}, "kind tokens reads one text, not a pair"),
        ({"metric": "accuracy"}, "allowed for tokens: entity_f1, token_accuracy"),
    ):
        with pytest.raises(RecipeError, match=message):
            Task("t", kind="tokens", **settings)
    with pytest.raises(DataError, match="no row has a span in 'label'; there is nothing to learn"):
        read([{"text": "red", "label": []}], tmp_path)
    monkeypatch.setattr(tags, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"not installed; pip install 'graftwork\[tokens\]'"):
        read([{"text": "red", "label": [span(0, 3, "a")]}], tmp_path)


WORD_LISTS = st.lists(st.sampled_from(["red", "river", "a-b", "x."]), min_size=1, max_size=8)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(words=WORD_LISTS, draw=st.data())
def test_tags_and_spans_are_two_ways_to_say_the_same(words: list[str], draw: st.DataObject) -> None:
    """Whole words: the tags of spans give the spans back."""
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    places = [(i, int(starts[i]), int(starts[i]) + len(word)) for i, word in enumerate(words)]
    spans, at = [], 0
    while at < len(words):
        size = draw.draw(st.integers(0, len(words) - at))
        if size:
            spans.append((places[at][1], places[at + size - 1][2], draw.draw(st.sampled_from([1, 3]))))
        at += max(1, size)
    found = [TAGS[tag] for tag in tag_words(spans, places, TAGS)]
    back = [(places[a][1], places[b - 1][2], TAGS.index(f"B-{name}")) for a, b, name in word_spans(found)]
    assert back == spans
    assert tags_of_types(["place", "thing"]) == TAGS


def test_entity_f1_is_that_of_nervaluate_and_of_counting_by_hand() -> None:
    from nervaluate import Evaluator

    true = [["B-a", "I-a", "O", "B-b"], ["O", "O"], ["B-a", "B-a"]]
    told = [["B-a", "I-a", "O", "B-a"], ["O", "B-b"], ["B-a", "I-a"]]
    whole = Evaluator(true, told, tags=["a", "b"], loader="list").evaluate()["overall"]["strict"]
    columns = [KIND.column([tuple(row) for row in rows]) for rows in (told, true)]  # type: ignore[attr-defined]
    assert score("entity_f1", *columns) == pytest.approx(2 * 1 / (4 + 4))
    assert score("entity_f1", *columns) == pytest.approx(whole.f1)
    assert score("token_accuracy", *columns) == 5 / 8
    head = Task("t", kind="tokens").head(tags_of_types(["a", "b"]))
    figures = KIND.figures(head, *columns)
    assert figures["classes"]["a"]["support"] == 3
    assert figures["micro"]["f1"] == pytest.approx(1 / 4)


def test_only_first_pieces_of_words_have_a_tag(tokenizer: Any, tmp_path: Path) -> None:
    columns, words = encode_words(tokenizer, ["red  river", ""], 16)
    assert words == [[(1, 0, 3), (2, 5, 10)], []]
    assert len(columns["input_ids"][1]) == 2
    rows = [{"text": "red river road", "label": [span(5, 14, "place")]}, {"text": "lamp", "label": []}]
    data = read(rows, tmp_path)
    tokens = tokenise([data], tokenizer, 5, tmp_path)["train"]
    assert tokens["labels"] == [[-100, 0, 1, 2, -100], [-100, 0, -100]]
    assert tokenise([data], tokenizer, 5, tmp_path)["train"]["labels"] == tokens["labels"]
    batch = collate(tokenizer)([tokens[0], tokens[1]])
    assert batch["labels"].shape == (2, 5)
    notes = word_notes(tokenizer, data, 4, ["train"])
    assert len(notes) == 2
    assert "1 of 2 rows are longer than 4 tokens; what is beyond, 1 spans" in notes[0]
    assert "1 spans begin or end inside a word" in notes[1]


def test_the_loss_is_the_mean_over_the_words_of_a_row(tokenizer: Any) -> None:
    torch.manual_seed(0)
    heads = TaskHeads([*HEADS, Task("t", kind="tokens").head(TAGS)], 5)
    rows = torch.arange(8) % 4
    hidden = torch.randn(8, 6, 5)
    logits = heads(hidden.mean(1), rows, hidden).detach().requires_grad_()
    assert logits.shape == (8, 7, 5)
    plain = TaskHeads(HEADS, 5)
    plain.load({name: value for name, value in heads.export().items() if not name.startswith("t.")})
    own = rows < 3
    assert torch.equal(logits[own, 0, : plain.weight.shape[1]], plain(hidden.mean(1)[own], rows[own]))
    targets = torch.full((8, 9), -100.0)
    targets[:, 0] = 0.0
    targets[rows == 3] = -100.0
    targets[3, 1:4] = torch.tensor([0.0, 1.0, 2.0])
    found = heads.row_losses(logits, targets, rows)
    expected = F.cross_entropy(logits[3, 2:5], torch.tensor([0, 1, 2]))
    assert found[3].item() == pytest.approx(expected.item())
    assert found[7] == 0
    as_rows = plain.row_losses(logits[own, 0, : plain.weight.shape[1]], targets[own, 0], rows[own])
    assert torch.equal(found[own], as_rows)
    assert torch.autograd.grad(found.sum(), logits)[0].isfinite().all()


def test_noise(folder: Path) -> None:
    data = load_task(Task("spans", str(folder / "data/spans"), label="spans", kind="tokens"))
    noisy, report = apply_to_task(data, Noise("labels", 0.25))
    assert 0 < report.realised["train"] <= 0.25
    assert noisy.sha256["train"] != data.sha256["train"]
    with pytest.raises(ConfigError, match="word_drop noise would move the spans of task 'spans'"):
        apply_to_task(data, Noise("word_drop", 0.1))


def test_a_run_learns_it_and_serves_what_was_scored(folder: Path) -> None:
    report = json.loads((folder / "out/report.json").read_text())
    task = report["tasks"]["spans"]
    assert task["majority"] == 0
    assert task["linear_probe"] > 0.5
    assert task["test"] > 0.5
    assert rescore(folder / "out", details=True)["tasks"]["spans"]["score"] == pytest.approx(task["test"])
    rows = [json.loads(line) for line in (folder / "data/spans/test.jsonl").read_text().splitlines()]
    answers = gw.load(folder / "out").predict([row["text"] for row in rows], task="spans")
    right = given = true = 0
    for row, answer in zip(rows, answers, strict=True):
        told = {(part["start"], part["end"], part["label"]) for part in answer["spans"]}
        own = {(part["start"], part["end"], part["label"]) for part in row["spans"]}
        right, given, true = right + len(told & own), given + len(told), true + len(own)
        assert all(part["text"] == row["text"][part["start"] : part["end"]] for part in answer["spans"])
        assert all(0 < part["probability"] <= 1 for part in answer["spans"])
    assert 2 * right / (given + true) == pytest.approx(task["test"])


def test_rows_of_all_kinds_in_one_batch_do_not_depend_on_each_other(folder: Path) -> None:
    predictor = gw.load(folder / "out")
    rows: list[dict[str, Any]] = [
        {"task": "spans", "text": "red river stone lamp"},
        {"task": "colour", "text": "red tree tree tree tree tree"},
        {"task": "length", "text": "tree"},
        {"task": "spans", "text": ["red", "river"]},
        {"task": "spans", "text": ""},
        {"task": "spans", "text": " ".join(["river"] * 40)},
    ]
    together = predictor.predict(rows)
    for row, answer in zip(rows, together, strict=True):
        alone = predictor.predict([row])[0]
        assert alone.keys() == answer.keys()
        for one, other in zip(alone.get("spans", []), answer.get("spans", []), strict=True):
            assert one == {**other, "probability": pytest.approx(other["probability"], abs=1e-5)}
    assert together[4]["spans"] == []
    assert together[5]["read_to"] == 14 * 6 - 1
    with pytest.raises(DataError, match=r"row 1: field 'text' is \[3\], not a text"):
        predictor.predict([{"task": "spans", "text": [3]}])


def test_all_tasks_in_one_pass_say_what_each_says_alone(folder: Path) -> None:
    predictor = gw.load(folder / "out")
    texts = ["red river stone lamp", "tree", "road road blue " + "river " * 9]
    for text, row in zip(texts, predictor.predict_all(texts), strict=True):
        assert {"spans", "colour", "length"} <= row["answers"].keys()
        for task, answer in row["answers"].items():
            alone = predictor.predict([text], task=task)[0]
            assert answer.keys() == alone.keys()
            if task == "spans":
                assert len(answer["spans"]) == len(alone["spans"])
                for one, other in zip(answer["spans"], alone["spans"], strict=True):
                    assert one == {**other, "probability": pytest.approx(other["probability"], abs=1e-5)}
            elif "label" in answer:
                assert answer["label"] == alone["label"]
                assert answer["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)
            else:
                assert answer["score"] == pytest.approx(alone["score"], abs=1e-4)


def test_all_tasks_as_one_onnx_file(folder: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    described = export_folder(folder / "out", folder / "onnx", format="onnx", all_tasks=True)
    session = onnxruntime.InferenceSession(str(folder / "onnx/model.onnx"))
    model, tokenizer = load_model(folder / "out")
    batch = tokenizer(["red river stone lamp road", "tree"], padding=True, return_tensors="pt")
    inputs = {name: batch[name] for name in described["inputs"]}
    names = [task["output"] for task in described["tasks"]]
    found = session.run(names, {name: value.numpy() for name, value in inputs.items()})
    for index, head in enumerate(model.heads.heads):
        with torch.no_grad():
            logits = model(**inputs, graft_rows=torch.tensor([index, index])).logits
        own = logits[:, 1:] if head.name == "spans" else logits[:, 0]
        assert np.allclose(found[index], own[..., : head.size], atol=1e-4)


def test_the_commands_and_the_card_know_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(folder / "out"), "--per-class"]) is None
    out = capsys.readouterr().out
    assert "spans: every class" in out
    assert "token_accuracy" in out
    rows = write_lines(folder / "in.jsonl", [{"text": "tree stone"}])
    assert main(["predict", str(folder / "out"), "--input", str(rows), "--task", "spans"]) is None
    answer = json.loads(capsys.readouterr().out)
    assert answer["task"] == "spans"
    assert all(part["end"] <= 10 for part in answer["spans"])
    assert "every word one of 5" in (folder / "out/README.md").read_text()


def test_extract_add_and_export(folder: Path) -> None:
    out, alone, text = folder / "out", folder / "alone", ["red river stone", "tree"]
    extract(out, "spans", alone)
    whole = gw.load(out).predict(text, task="spans")
    for one, other in zip(gw.load(alone).predict(text), whole, strict=True):
        assert [part["start"] for part in one["spans"]] == [part["start"] for part in other["spans"]]
    recipe = recipe_dict(folder)
    recipe["output"] = str(folder / "plain")
    recipe["training"]["epochs"] = 1
    del recipe["tasks"][1:]
    fit(load_recipe(write_recipe(folder, recipe, "plain.yaml")), console=QUIET)
    training = {"epochs": 6, "batch_size": 8, "learning_rate": 0.01}
    added = write_recipe(folder, {"tasks": [spans_task(folder)], "training": training}, "add.yaml")
    report = gw.add_task(folder / "plain", added, folder / "more", console=QUIET)
    assert report["additions"][0]["older_tasks_change"] == 0
    assert report["tasks"]["spans"]["test"] > 0.3
    described = export_folder(out, folder / "program", format="pt2")
    assert described["tasks"][2]["labels"] == list(TAGS)
    program = torch.export.load(folder / "program/model.pt2").module()
    model, tokenizer = load_model(out)
    batch = tokenizer(text, padding=True, return_tensors="pt")
    inputs = {name: batch[name] for name in described["inputs"] if name != "graft_rows"}
    rows = torch.tensor([2, 2])
    with torch.no_grad():
        assert torch.allclose(
            program(**inputs, graft_rows=rows), model(**inputs, graft_rows=rows).logits, atol=1e-5
        )


def test_a_saved_head_has_its_tags() -> None:
    head = Task("t", kind="tokens").head(TAGS)
    assert dataclasses.replace(head) == type(head).from_dict(json.loads(json.dumps(head.as_dict())))
    assert head.size == 5
