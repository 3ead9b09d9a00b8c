from __future__ import annotations

import copy
import importlib.util
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model
from torch import Tensor, nn
from transformers import BertConfig, BertModel, T5Config, T5Model

import graftwork as gw
from graftwork import text_noise
from graftwork.errors import ConfigError, DataError, StructureError
from graftwork.model_noise import embedding_noise, path_noise, weight_noise
from graftwork.noise import KINDS, Noise, NoiseReport, apply_to_task, model_noise
from graftwork.splits import Split, TaskData, _sha256
from graftwork.structure import SiteStructure
from graftwork.tasks import Task
from graftwork.text_noise import TEXT_NOISE, edit_distance

LICENSE = Path(__file__).parents[1] / "LICENSE"
SENTENCES = [
    " ".join(part.split())
    for part in re.split(r"(?<=[.;:,)])\s+", LICENSE.read_text(encoding="utf-8"))
    if len(part.split()) > 3
]
PACKAGES = {"characters": "textnoisr", "ocr": "nlpaug", "keyboard": "nlpaug"}
TASKS = ("a", "b", "c")


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
        splits[name] = Split(columns, targets, _sha256(columns, targets, names))
    train = splits["train"].targets
    head = task.head(mean=float(train.mean()), std=float(train.std())) if scores else task.head(names)
    return TaskData(head, splits)


def reorder(data: TaskData, rows: list[int]) -> TaskData:
    splits = {}
    for name, split in data.splits.items():
        texts = tuple([column[i] for i in rows] for column in split.texts)
        splits[name] = Split(
            texts, split.targets[rows], _sha256(texts, split.targets[rows], data.head.labels)
        )
    return TaskData(data.head, splits)


# The settings.


@pytest.mark.parametrize(
    ("kind", "when"), [("labels", "train"), ("row_drop", "train"), ("keyboard", "test"), ("weights", "test")]
)
def test_noise_knows_when_it_is_usual(kind: Any, when: str) -> None:
    assert Noise(kind, 0.1).when == when


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"kind": "keybord", "ratio": 0.1},
            r"unknown noise 'keybord'; did you mean 'keyboard'\? allowed: char",
        ),
        (
            {"kind": "ocr", "ratio": 1.2},
            r"ocr noise: ratio=1.2 must be a number of at least 0 and at most 1, in CER",
        ),
        ({"kind": "characters", "ratio": 0.6}, "at most 0.5, in CER"),
        ({"kind": "embeddings", "ratio": -1}, "ratio=-1 must be a number of at least 0, in noise RMS"),
        ({"kind": "embeddings", "ratio": float("nan")}, "ratio=nan must be a number"),
        ({"kind": "ocr", "ratio": "much"}, "ratio='much' must be a number"),
        ({"kind": "labels", "ratio": 0.1, "when": "test"}, "labels noise: when='test' must be 'train'"),
        ({"kind": "weights", "ratio": 0.1, "when": "both"}, "when='both' must be 'test'"),
        ({"kind": "ocr", "ratio": 0.1, "when": "now"}, "when='now' must be 'test' or 'train' or 'both'"),
        ({"kind": "ocr", "ratio": 2, "seed": -1}, r"ratio=2 .*; seed=-1 must be a whole number"),
    ],
)
def test_wrong_settings_are_one_clear_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        Noise(**arguments)
    assert "\n" not in str(error.value)


def test_every_kind_is_either_in_data_or_in_a_model_and_has_a_unit() -> None:
    for kind, facts in KINDS.items():
        noise = Noise(kind, 0.0)  # type: ignore[arg-type]
        assert noise.unit
        assert noise.target == facts.target
        assert (noise.target == "text") == (kind in TEXT_NOISE)


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
        assert split.sha256 == _sha256(split.texts, split.targets, data.head.labels)
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


# Labels and rows.


@pytest.mark.parametrize("classes", [2, 5])
def test_label_noise_gives_another_class(classes: int) -> None:
    data = toy_data([f"{i} {text}" for text in SENTENCES for i in range(5)], classes=classes)
    noisy, report = apply_to_task(data, Noise("labels", 0.2))
    before, after = data.splits["train"].targets, noisy.splits["train"].targets
    assert report.realised["train"] == (before != after).mean() == pytest.approx(0.2, abs=1 / len(before))
    assert set(after) == set(range(classes))
    steps = Counter(((after - before) % classes)[before != after].tolist())
    assert min(steps.values()) > 0.7 * max(steps.values())
    assert len(steps) == classes - 1
    assert noisy.splits["train"].texts == data.splits["train"].texts
    assert noisy.splits["train"].sha256 == _sha256(data.splits["train"].texts, after, data.head.labels)


