"""Texts that templates make: their fields, their separators as tokens, and what is refused."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from graftwork.data.asked_rows import fields_of, lacking, texts_of
from graftwork.data.splits import load_split, load_task
from graftwork.data.task import Task
from graftwork.data.tokens import encode, tokenise, tokenizer_identity
from graftwork.errors import CheckpointError, DataError, RecipeError
from graftwork.kinds.heads import TaskHead
from graftwork.models.backbone import load_backbone
from graftwork.noise.rows import damage_split
from graftwork.texts.rows import field_text
from graftwork.texts.template import fill_text, parts_of, plain_text
from toyrun import WORDS, write_backbone, write_lines

BOTH = "{title} [SEP] {body}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_backbone(str(write_backbone(tmp_path_factory.mktemp("backbone"))))[1]


def filled(template: str, **row: Any) -> str:
    return fill_text(template, row, lambda row, field: field_text(row, field, "row 1"))


def ids(tokenizer: Any, *texts: str, length: int = 16) -> list[int]:
    return list(encode(tokenizer, [[text] for text in texts], length)["input_ids"][0])


def task(**changes: Any) -> Task:
    return Task(**{"name": "t", "text": BOTH, **changes})


@pytest.mark.parametrize(
    ("value", "written"),
    [("red", "red"), (3, "3"), (3.5, "3.5"), (1e16, "1e+16"), (True, "true"), ("", ""), (-0.0, "-0.0"),
     (datetime.date(2026, 11, 28), "2026-11-28"), ("{body}", "{body}")],
)  # fmt: skip
def test_values_are_written_as_they_are(value: Any, written: str) -> None:
    assert plain_text(filled("a {{{x}}} b", x=value)) == f"a {{{written}}} b"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"body": "x"}, "row 7 of task 't' has no field 'title'; its fields: body"),
        ({"title": None, "body": "x"}, "row 7 of task 't': 'title' is None, not a text or a number"),
        ({"title": ["x"], "body": "x"}, "'title' is ['x'], not a text or a number"),
        ({"title": float("nan"), "body": "x"}, "'title' is nan, not a text or a number"),
        ({"title": 10**5000, "body": "x"}, "'title' is a int too long to print, not a text or a number"),
    ],
)
def test_a_row_that_lacks_a_field_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as refused:
        texts_of(row, 7, task().head(["a", "b"]))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_separator_parts_texts_as_in_a_pair(tokenizer: Any) -> None:
    own = ids(tokenizer, filled("{a}  [SEP]\n{b}", a="red stone", b="river"))
    assert own == [2, 4, 7, 3, 8, 3]
    assert own == ids(tokenizer, "red stone", "river")
    assert ids(tokenizer, filled("[SEP] {a} [SEP]", a="red")) == [2, 3, 4, 3, 3]
    assert ids(tokenizer, filled(BOTH, title="", body="red")) == [2, 3, 4, 3]
    assert ids(tokenizer, filled(BOTH, title="", body="")) == [2, 3, 3]
    assert parts_of("red [SEP] blue") is None


def test_without_a_separator_it_is_the_text_itself(tokenizer: Any) -> None:
    text = filled("{a} {b}", a="red", b="blue road")
    columns = encode(tokenizer, [[text, "red blue road"]], 16)
    assert all(made == plain for made, plain in columns.values())
    assert ids(tokenizer, text, length=4) == ids(tokenizer, "red blue road", length=4) == [2, 4, 5, 3]


@pytest.mark.parametrize("value", ["[SEP]", "red [SEP] [MASK]", "[CLS]", "[PAD][SEP]", "\ufdd1"])
def test_nothing_in_a_value_becomes_a_special_token(tokenizer: Any, value: str) -> None:
    found = ids(tokenizer, filled(BOTH, title=value, body=value))
    assert (found[0], found[-1]) == (2, 3)
    assert found[1:-1].count(3) == 1  # the template's own
    assert {0, 2}.isdisjoint(found[1:-1])
    pair = ids(tokenizer, filled("a {x}", x=value), filled("{x}", x=value))
    assert (pair.count(3), pair.count(2), pair.count(0)) == (2, 1, 0)
    # The next text is read as ever.
    assert ids(tokenizer, "red [SEP]") == [2, 4, 3, 3]


def test_no_text_from_outside_is_taken_for_one_of_a_template(tmp_path: Path) -> None:
    lines = [{"text": f"\ufdd0red {i}\ufdd1blue", "label": "ab"[i % 2]} for i in range(12)]
    source = str(write_lines(tmp_path / "rows.jsonl", lines))
    data = load_task(Task("t", source, source, source))
    assert all(parts_of(text) is None for text in data.splits["train"].texts[0])
    assert texts_of(lines[3], 1, data.head) == (data.splits["train"].texts[0][3],)


def test_a_cut_text_keeps_its_special_tokens(tokenizer: Any) -> None:
    text = filled(BOTH, title="red stone", body="river road lamp")
    assert ids(tokenizer, text, length=6) == [2, 4, 7, 3, 8, 3]
    tokenizer.truncation_side = "left"
    try:
        assert ids(tokenizer, text, length=6) == [2, 3, 8, 12, 13, 3]
    finally:
        tokenizer.truncation_side = "right"
    with pytest.raises(
        DataError, match="max_length is 2, which the 2 special tokens of a row fill; give more"
    ):
        ids(tokenizer, text, length=2)


def test_a_tokenizer_without_a_separator_is_refused_where_one_is_asked_for() -> None:
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plain = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?", eos_token="?")
    assert ids(plain, filled("{x} b", x="a")) == [0, 1]
    assert ids(plain, filled("{x}", x="")) == [2]  # as any text without a token
    with pytest.raises(
        DataError, match=r"has no separator token for the \[SEP\] of a template; write another"
    ):
        ids(plain, filled("{x} [SEP] b", x="a"))


def rows(folder: Path, **changes: Any) -> Task:
    for split in ("train", "validation", "test"):
        lines = [
            {"title": WORDS[i % 2], "body": f"{WORDS[i % 5]} lamp", "price": i, "label": "ab"[i % 2]}
            for i in range(12)
        ]
        write_lines(folder / "data" / f"{split}.jsonl", lines)
    return task(train=str(folder / "data"), **changes)


def test_a_task_reads_files_by_its_template(tmp_path: Path, tokenizer: Any) -> None:
    read = rows(tmp_path, text="{title} {price} [SEP] {body}")
    data = load_task(read)
    assert data.splits["train"].texts[0][3] == "\ufdd0blue 3\ufdd1stone lamp"
    head = TaskHead.from_dict(json.loads(json.dumps(data.head.as_dict())))
    assert head == data.head
    assert load_split(Task("t", train=read.train), head, "test").sha256 == {"test": data.sha256["test"]}
    assert texts_of({"title": "blue", "price": 3, "body": "stone lamp"}, 1, head) == (
        data.splits["train"].texts[0][3],
    )
    before = tokenizer_identity(tokenizer)
    tokens = tokenise([data], tokenizer, 16, tmp_path / "cache")["train"]["input_ids"]
    assert tokenizer_identity(tokenizer) == before
    assert tokens[3] == [2, 5, 1, 3, 7, 13, 3]
    # Another separator, another template, or a field with the same words: never the tokens of before.
    kept = tokenizer.sep_token
    tokenizer.sep_token = "[CLS]"
    try:
        other = tokenise([data], tokenizer, 16, tmp_path / "cache")["train"]["input_ids"]
    finally:
        tokenizer.sep_token = kept
    assert other[3] == [2, 5, 1, 2, 7, 13, 3]
    joined = load_task(rows(tmp_path, text="{title} {price} {body}"))
    assert tokenise([joined], tokenizer, 16, tmp_path / "cache")["train"]["input_ids"][3] == [
        2,
        5,
        1,
        7,
        13,
        3,
    ]


def test_a_pair_of_templates(tmp_path: Path, tokenizer: Any) -> None:
    data = load_task(rows(tmp_path, text=["{title}: {price}", "body"]))
    assert data.head.fields == ("title", "price", "body")
    tokens = tokenise([data], tokenizer, 16, None)["train"][3]
    assert tokens["input_ids"] == [2, 1, 1, 3, 7, 13, 3]


def test_rows_that_are_asked(tokenizer: Any) -> None:
    head = task(text="{title} {price}").head(["a", "b"])
    assert lacking({"title": "x"}, head) == "no field 'price'"
    assert lacking("x", head) == "1 texts, but the task reads 2 (title, price)"
    assert fields_of(("x", 3), 1, head) == {"title": "x", "price": 3}
    one = task(text="Review: {title}").head(["a", "b"])
    assert plain_text(texts_of(fields_of("fine", 1, one), 1, one)[0]) == "Review: fine"
    with pytest.raises(DataError, match=r"row 2 has 1 texts, but task 't' reads 2 \(title, price\)"):
        fields_of("x", 2, head)


def test_a_field_that_is_not_there_is_named_with_its_row(tmp_path: Path) -> None:
    read = rows(tmp_path, text="{titel} [SEP] {body}")
    with pytest.raises(DataError) as refused:
        load_task(read)
    message = str(refused.value)
    assert message.startswith("train of task 't': ")
    assert "line 1 has no field 'titel'; its fields: title, body, price, label" in message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": "{}"}, "text: '{}' is no field of a row; name one, such as {text}, and write"),
        ({"text": "{a"}, "text: expected '}' before end of string; write {{ and }} for braces of the text"),
        ({"text": "a}"}, "text: Single '}' encountered"),
        ({"text": "{{a}}"}, "text is '{{a}}' and names no field of a row"),
        ({"text": "{a.b}"}, "text: '{a.b}' is no field of a row"),
        ({"text": "{a:>3}"}, "is no field of a row"),
        ({"text": "{a}[SEP] {b}"}, "put a blank on both sides of [SEP], the separator token"),
        ({"text": "{a} {label}"}, "text has the label {label} in it, so that nothing would be left to learn"),
        ({"text": ["{a} [SEP] x", "b"]}, "text is two texts, between which the tokenizer puts its separator"),
        ({"text": ["{a}", "{a}"]}, "text and label name a field twice"),
        (
            {"text": "{a} {b}", "kind": "generation"},
            "text is a template, which for kind: generation is prompt:",
        ),
        (
            {"text": "{a} {b}", "kind": "tokens"},
            "the spans of kind: tokens count the characters of one field",
        ),
    ],
)
def test_a_template_that_is_none_is_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        task(**settings)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_saved_head_with_a_damaged_template_is_refused() -> None:
    values = task().head(["a", "b"]).as_dict()
    with pytest.raises(CheckpointError, match="the saved head of task 't' has text="):
        TaskHead.from_dict({**values, "text": ["{title"]})


@pytest.mark.parametrize("kind", ["word_drop", "word_swap"])
def test_noise_leaves_the_parts_apart(tmp_path: Path, kind: str) -> None:
    data = load_task(rows(tmp_path))
    found = damage_split(data, "train", kind, 0.5, 0)
    assert all(len(parts_of(text) or ()) == 2 for text in found.split.texts[0])
    assert found.realised > 0
