"""Windows of long texts: their tokens, their batches, and the rows that come of their outputs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.data.encoding.framing import Frame
from graftwork.data.encoding.notes import length_notes
from graftwork.data.encoding.windows import cut_windows, in_batches
from graftwork.data.splits import load_task
from graftwork.data.targets.words import encode_words, word_notes
from graftwork.data.task import Task
from graftwork.data.tokens import collate, encode, pad, row_lengths, tokenise
from graftwork.errors import DataError, RecipeError
from graftwork.models.backbone import load_backbone
from graftwork.models.pooling import embed, pool_windows
from graftwork.texts.rows import field_text
from graftwork.texts.template import fill_text
from toyrun import write_backbone, write_lines

LONG = "red blue green stone river cloud tree bird road lamp"  # tokens 4 to 13


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_backbone(str(write_backbone(tmp_path_factory.mktemp("backbone"))))


@pytest.fixture(scope="module")
def tokenizer(loaded: Any) -> Any:
    return loaded[1]


def split(columns: dict[str, Any], row: int = 0, name: str = "input_ids") -> list[list[int]]:
    values, found = list(columns[name][row]), []
    for length in columns["windows"][row]:
        found.append(values[:length])
        values = values[length:]
    assert not values
    return found


def test_windows_share_tokens_and_the_last_is_as_long_as_the_others(tokenizer: Any) -> None:
    columns = encode(tokenizer, [[LONG, "red", ""]], 7, 2)
    assert split(columns) == [[2, 4, 5, 6, 7, 8, 3], [2, 7, 8, 9, 10, 11, 3], [2, 9, 10, 11, 12, 13, 3]]
    assert split(columns, 1) == [[2, 4, 3]]
    assert split(columns, 2) == [[2, 3]]
    assert split(columns, 0, "attention_mask") == [[1] * 7] * 3
    # The first is what a cut text would be, and short texts are what they were.
    plain = encode(tokenizer, [[LONG, "red", ""]], 7)
    assert [split(columns, row)[0] for row in range(3)] == plain["input_ids"]


def test_they_are_those_of_the_tokenizer_itself_but_for_the_last(tokenizer: Any) -> None:
    for stride in range(3):
        own = split(encode(tokenizer, [[LONG]], 7, stride))
        theirs = tokenizer(
            LONG, truncation=True, max_length=7, stride=stride, return_overflowing_tokens=True
        )["input_ids"]
        assert own[:-1] == theirs[:-1]
        assert own[-1][-len(theirs[-1]) + 1 :] == theirs[-1][1:]


def test_what_stands_before_the_last_separator_is_in_every_window(tokenizer: Any) -> None:
    read = lambda row, field: field_text(row, field, "row 1")  # noqa: E731
    text = fill_text("{a} [SEP] {b}", {"a": "lamp", "b": LONG}, read)
    assert split(encode(tokenizer, [[text]], 9, 1)) == [
        [2, 13, 3, 4, 5, 6, 7, 8, 3], [2, 13, 3, 8, 9, 10, 11, 12, 3], [2, 13, 3, 9, 10, 11, 12, 13, 3]
    ]  # fmt: skip
    # More than half of a window would be too much: then all tokens go into windows, and none is lost.
    text = fill_text("{a} [SEP] {b}", {"a": "lamp " * 4, "b": LONG}, read)
    found = split(encode(tokenizer, [[text]], 9, 0))
    assert found[0] == [2, 13, 13, 13, 13, 3, 4, 5, 3]
    assert found[-1] == [2, 7, 8, 9, 10, 11, 12, 13, 3]


@pytest.mark.parametrize(("length", "stride"), [(7, 3), (6, 2), (7, 99)])
def test_windows_that_would_share_half_are_refused(tokenizer: Any, length: int, stride: int) -> None:
    with pytest.raises(
        DataError, match=rf"stride is {stride}, but windows of {length} tokens .* at most; give"
    ):
        encode(tokenizer, [[LONG]], length, stride)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 90), st.integers(1, 12), st.integers(0, 5), st.integers(0, 2), st.integers(0, 2))
def test_every_token_is_read_where_it_stands_furthest_from_a_cut(
    tokens: int, room: int, stride: int, starts: int, ends: int
) -> None:
    stride = min(stride, (room - 1) // 2)
    frame = Frame({"input_ids": [-1] * starts}, {"input_ids": [-2] * ends}, {})
    row = frame.around(range(tokens))
    cut = cut_windows(row, frame, room + starts + ends, stride, placed=True)
    places = cut["places"]
    assert [cut["input_ids"][place] for place in places] == row["input_ids"]
    windows, at = [], 0
    for length in cut["windows"]:
        windows.append(range(at + starts, at + length - ends))
        at += length
    assert at == len(cut["input_ids"])
    for token, place in zip(range(tokens), places[starts:], strict=False):
        ranks = []
        for window in windows:
            held = [cut["input_ids"][p] for p in window]
            if token in held:
                left = held.index(token) if held[0] > 0 else 999
                right = len(held) - 1 - held.index(token) if held[-1] < tokens - 1 else 999
                ranks.append((min(left, right), -window.start, window.start + held.index(token)))
        assert place == max(ranks)[2]
    for one, other in pairwise(windows):
        shared = {cut["input_ids"][p] for p in one} & {cut["input_ids"][p] for p in other}
        assert len(shared) >= stride


def test_pooling_of_rows_with_and_without_windows() -> None:
    logits = torch.tensor(
        [[1.0, 2.0, -torch.inf], [3.0, 0.0, -torch.inf], [5.0, 6.0, 7.0]], requires_grad=True
    )
    windows = torch.tensor([[0, 1], [2, -1]])
    mean = pool_windows(logits, windows)
    assert mean.tolist() == [[2.0, 1.0, -torch.inf], [5.0, 6.0, 7.0]]
    largest = pool_windows(logits, windows, largest=torch.tensor([[True], [True]]))
    assert largest.tolist() == [[3.0, 2.0, -torch.inf], [5.0, 6.0, 7.0]]
    mean[:, :2].sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [1.0, 1.0, 0.0]]


def test_a_batch_says_which_windows_and_tokens_are_of_a_row(tokenizer: Any) -> None:
    columns, words = encode_words(tokenizer, ["lamp", LONG], 7, 2)
    features = [{name: values[row] for name, values in columns.items()} for row in (0, 1)]
    batch = pad(tokenizer, features)
    assert batch["input_ids"].shape == (4, 7)
    assert batch["windows"].tolist() == [[0, -1, -1], [1, 2, 3]]
    flat = batch["input_ids"].flatten()
    assert flat[batch["places"][1]].tolist() == [2, *range(4, 14), 3]
    assert flat[batch["places"][0][:3]].tolist() == [2, 13, 3]
    assert (batch["places"][0][3:] == -1).all()
    assert [word[0] for word in words[1]] == list(range(1, 11))
    # Where no row has windows, nothing is said of them.
    assert "windows" not in pad(tokenizer, features[:1])


def test_batches_have_so_many_windows() -> None:
    assert list(in_batches([1, 0, 2, 3], [2, 3, 9, 1], 3)) == [[1], [0], [2], [3]]
    assert list(in_batches([0, 1, 2], [1, 1, 1], 2)) == [[0, 1], [2]]


def rows(folder: Path, **changes: Any) -> Task:
    for name in ("train", "validation", "test"):
        lines = [{"text": LONG if i % 3 == 0 else "red", "label": "ab"[i % 2]} for i in range(12)]
        write_lines(folder / "data" / f"{name}.jsonl", lines)
    return Task("t", str(folder / "data"), **{"stride": 2, **changes})


def test_tables_and_notes(tmp_path: Path, tokenizer: Any) -> None:
    datas = [load_task(rows(tmp_path, stride=stride)) for stride in (2, None)]
    tokens = tokenise(datas, tokenizer, 7, tmp_path / "cache")
    assert tokenise(datas, tokenizer, 7, tmp_path / "cache")["train"]["windows"] == tokens["train"]["windows"]
    assert tokens["train"]["windows"][0] == [7, 7, 7]
    assert tokens["train"]["windows"][12] == [7]
    assert row_lengths(tokens["train"])[0] == 21
    assert length_notes([data.head for data in datas], tokens, 7) == [
        "task 't': longer than 7 tokens are 4 of 12 train rows (12 windows), 4 of 12 validation rows "
        "(12 windows), 4 of 12 test rows (12 windows)",
        "task 't': 4 of 12 train rows, 4 of 12 validation rows, 4 of 12 test rows fill all 7 tokens, and "
        "what is beyond is cut; raise training.max_length, or read it in windows (stride of the task)",
    ]
    # A cache of other windows, or of none, is another.
    one = tokenise(datas[:1], tokenizer, 7, tmp_path / "cache")["train"]
    other = tokenise([load_task(rows(tmp_path, stride=0))], tokenizer, 7, tmp_path / "cache")["train"]
    assert one["windows"] != other["windows"]
    assert "windows" not in tokenise(datas[1:], tokenizer, 7, tmp_path / "cache")["train"].column_names
    batch = collate(tokenizer)([tokens["train"][i] for i in (0, 1, 12)])
    assert batch["labels"].shape == batch["graft_rows"].shape == (3,)
    assert batch["input_ids"].shape == (5, 7)


def test_tags_are_those_of_the_whole_text(tmp_path: Path, tokenizer: Any) -> None:
    spans = [
        {"start": 0, "end": 3, "label": "x"},
        {"start": LONG.index("lamp"), "end": len(LONG), "label": "x"},
    ]
    lines = [{"text": LONG, "label": spans}, {"text": "red", "label": []}] * 4
    write_lines(tmp_path / "rows.jsonl", lines)
    source = str(tmp_path / "rows.jsonl")
    data = load_task(Task("t", source, source, source, kind="tokens", stride=2))
    tokens = tokenise([data], tokenizer, 7, None)["train"]
    assert tokens["labels"][0] == [-100, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, -100]
    assert tokens["places"][1] == [0, 1, 2]
    assert word_notes(tokenizer, data, 7) == []


def test_vectors_of_frozen_backbones_are_pooled_and_stitched(loaded: Any) -> None:
    backbone, tokenizer = loaded
    texts = [LONG, "red"]
    found = embed(backbone, tokenizer, texts, 7, stride=2)
    pieces = [[4, 5, 6, 7, 8], [7, 8, 9, 10, 11], [9, 10, 11, 12, 13]]
    batch = torch.tensor([[2, *ids, 3] for ids in pieces])
    with torch.no_grad():
        hidden = backbone.eval()(batch).last_hidden_state
    assert torch.allclose(torch.tensor(found[0]), hidden.mean((0, 1)), atol=1e-5)
    assert torch.allclose(
        torch.tensor(found[1:]), torch.tensor(embed(backbone, tokenizer, ["red"], 7)), atol=1e-5
    )
    vectors, words = embed(backbone, tokenizer, texts, 7, words=True, stride=2)[0]
    assert len(words) == len(vectors) == 10
    assert torch.allclose(torch.tensor(vectors[4]), hidden[1, 2], atol=1e-5)  # in the middle of two windows


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": -1}, "stride is -1, not a whole number of tokens of at least 0"),
        ({"stride": True}, "stride is True, not a whole number"),
        ({"stride": 1.5}, "stride is 1.5, not a whole number"),
        ({"windows": "max"}, "windows says how windows are pooled; set stride, too"),
        ({"stride": 1, "windows": "median"}, "windows is 'median'; allowed: mean, max"),
        ({"stride": 1, "image": "photo"}, "stride is for texts; an image has no windows"),
        ({"stride": 1, "kind": "generation"}, "stride is for tasks with a head, not for kind: generation"),
        ({"stride": 1, "kind": "tokens", "windows": "max"}, "windows is not for kind: tokens"),
        ({"stride": 1, "text": ("a", "b")}, "write both as one template, such as text: '{a} [SEP] {b}'"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        Task("t", **settings)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_settings_are_left_out_of_files_unless_they_are_used() -> None:
    assert {"stride", "windows"}.isdisjoint(Task("t").as_dict())
    assert {"stride", "windows"}.isdisjoint(Task("t").head(["a", "b"]).as_dict())
    head = Task("t", stride=0, windows="max").head(["a", "b"])
    assert (head.as_dict()["stride"], head.as_dict()["windows"]) == (0, "max")


def test_windows_stand_beside_no_task_that_a_language_model_answers(tmp_path: Path, tokenizer: Any) -> None:
    write_lines(tmp_path / "told.jsonl", [{"text": f"red {i}", "target": "blue"} for i in range(20)])
    written = load_task(Task("told", str(tmp_path / "told.jsonl"), kind="generation"))
    with pytest.raises(
        DataError, match="task 't' has stride, but beside task 'told', which a language model"
    ):
        tokenise([load_task(rows(tmp_path)), written], tokenizer, 7, None)