def test_label_noise_permutes_scores() -> None:
    data = toy_data(scores=True)
    noisy, report = apply_to_task(data, Noise("labels", 0.3))
    before, after = data.splits["train"].targets, noisy.splits["train"].targets
    assert sorted(before) == sorted(after)
    assert report.realised["train"] == (before != after).mean() == pytest.approx(0.3, abs=1 / len(before))
    assert noisy.head == data.head


def test_label_noise_reaches_equal_rows() -> None:
    data = toy_data(["the same"] * 60)
    _, report = apply_to_task(data, Noise("labels", 0.25))
    assert report.realised["train"] == 0.25


@pytest.mark.parametrize("kind", ["labels", "row_drop"])
def test_more_noise_hits_the_rows_that_less_does(kind: Any) -> None:
    data = toy_data()
    little, much = (apply_to_task(data, Noise(kind, ratio))[0].splits["train"] for ratio in (0.1, 0.4))
    if kind == "row_drop":
        assert set(much.texts[0]) < set(little.texts[0])
    else:
        hit = little.targets != data.splits["train"].targets
        assert (much.targets[hit] == little.targets[hit]).all()


def test_row_drop_thins_the_training_rows() -> None:
    data = toy_data(pair=True)
    noisy, report = apply_to_task(data, Noise("row_drop", 0.75))
    rows = len(data.splits["train"])
    left = noisy.splits["train"]
    assert len(left) == rows - round(0.75 * rows)
    assert report.realised["train"] == 1 - len(left) / rows
    everything = list(zip(*data.splits["train"].texts, data.splits["train"].targets, strict=True))
    kept = list(zip(*left.texts, left.targets, strict=True))
    assert kept == [row for row in everything if row in kept], "in their order"
    assert left.sha256 == _sha256(left.texts, left.targets, data.head.labels)


def test_row_drop_scales_the_scores_that_are_left() -> None:
    noisy, _ = apply_to_task(toy_data(scores=True), Noise("row_drop", 0.5))
    targets = noisy.splits["train"].targets
    assert noisy.head.mean == targets.mean()
    assert noisy.head.std == targets.std()


@pytest.mark.parametrize(("scores", "what"), [(False, "classes"), (True, "different scores")])
def test_row_drop_leaves_something_to_learn(scores: bool, what: str) -> None:
    data = toy_data(scores=scores)
    with pytest.raises(
        DataError, match=rf"'toy': row_drop noise of 1 leaves 0 of \d+ rows, without two {what}"
    ):
        apply_to_task(data, Noise("row_drop", 1.0))


def test_a_report_is_plain_data() -> None:
    _, report = apply_to_task(toy_data(), Noise("word_drop", 0.1, "both", 2))
    plain = report.as_dict()
    assert {key: plain[key] for key in ("kind", "ratio", "when", "seed")} == {
        "kind": "word_drop",
        "ratio": 0.1,
        "when": "both",
        "seed": 2,
    }
    assert plain["unit"] == "fraction of words left out"
    assert (
        set(plain["realised"])
        == set(plain["items"])
        == set(plain["words"])
        == {"train", "validation", "test"}
    )
    assert plain["realised"] == plain["words"]


# Models.


def graft_model(*, gates: str = "hard_concrete", tasks: tuple[str, ...] = TASKS) -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=50,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    graft = gw.GraftConfig(
        tasks=list(tasks),
        r=2,
        pool_size=4,
        init_weights=False,
        gates=gates,
        budget=None if gates == "fixed" else 0.9,
    )
    model = get_peft_model(BertModel(config), graft)
    for name, parameter in model.named_parameters():
        if "graft_up" in name:
            nn.init.normal_(parameter, std=0.5)
    return model.eval()


IDS = torch.randint(0, 50, (6, 7), generator=torch.Generator().manual_seed(0))
ROWS = torch.tensor([0, 1, 2, 0, 1, 2])


