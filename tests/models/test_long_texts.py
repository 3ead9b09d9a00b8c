"""Models with templates and windows: what is predicted, asked all at once, and served, is one thing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import graftwork as gw
from graftwork.data.encoding.windows import encode_texts
from graftwork.data.tokens import encode, pad
from graftwork.kinds.answers import Answers
from graftwork.models.folder import load_model
from graftwork.models.predictor import Predictor
from graftwork.serving.asking import read_all
from graftwork.serving.engine import Engine
from graftwork.serving.limits import Limits
from graftwork.serving.service import load_tasks
from toy_served import MOOD, PAIR, PLACES, SIZE, THINGS, write_served
from toyrun import WORDS, write_backbone

LONG = " ".join(WORDS * 2)
LENGTH = 8
HEADS = [
    replace(MOOD, text=("{title} [SEP] {text}",), stride=1),
    replace(SIZE, stride=2, windows="max"),
    replace(THINGS, stride=2),
    replace(PLACES, stride=2),
    replace(PLACES, name="cut"),
    replace(MOOD, name="plain"),
    replace(PAIR, text=("{title} {price}", "text")),
    replace(PAIR, name="alone", text=("title", "{text}"), pairs="separate"),
]
NAMES = [head.name for head in HEADS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    backbone = write_backbone(folder / "backbone")
    return write_served(folder / "model", backbone, HEADS, max_length=LENGTH)


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return gw.load(folder)


def rows() -> list[dict[str, Any]]:
    texts = [LONG, "red", " ".join(WORDS[:7]), LONG[:40], ""]
    return [{"title": WORDS[i], "price": i, "text": text} for i, text in enumerate(texts)]


def numbers(answer: Any) -> Iterator[float]:
    """All numbers of an answer, in their order."""
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, list):
        for item in answer:
            yield from numbers(item)
    elif isinstance(answer, float | int):
        yield float(answer)


def same(first: Any, second: Any) -> None:
    assert list(numbers(first)) == pytest.approx(list(numbers(second)), abs=1e-5)


def test_a_row_does_not_depend_on_its_neighbours(predictor: Predictor) -> None:
    asked = [{**row, "task": task} for row in rows() for task in NAMES]
    together = predictor.predict(asked)
    for row, answer in zip(asked, together, strict=True):
        (alone,) = predictor.predict([row])
        assert {key: value for key, value in alone.items() if isinstance(value, str)} == {
            key: value for key, value in answer.items() if isinstance(value, str)
        }
        same(alone, answer)


@torch.no_grad()
def test_logits_are_pooled_over_the_windows(predictor: Predictor) -> None:
    model, tokenizer = predictor.model, predictor.tokenizer
    columns = encode(tokenizer, [[LONG]], LENGTH, 2)
    ids = torch.tensor(columns["input_ids"][0]).view(-1, LENGTH)
    assert len(ids) == len(columns["windows"][0]) == 5
    mask = torch.ones_like(ids)

    def logits(task: str) -> torch.Tensor:
        own = torch.full((len(ids),), NAMES.index(task))
        return model(ids, mask, graft_rows=own).logits[:, 0, : HEADS[NAMES.index(task)].size]

    (size,) = predictor.predict([LONG], task="size")
    assert size["score"] == pytest.approx(2 + 3 * logits("size").max().item(), abs=1e-5)
    (things,) = predictor.predict([LONG], task="things")
    expected = logits("things").mean(0).sigmoid().tolist()
    assert list(things["probabilities"].values()) == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_words_are_read_furthest_from_a_cut(predictor: Predictor) -> None:
    """Against the logits of windows that are made by hand, and a text that is read to its end."""
    model = predictor.model
    (answer,) = predictor.predict([LONG], task="places")
    assert "read_to" not in answer
    (cut,) = predictor.predict([LONG], task="cut")
    assert cut["read_to"] == len(" ".join(WORDS[: LENGTH - 2]))
    words = [4 + i % 10 for i in range(20)]
    starts = [0, 4, 8, 12, 14]
    ids = torch.tensor([[2, *words[start : start + 6], 3] for start in starts])
    own = torch.full((len(ids),), NAMES.index("places"))
    logits = model(ids, torch.ones_like(ids), graft_rows=own).logits[:, 1:, :3]
    sure, at = [], 0
    for i in range(20):
        apart = []
        for window, start in enumerate(starts):
            if start <= i < start + 6:
                left = 99 if start == 0 else i - start
                right = 99 if start == 14 else start + 5 - i
                apart.append((min(left, right), -window))
        best = -max(apart)[1]
        sure.append(logits[best, 1 + i - starts[best]].softmax(-1))
        at += 1
    spans = {span["start"]: span for span in answer["spans"]}
    tagged = [int(row.argmax()) for row in sure]
    assert any(tagged)
    place, begun = 0, set()
    for i, tag in enumerate(tagged):
        word = WORDS[i % 10]
        if tag == 1 or (tag == 2 and (i == 0 or tagged[i - 1] == 0)):
            begun.add(place)
        place += len(word) + 1
    assert set(spans) == begun


def test_short_rows_are_what_they_are_without_windows(
    folder: Path, predictor: Predictor, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "whole")
    described = json.loads((folder / "tasks.json").read_text())
    for task in described["tasks"]:
        task.pop("stride", None)
    (tmp_path / "whole/tasks.json").write_text(json.dumps(described))
    whole = gw.load(tmp_path / "whole")
    for row in ("red river", "", "stone"):
        same(predictor.predict([row], task="places"), whole.predict([row], task="places"))
    plain = {"title": "red", "text": "river road"}
    columns = encode_texts(predictor.tokenizer, [("river road",)], LENGTH, 2)
    assert columns["input_ids"] == encode(predictor.tokenizer, [["river road"]], LENGTH)["input_ids"]
    assert predictor.predict([{**plain, "task": "plain"}])


def test_all_tasks_at_once(predictor: Predictor) -> None:
    for row, found in zip(rows(), predictor.predict_all(rows()), strict=True):
        assert list(found["answers"]) == NAMES
        for task in NAMES:
            same(found["answers"][task], predictor.predict([row], task=task)[0])
    (less,) = predictor.predict_all([{"text": LONG, "title": "red"}])
    assert less["skipped"] == {"pair": "no field 'price'"}


def test_what_is_predicted_is_served(folder: Path, predictor: Predictor) -> None:
    tasks, _ = load_tasks([folder], {})
    engine = Engine(Limits())
    engine.start()
    try:
        reading = read_all(tasks, rows(), None, Answers())
        long = [question for _, question in reading.questions if question.windows > 1]
        assert all(len(question) <= LENGTH for question in long)
        read = [question.tokens for _, question in reading.questions]
        ids = [len(own["input_ids"]) + len(own.get("second_input_ids", ())) for own in read]
        assert reading.tokens == sum(ids)
        job = engine.admit(len(rows()))
        engine.put(job, reading.questions)
        served = reading.described(job.future.result(60))
    finally:
        engine.stop()
    for row, found in zip(rows(), served, strict=True):
        for task in NAMES:
            same(found[task], predictor.predict([row], task=task)[0])


def test_a_loss_of_windows_reaches_every_window(folder: Path) -> None:
    model, tokenizer = load_model(folder)
    columns = encode(tokenizer, [[LONG, "red"]], LENGTH, 2)
    batch = pad(tokenizer, [{name: values[row] for name, values in columns.items()} for row in (0, 1)])
    places = model.backbone.get_input_embeddings()
    seen: list[torch.Tensor] = []
    handle = places.register_forward_hook(lambda *call: seen.append(call[2].requires_grad_()) or seen[-1])
    tasks = torch.tensor([NAMES.index("things"), NAMES.index("plain")])
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, -100.0, -100.0]])
    outputs = model(**batch, graft_rows=tasks, labels=targets)
    handle.remove()
    assert outputs.logits.shape[0] == 2
    (gradient,) = torch.autograd.grad(outputs.loss, seen)
    assert gradient.isfinite().all()
    assert (gradient.abs().sum((1, 2)) > 0).all()


def test_what_a_task_reads_stands_in_its_folder(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert "`{title} [SEP] {text}`" in card
    assert "model.predict([{'title': 'a value of title', 'text': 'a value of text'}], task='mood')" in card
    assert "longer texts of `mood`, `size`, `things`, `places` are read in windows of 8 tokens" in card
