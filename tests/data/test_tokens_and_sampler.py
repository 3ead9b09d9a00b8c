from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from graftwork.data.sampler import TaskSampler
from graftwork.data.task import Task
from graftwork.data.task_data import Split, TaskData
from graftwork.data.tokens import collate, encode, row_lengths, tokenise
from graftwork.errors import ConfigError, DataError


class CountingTokenizer(PreTrainedTokenizerFast):
    calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        type(self).calls += 1
        return super().__call__(*args, **kwargs)


def tokenizer(words: int = 50, pad: bool = True, special: bool = True) -> CountingTokenizer:
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])}
    vocabulary |= {str(i): 4 + i for i in range(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if special:
        backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokens = {"unk_token": "[UNK]", "eos_token": "[SEP]", **({"pad_token": "[PAD]"} if pad else {})}
    CountingTokenizer.calls = 0
    return CountingTokenizer(tokenizer_object=backend, model_input_names=names, **tokens)


def data(name: str, texts: tuple[list[str], ...], targets: list[float], mark: str = "") -> TaskData:
    split = Split(texts, np.array(targets), sha256=name + mark)
    head = Task(name).head(("a", "b"))
    if max(targets) > 1:
        head = Task(name, kind="regression").head(mean=2.0, std=0.5)
    return TaskData(head, {"train": split, "validation": split, "test": split})


DATAS = [
    data("one", (["1 2 3", "4", "5 6"],), [0, 1, 0]),
    data("two", (["1 2", "3"], ["4", "5 6 7"]), [2.5, 1.0]),
]


def test_all_tasks_of_a_split_are_one_dataset(tmp_path: Path) -> None:
    splits = tokenise(DATAS, tokenizer(), 16, tmp_path)
    assert list(splits) == ["train", "validation", "test"]
    train = splits["train"]
    assert set(train.column_names) == {
        "input_ids",
        "token_type_ids",
        "attention_mask",
        "labels",
        "graft_rows",
    }
    assert train["input_ids"][:] == [
        [2, 5, 6, 7, 3],
        [2, 8, 3],
        [2, 9, 10, 3],
        [2, 5, 6, 3, 8, 3],
        [2, 7, 3, 9, 10, 11, 3],
    ]
    assert train["token_type_ids"][3] == [0, 0, 0, 0, 1, 1]
    assert train["labels"][:] == [0, 1, 0, 1, -2]
    assert train["graft_rows"][:] == [0, 0, 0, 1, 1]
    assert row_lengths(train).tolist() == [5, 3, 4, 6, 7]


def test_rows_are_cut_to_the_maximal_length() -> None:
    assert row_lengths(tokenise(DATAS, tokenizer(), 5, None)["test"]).max() == 5


def test_a_second_call_reads_the_disk(tmp_path: Path) -> None:
    made = tokenizer()
    first = tokenise(DATAS, made, 16, tmp_path / "cache")
    calls = CountingTokenizer.calls
    made("a call that changes the state", truncation=True, max_length=3)
    second = tokenise(DATAS, made, 16, tmp_path / "cache")
    assert CountingTokenizer.calls == calls + 1
    assert second["train"][:] == first["train"][:]
    assert sorted(file.suffix for file in (tmp_path / "cache").iterdir()) == [".arrow"] * 3


@pytest.mark.parametrize("change", ["content", "tasks", "tokenizer", "length", "labels"])
def test_a_change_tokenises_anew(tmp_path: Path, change: str) -> None:
    datas, made, length = DATAS, tokenizer(), 16
    tokenise(datas, made, length, tmp_path)
    if change == "content":
        datas = [data("one", (["9"],), [1], mark="!"), DATAS[1]]
    elif change == "tasks":
        datas = DATAS[:1]
    elif change == "tokenizer":
        made = tokenizer(words=51)
    elif change == "length":
        length = 15
    else:
        datas = [TaskData(Task("one").head(("b", "a")), DATAS[0].splits), DATAS[1]]
    CountingTokenizer.calls = 0
    tokenise(datas, made, length, tmp_path)
    assert CountingTokenizer.calls == 3 * len(datas)


def test_a_damaged_cache_file_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = tokenizer()
    first = tokenise(DATAS, made, 16, tmp_path)["train"][:]
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(b"" if "train" in file.name else content[: len(content) // 2])
    assert tokenise(DATAS, made, 16, tmp_path)["train"][:] == first
    assert "cannot be read" in caplog.text
    CountingTokenizer.calls = 0
    tokenise(DATAS, made, 16, tmp_path)
    assert CountingTokenizer.calls == 0


def test_concurrent_writers_agree(tmp_path: Path) -> None:
    results = []

    def run() -> None:
        results.append(tokenise(DATAS, tokenizer(), 16, tmp_path)["train"][:])

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [results[0]] * 6
    assert len(list(tmp_path.iterdir())) == 3


def test_a_cache_that_cannot_be_written_is_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    wanted = tokenise(DATAS, tokenizer(), 16, None)["train"][:]
    assert tokenise(DATAS, tokenizer(), 16, tmp_path / "file" / "cache")["train"][:] == wanted
    assert capsys.readouterr().err.count("cache cannot be written (Not a directory)") == 1

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    assert tokenise(DATAS, tokenizer(), 16, tmp_path / "full")["train"][:] == wanted
    assert "full cannot be written (No space left on device)" in capsys.readouterr().err
    assert not list((tmp_path / "full").iterdir())


def test_an_empty_text_is_one_token() -> None:
    encoded = encode(tokenizer(special=False), [["1", ""]], 8)
    assert encoded["input_ids"] == [[5], [3]]
    assert encoded["attention_mask"] == [[1], [1]]


def test_a_batch_is_padded_to_its_longest_row() -> None:
    made = tokenizer()
    train = tokenise(DATAS, made, 16, None)["train"]
    batch = collate(made)([train[1], train[3]])
    assert set(batch) == set(train.column_names)
    assert batch["input_ids"].tolist() == [[2, 8, 3, 0, 0, 0], [2, 5, 6, 3, 8, 3]]
    assert batch["attention_mask"].sum().item() == 9
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].tolist() == [1, 1]
    assert batch["graft_rows"].dtype == torch.int64
    assert batch["graft_rows"].tolist() == [0, 1]


def test_without_a_pad_token_the_end_token_pads() -> None:
    made = tokenizer(pad=False)
    train = tokenise(DATAS, made, 16, None)["train"]
    assert collate(made)([train[1], train[2]])["input_ids"][0].tolist() == [2, 8, 3, 3]
    bare = PreTrainedTokenizerFast(tokenizer_object=made.backend_tokenizer)
    with pytest.raises(DataError, match="has no pad and no end-of-text token"):
        collate(bare)([train[1]])


def rows_of(counts: list[int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    tasks = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(0).integers(4, 60, len(tasks)), tasks


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=5).filter(any),
    batch_size=st.integers(1, 20),
    temperature=st.floats(0.2, 100),
    epoch=st.integers(0, 3),
)
def test_an_epoch_has_as_many_rows_and_evenly_used_ones(
    counts: list[int], batch_size: int, temperature: float, epoch: int
) -> None:
    lengths, tasks = rows_of(counts)
    sampler = TaskSampler(lengths, tasks, batch_size, temperature)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert len(order) == len(sampler) == len(lengths)
    for task in set(tasks):
        uses = np.bincount(order, minlength=len(tasks))[tasks == task]
        assert uses.max() - uses.min() <= 1


def test_temperature_one_uses_every_row_once() -> None:
    lengths, tasks = rows_of([700, 30, 111])
    assert sorted(TaskSampler(lengths, tasks, 8)) == list(range(841))


def test_temperature_evens_the_tasks_out() -> None:
    lengths, tasks = rows_of([900, 100])
    shares = [
        np.bincount(tasks[list(TaskSampler(lengths, tasks, 8, temperature))])[1]
        for temperature in (0.5, 1, 2, 1e9)
    ]
    assert shares == [12, 100, 250, 500]


def test_the_order_follows_seed_and_epoch() -> None:
    lengths, tasks = rows_of([300, 200])
    sampler, same, other = (TaskSampler(lengths, tasks, 8, seed=seed) for seed in (-1, -1, 2))
    assert list(sampler) == list(same) == list(sampler)
    assert list(sampler) != list(other)
    same.set_epoch(1)
    assert list(sampler) != list(same)
    same.set_epoch(0)
    assert list(sampler) == list(same)


def test_batches_mix_tasks_and_need_little_padding() -> None:
    lengths, tasks = rows_of([1000, 1000, 1000])
    batches = np.array(list(TaskSampler(lengths, tasks, 15))).reshape(-1, 15)
    assert np.mean([len(set(tasks[batch])) for batch in batches]) > 2.9
    assert lengths[batches].sum() / (lengths[batches].max(1) * 15).sum() > 0.95
    longest = lengths[batches].max(1)[:50]
    assert Counter(np.diff(longest) > 0)[True] > 10, "batches are still in the order of their length"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [0], 4), r"lengths \(2,\) and task_of_row \(1,\) are not equal"),
        (([], [], 4), "not equal, flat and filled"),
        (([1], [0], 0), "batch_size is 0, not at least 1"),
        (([1], [0], 4, 0.0), "temperature is 0.0, not greater than 0"),
        (([1], [0], 4, float("nan")), "temperature is nan"),
    ],
)
def test_a_sampler_refuses_wrong_arguments(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TaskSampler(*arguments)