def outputs(model: nn.Module, rows: Tensor | None = ROWS) -> Tensor:
    with torch.no_grad():
        result = model(IDS, graft_rows=rows) if rows is not None else model(IDS)
    return result.last_hidden_state  # type: ignore[no-any-return]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def untouched() -> Iterator[Callable[[nn.Module], None]]:
    """Check at the end of the test that a model is what it was."""
    watched: list[tuple[nn.Module, dict[str, Tensor], Tensor, list[str]]] = []

    def attributes(model: nn.Module) -> list[str]:
        return [
            f"{name}: {sorted(map(str, module.__dict__))} {len(module._forward_hooks)} "
            f"{module.__dict__.get('_all_open')}"
            for name, module in model.named_modules()
        ]

    def watch(model: nn.Module) -> None:
        result = outputs(model)
        watched.append((model, state(model), result, attributes(model)))

    yield watch
    assert watched
    for model, before, result, names in watched:
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert torch.equal(outputs(model), result)
        assert attributes(model) == names


CONTEXTS: dict[str, Callable[..., AbstractContextManager[Any]]] = {
    "embeddings": embedding_noise,
    "path_drop": path_noise,
    "path_redraw": lambda *arguments, **more: path_noise(*arguments, redraw=True, **more),
    "weights": weight_noise,
}


@pytest.mark.parametrize("gates", ["hard_concrete", "sigmoid", "fixed"])
@pytest.mark.parametrize("kind", CONTEXTS)
def test_noise_in_a_model_is_there_and_gone(
    kind: Any, gates: str, untouched: Callable[[nn.Module], None]
) -> None:
    model = graft_model(gates=gates)
    untouched(model)
    clean = outputs(model)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with model_noise(model, Noise(kind, 0.25, seed=1), "test") as report:
        noisy = outputs(model)
    with model_noise(model, Noise(kind, 0.25, seed=1), "test"):
        again = outputs(model)
    with model_noise(model, Noise(kind, 0.25, seed=2), "test"):
        other = outputs(model)
    assert torch.equal(torch.rand(3), expected), "the global random state is not used"
    assert not torch.allclose(noisy, clean, atol=1e-3)
    assert torch.equal(noisy, again)
    assert not torch.equal(noisy, other)
    assert report().realised["test"] == pytest.approx(0.25, rel=0.1)
    assert report().items["test"] > 0
    assert report().unit == KINDS[kind].unit


@pytest.mark.parametrize("kind", CONTEXTS)
def test_noise_in_a_model_is_gone_after_an_error_too(
    kind: str, untouched: Callable[[nn.Module], None]
) -> None:
    model = graft_model()
    untouched(model)

    def fail() -> None:
        with CONTEXTS[kind](model, 0.5):
            outputs(model)
            raise KeyError

    with pytest.raises(KeyError):
        fail()


@pytest.mark.parametrize("kind", CONTEXTS)
def test_model_noise_of_zero_is_the_identity(kind: str) -> None:
    model = graft_model()
    clean = outputs(model)
    with CONTEXTS[kind](model, 0.0) as realised:
        assert torch.equal(outputs(model), clean)
    assert realised.ratio == 0


def test_all_paths_closed_is_the_frozen_backbone(untouched: Callable[[nn.Module], None]) -> None:
    model = graft_model(gates="fixed")
    untouched(model)
    with model.disable_adapter():  # type: ignore[operator]
        bare = outputs(model)
    with path_noise(model, 1.0) as realised:
        torch.testing.assert_close(outputs(model), bare)
    assert realised.ratio == 1


def test_damaged_paths_are_a_fraction_of_each_tasks_open_ones(untouched: Callable[[nn.Module], None]) -> None:
    model = graft_model()
    full = gw.structure_of(model)
    rng = np.random.default_rng(0)
    sites = {
        name: SiteStructure(
            site.pool_size,
            site.r,
            site.cost,
            tuple(tuple(bool(x) for x in row) for row in rng.random((3, 4)) < 0.6),
        )
        for name, site in full.sites.items()
    }
    structure = gw.Structure(TASKS, sites)
    gw.set_structure_(model, structure)
    untouched(model)

    def damaged(ratio: float) -> dict[str, set[tuple[str, int]]]:
        with path_noise(model, ratio, seed=3) as realised:
            assert gw.structure_of(model) == structure, "the structure itself is not touched"
            found: dict[str, set[tuple[str, int]]] = {task: set() for task in TASKS}
            for name, layer in model.named_modules():
                if isinstance(layer, gw.GraftLayer):
                    lost = (layer.graft_mask["default"] > 0) & (layer.gates("default") == 0)
                    for t, k in lost.nonzero().tolist():
                        found[TASKS[t]].add((name.removeprefix("base_model.model."), k))
        opened = structure.counts()
        assert realised.items == sum(opened.values())
        assert realised.changed == sum(map(len, found.values()))
        for task in TASKS:
            assert found[task] <= structure.paths(task)
            assert abs(len(found[task]) - ratio * opened[task]) < 1
        return found

    little, much = damaged(0.2), damaged(0.5)
    assert all(little[task] < much[task] for task in TASKS)
    assert little["a"] != little["b"]


