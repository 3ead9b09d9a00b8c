"""Noise in texts: as much as was asked for, and only where."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.data.splits import content_hash
from graftwork.data.task_data import TaskData
from graftwork.errors import ConfigError
from graftwork.noise import text as text_noise
from graftwork.noise.applying import apply_to_task
from graftwork.noise.kinds import KINDS, Noise
from graftwork.noise.text import TEXT_NOISE, edit_distance
from noisy import PACKAGES, SENTENCES, need, reorder, toy_data

# The measure.


def plain_distance(first: str, second: str) -> int:
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


@given(st.text("abc ", max_size=90), st.text("abc ", max_size=90))
def test_edit_distance_equals_the_table(first: str, second: str) -> None:
    assert edit_distance(first, second) == plain_distance(first, second)


def test_edit_distance_counts_words_too() -> None:
    assert edit_distance("a nice day".split(), "a day".split()) == 1
    assert edit_distance([], ["a"]) == 1


# Texts.


@pytest.mark.parametrize("kind", TEXT_NOISE)
@pytest.mark.parametrize("ratio", [0.05, 0.15])
def test_text_noise_is_as_much_as_asked(kind: Any, ratio: float) -> None:
    need(kind)
    data = toy_data()
    noisy, report = apply_to_task(data, Noise(kind, ratio))
    assert report.realised["test"] == pytest.approx(ratio, rel=0.15)
    assert list(report.realised) == ["test"]
    before, after = data.splits["test"].texts[0], noisy.splits["test"].texts[0]
    changed = sum(a != b for a, b in zip(before, after, strict=True))
    assert changed > len(before) / 4
    if KINDS[kind].unit.startswith("CER"):
        total = sum(map(len, before))
        edits = sum(plain_distance(a, b) for a, b in zip(before, after, strict=True))
        assert report.realised["test"] == edits / total
        assert report.items["test"] == total
        assert report.words["test"] > 2 * ratio, "one wrong character makes a wrong word"
    assert noisy.splits["train"] is data.splits["train"]
    assert (noisy.splits["test"].targets == data.splits["test"].targets).all()


@pytest.mark.parametrize("kind", [*TEXT_NOISE, "labels", "row_drop"])
def test_same_seed_same_result_another_seed_another(kind: Any) -> None:
    need(kind)
    data = toy_data()
    when = "train"
    first, report = apply_to_task(data, Noise(kind, 0.2, when, 3))
    again, same = apply_to_task(data, Noise(kind, 0.2, when, 3))
    other, _ = apply_to_task(data, Noise(kind, 0.2, when, 4))
    assert first.sha256 == again.sha256
    assert report == same
    assert first.sha256["train"] != other.sha256["train"]
    assert first.sha256["train"] != data.sha256["train"]
    assert first.sha256["test"] == data.sha256["test"]


@pytest.mark.parametrize("kind", [*TEXT_NOISE, "labels", "row_drop"])
def test_the_order_of_the_rows_does_not_matter(kind: Any) -> None:
    need(kind)
    data = toy_data()
    rows = list(np.random.default_rng(0).permutation(len(SENTENCES)))

    def content(data: TaskData) -> Counter[tuple[str, float]]:
        split = data.splits["train"]
        return Counter(zip(split.texts[0], split.targets.tolist(), strict=True))

    noise = Noise(kind, 0.2, "train")
    assert content(apply_to_task(data, noise)[0]) == content(apply_to_task(reorder(data, rows), noise)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_ratio_of_zero_changes_nothing(kind: Any) -> None:
    data = toy_data()
    noisy, report = apply_to_task(data, Noise(kind, 0))
    assert noisy is data
    assert all(value == 0 for value in report.realised.values())
    need(kind)
    if kind in TEXT_NOISE:
        assert all(TEXT_NOISE[kind](text, 0.0, 1) == text for text in [*SENTENCES, "", " ", "x", " a  b\n"])


@pytest.mark.parametrize("kind", TEXT_NOISE)
@pytest.mark.parametrize("text", ["", " ", "x", "a b", "  two\twords \n", "日本語", "🙂🙂"])
def test_odd_texts_survive(kind: str, text: str) -> None:
    need(kind)
    for key in range(20):
        assert isinstance(TEXT_NOISE[kind](text, 0.5, key), str)


@pytest.mark.parametrize("kind", TEXT_NOISE)
def test_both_means_every_split_and_both_texts_of_a_pair(kind: Any) -> None:
    need(kind)
    data = toy_data(pair=True)
    noisy, report = apply_to_task(data, Noise(kind, 0.3, "both"))
    assert list(report.realised) == ["train", "validation", "test"]
    for name, split in noisy.splits.items():
        assert split.sha256 == content_hash(split.texts, split.targets, data.head.kind, data.head.labels)
        for before, after in zip(data.splits[name].texts, split.texts, strict=True):
            assert before != after
            assert len(before) == len(after)
    assert noisy.splits["train"].texts[0][0] not in noisy.splits["train"].texts[1], "texts are damaged apart"


@pytest.mark.parametrize("kind", ["ocr", "keyboard", "word_drop"])
def test_more_noise_damages_what_less_does(kind: str) -> None:
    need(kind)
    for key, text in enumerate(SENTENCES[:40]):
        little, much = (TEXT_NOISE[kind](text, ratio, key) for ratio in (0.1, 0.2))
        if kind == "word_drop":
            assert not Counter(much.split()) - Counter(little.split())
        else:
            assert all(m == x for t, x, m in zip(text, little, much, strict=True) if x != t)


def test_typos_come_from_the_tables_and_are_not_capped() -> None:
    need("keyboard")
    text = "Quiet keyboards are easier to love " * 20
    for kind, table in (("keyboard", text_noise._keyboard_table()), ("ocr", text_noise._ocr_table())):
        noisy = TEXT_NOISE[kind](text, 1.0, 0)
        assert len(noisy) == len(text)
        for a, b in zip(text, noisy, strict=True):
            assert (b in table[a]) if a in table else b == a
        assert sum(a != b for a, b in zip(text, noisy, strict=True)) > 100
        assert noisy.count(" ") == text.count(" "), "no word is torn"


def test_tables_are_those_of_nlpaug() -> None:
    pytest.importorskip("gdown")
    char = pytest.importorskip("nlpaug.augmenter.char")
    ocr, keyboard = char.OcrAug().model.model, char.KeyboardAug().model.model
    assert {key: set(values) for key, values in ocr.items()} == {
        key: set(values) for key, values in text_noise._ocr_table().items()
    }
    single = {key: {value for value in values if len(value) == 1} for key, values in keyboard.items()}
    assert {key: values - {key} for key, values in single.items()} == {
        key: set(values) for key, values in text_noise._keyboard_table().items()
    }


def test_ocr_reports_less_than_was_asked_where_its_table_ends() -> None:
    need("ocr")
    data = toy_data(["hmm yet hat win", "any paint may fit"] * 4)
    _, report = apply_to_task(data, Noise("ocr", 0.5))
    assert report.noise.ratio == 0.5
    assert report.realised == {"test": 0.0}


def test_word_drop_keeps_order_space_and_one_word() -> None:
    text = " one  two\tthree four\n"
    seen = {text_noise.drop_words(text, 0.5, key) for key in range(60)}
    assert " one  two\n" in seen
    assert " two\tthree\n" in seen
    assert all(re.fullmatch(r" (one)?(\s*two)?(\s*three)?(\s*four)?\n", result) for result in seen)
    assert {len(result.split()) for result in seen} == {2}
    assert all(len(text_noise.drop_words(text, 1.0, key).split()) == 1 for key in range(9))


def test_word_swap_moves_words_to_their_neighbours() -> None:
    seen = {text_noise.swap_words("a  b c\td", 0.5, key) for key in range(60)}
    assert seen == {"b  a c\td", "a  c b\td", "a  b d\tc"}
    assert text_noise.swap_words("a b c d", 1.0, 0) == "b a d c"
    assert text_noise.swap_words("alone", 1.0, 0) == "alone"


@pytest.mark.parametrize(("kind", "package"), PACKAGES.items())
def test_a_missing_package_is_named(kind: Any, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for table in (text_noise._ocr_table, text_noise._keyboard_table):
        table.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "textnoisr.noise", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"{kind} noise needs {package}.*pip install 'graftwork\[noise\]'"):
        apply_to_task(toy_data(), Noise(kind, 0.1))