def test_damage_to_one_task_leaves_the_rows_of_others_alone() -> None:
    model = graft_model(gates="fixed")
    clean = outputs(model)
    structure = gw.structure_of(model)
    closed = tuple(
        SiteStructure(s.pool_size, s.r, s.cost, ((False,) * 4, (True,) * 4, (False,) * 4))
        for s in structure.sites.values()
    )
    gw.set_structure_(model, gw.Structure(TASKS, dict(zip(structure.sites, closed, strict=True))))
    before = outputs(model)
    with path_noise(model, 0.5):
        noisy = outputs(model)
    others = ROWS != 1
    assert torch.equal(noisy[others], before[others])
    assert not torch.allclose(noisy[~others], clean[~others], atol=1e-3)


def test_contexts_nest_and_come_apart(untouched: Callable[[nn.Module], None]) -> None:
    model = graft_model(gates="fixed")
    untouched(model)
    with path_noise(model, 0.3, seed=1):
        once = outputs(model)
        with path_noise(model, 0.3, seed=2), embedding_noise(model, 0.1), weight_noise(model, 0.1):
            assert not torch.equal(outputs(model), once)
        assert torch.equal(outputs(model), once)


def test_a_compact_model_of_one_task_can_be_damaged() -> None:
    model = graft_model(gates="fixed", tasks=("only",))
    gw.compact_(model)
    ids = torch.zeros(6, dtype=torch.long)
    clean = outputs(model, ids)
    with path_noise(model, 0.5) as realised:
        assert not torch.allclose(outputs(model, ids), clean, atol=1e-3)
    assert realised.ratio == 0.5
    assert torch.equal(outputs(model, ids), clean)


def test_paths_decided_inside_stay_damaged() -> None:
    everything = gw.structure_of(graft_model(gates="fixed"))
    inside, before = graft_model(), graft_model()
    gw.set_structure_(before, everything)
    clean = outputs(before)
    with path_noise(inside, 0.5), path_noise(before, 0.5):
        gw.set_structure_(inside, everything)
        assert torch.equal(outputs(inside), outputs(before))
        assert not torch.allclose(outputs(inside), clean, atol=1e-3)
    assert torch.equal(outputs(inside), clean)


def test_compacting_inside_is_refused() -> None:
    model = graft_model(gates="fixed")
    sites = {
        name: SiteStructure(4, s.r, s.cost, ((True, True, False, False),) * 3)
        for name, s in gw.structure_of(model).sites.items()
    }
    gw.set_structure_(model, gw.Structure(TASKS, sites))
    twin = copy.deepcopy(model)
    with path_noise(model, 1.0):
        gw.compact_(model)
        with pytest.raises(StructureError, match="compacted inside a context of path noise"):
            outputs(model)
    outputs(model)
    with (
        pytest.raises(StructureError, match="compacted inside a context of weight noise"),
        weight_noise(twin, 0.1),
    ):
        gw.compact_(twin)


def test_training_under_damaged_paths(untouched: Callable[[nn.Module], None]) -> None:
    model = graft_model(gates="fixed")
    untouched(model)
    clean = outputs(model)
    with model_noise(model, Noise("path_drop", 0.5, "train"), "train") as report:
        assert torch.equal(outputs(model), clean), "validation stays clean"
        model.train()
        assert not torch.allclose(outputs(model), clean, atol=1e-3)
        model(IDS, graft_rows=ROWS).last_hidden_state.square().mean().backward()
        model.eval()
    assert report().realised["train"] == pytest.approx(0.5, abs=0.02)
    gradients = [p.grad for n, p in model.named_parameters() if "graft_up" in n]
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("when", "stage", "training", "noisy"),
    [
        ("train", "train", True, True),
        ("train", "train", False, False),
        ("train", "test", False, False),
        ("test", "train", True, False),
        ("test", "test", False, True),
        ("both", "train", True, True),
        ("both", "train", False, True),
        ("both", "test", False, True),
    ],
)
@pytest.mark.parametrize("kind", ["embeddings", "path_drop", "path_redraw"])
def test_noise_is_there_when_it_was_asked_for(
    kind: Any, when: Any, stage: Any, training: bool, noisy: bool
) -> None:
    model = graft_model(gates="fixed")
    clean = outputs(model)
    with model_noise(model, Noise(kind, 0.5, when), stage) as report:
        model.train(training)
        assert torch.equal(outputs(model), clean) != noisy
    assert set(report().realised) == ({stage} if when in (stage, "both") else set())


def test_embedding_noise_is_relative_to_each_vector() -> None:
    model = graft_model()
    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    with torch.no_grad():
        embeddings.weight[1:25] *= 10
    seen: list[Tensor] = []
    ids = torch.arange(1, 49).repeat(400, 1)
    clean = embeddings(ids).detach()
    with embedding_noise(model, 0.2) as realised:
        seen.append(embeddings(ids).detach())
    ratio = (seen[0] - clean).square().mean(dim=(0, 2)).sqrt() / clean.square().mean(dim=(0, 2)).sqrt()
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.2), rtol=0.05, atol=0.0)
    assert realised.ratio == pytest.approx(0.2, rel=0.01)
    assert realised.items == ids.numel()


def test_embedding_noise_differs_from_pass_to_pass_and_lets_gradients_through() -> None:
    model = graft_model(gates="fixed")
    with embedding_noise(model, 0.2):
        first, second = outputs(model), outputs(model)
    assert not torch.equal(first, second)
    model.get_input_embeddings().weight.requires_grad_(True)  # type: ignore[operator]
    with embedding_noise(model, 0.2, training_only=True):
        model.train()
        model(IDS, graft_rows=ROWS).last_hidden_state[..., 0].sum().backward()
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0  # type: ignore[operator]


def test_embedding_noise_reaches_both_halves_of_an_encoder_decoder() -> None:
    config = T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    torch.manual_seed(0)
    model = T5Model(config).eval()
    with torch.no_grad(), embedding_noise(model, 0.5) as realised:
        model(input_ids=IDS % 40, decoder_input_ids=IDS[:, :3] % 40)
    assert realised.items == IDS.numel() + IDS[:, :3].numel()
    assert realised.ratio == pytest.approx(0.5, rel=0.1)


def test_weight_noise_touches_adapters_only_and_each_relative_to_its_size(
    untouched: Callable[[nn.Module], None],
) -> None:
    model = graft_model()
    untouched(model)
    before = state(model)
    with weight_noise(model, 0.1) as realised:
        after = state(model)
    for name, value in after.items():
        if "graft_down" in name or "graft_up" in name:
            noise, signal = (value - before[name]).square().mean().sqrt(), before[name].square().mean().sqrt()
            assert noise / signal == pytest.approx(0.1, rel=0.35)
        else:
            assert torch.equal(value, before[name])
    assert realised.ratio == pytest.approx(0.1, rel=0.1)


def test_models_that_cannot_be_damaged_are_named() -> None:
    plain = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9))
    for kind in ("path_drop", "path_redraw", "weights"):
        with (
            pytest.raises(ConfigError, match="BertModel has no graft adapter"),
            model_noise(plain, Noise(kind, 0.1), "test"),  # type: ignore[arg-type]
        ):
            pass
    with (
        pytest.raises(ConfigError, match="Linear names no input embeddings"),
        embedding_noise(nn.Linear(2, 2), 0.1),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="stage='now' must be 'train' or 'test'"),
        model_noise(plain, Noise("embeddings", 0.1), "now"),  # type: ignore[arg-type]
    ):
        pass


def test_either_call_passes_over_noise_that_is_not_its_own() -> None:
    data = toy_data()
    for kind, stage in itertools.product(KINDS, ("train", "test")):
        noise = Noise(kind, 0.1)  # type: ignore[arg-type]
        if noise.target == "model":
            assert apply_to_task(data, noise) == (data, NoiseReport(noise, {}, {}))
        else:
            with model_noise(nn.Linear(2, 2), noise, stage) as report:  # type: ignore[arg-type]
                assert report().realised == {}
