from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5Model,
)

from graftwork.data.task import Task
from graftwork.data.task_data import Split
from graftwork.errors import ConfigError, DataError
from graftwork.kinds.scores import majority_score, per_task_scores
from graftwork.kinds.scoring.metrics import score
from graftwork.models.pooling import embed, pool
from graftwork.models.probe import linear_probe

SIZES: dict[str, Any] = {"vocab_size": 32}
BERT = BertConfig(**SIZES, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
GPT2 = GPT2Config(**SIZES, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
T5 = T5Config(**SIZES, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
TEXTS = ["1 2 3 4 5 6", "7", "8 9", "7", "1 2 3"]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({str(i): i for i in range(32)}, unk_token="31"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="0")


def test_every_metric() -> None:
    predicted, expected = [0, 1, 1, 1], [0, 1, 0, 1]
    assert score("accuracy", predicted, expected) == 0.75
    assert score("macro_f1", predicted, expected) == pytest.approx((2 / 3 + 0.8) / 2)
    assert score("matthews", predicted, expected) == pytest.approx(1 / 3**0.5)
    assert score("pearson", [1, 2, 4], [1, 2, 4]) == pytest.approx(1)
    assert score("spearman", [1, 2, 40], [3, 2, 1]) == pytest.approx(-1)


def test_constant_and_broken_predictions_have_a_score_without_a_warning() -> None:
    assert score("pearson", [2.0, 2.0], [1.0, 2.0]) == 0
    assert score("spearman", [1.0, 2.0], [3.0, 3.0]) == 0
    assert score("matthews", [1, 1], [0, 1]) == 0
    assert score("macro_f1", [1, 1], [0, 0]) == 0
    assert np.isnan(score("spearman", [np.nan, 1.0], [1.0, 2.0]))


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ConfigError, match="metric is 'bleu'; allowed: accuracy, macro_f1, matthews"):
        score("bleu", [1], [1])
    with pytest.raises(DataError, match=r"\(2,\) predictions cannot be scored against \(1,\) labels"):
        score("accuracy", [1, 2], [1])
    with pytest.raises(DataError, match="cannot be scored"):
        score("accuracy", [], [])


def test_each_task_is_scored_on_its_own_rows_and_outputs() -> None:
    heads = [
        Task("three").head(("a", "b", "c")),
        Task("two").head(("a", "b")),
        Task("number", kind="regression", metric="pearson").head(mean=3, std=2),
        Task("absent").head(("a", "b")),
    ]
    low = -np.inf
    logits = np.array(
        [[0, 1, 9], [2, 1, low], [0.5, low, low], [9, 1, 0], [0, 3, 99], [1.5, low, low], [-1, low, low]],
        dtype=np.float32,
    )
    labels = np.array([2, 0, 0.1, 1, 1, 0.3, -0.2], dtype=np.float32)
    rows = [0, 1, 2, 0, 1, 2, 2]
    assert per_task_scores(logits, labels, rows, heads) == {
        "three": 0.5,
        "two": 1.0,
        "number": pytest.approx(1.0),
    }
    logits[0, 0] = np.nan
    assert np.isnan(per_task_scores(logits, labels, rows, heads)["three"])


def test_the_majority_is_that_of_training() -> None:
    head = Task("t").head(("a", "b", "c"))
    assert majority_score(head, np.array([1.0, 1, 2]), np.array([2.0, 2, 2, 1])) == 0.25
    assert majority_score(Task("t", kind="regression").head(), [1.0, 2.0], [1.0, 2.0]) == 0


@pytest.mark.parametrize("left", [False, True])
def test_pooling_ignores_padding_on_either_side(left: bool) -> None:
    hidden = torch.tensor([[[1.0], [2.0], [4.0]], [[3.0], [5.0], [99.0]]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    if left:
        hidden[1], mask[1] = hidden[1].roll(1, 0), mask[1].roll(1)
    assert pool(hidden, mask, "mean").flatten().tolist() == pytest.approx([7 / 3, 4])
    assert pool(hidden, mask, "cls").flatten().tolist() == [1, 3]
    assert pool(hidden, mask, "last").flatten().tolist() == [4, 5]
    with pytest.raises(ConfigError, match="pooling is 'max'; allowed: mean, cls, last"):
        pool(hidden, mask, "max")  # type: ignore[arg-type]


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize(
    "backbone", [BertModel(BERT), GPT2Model(GPT2), T5Model(T5)], ids=["bert", "gpt2", "t5"]
)
def test_embeddings_do_not_depend_on_the_batch(
    backbone: Any, pooling: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    backbone.train()
    together = embed(backbone, tokenizer, TEXTS, 5, batch_size=3, pooling=pooling)
    alone = [embed(backbone, tokenizer, [text], 5, 1, pooling)[0] for text in TEXTS]
    assert together.shape == (5, 16)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)
    np.testing.assert_array_equal(together[1], together[3])
    assert backbone.training


def test_nothing_to_embed_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="no texts to embed"):
        embed(BertModel(BERT), tokenizer, [], 5)


def split(texts: tuple[Sequence[str], ...], targets: Sequence[float]) -> Split:
    return Split(tuple(map(list, texts)), np.array(targets, dtype=np.float64), "")


def vectors(texts: Sequence[str]) -> Any:
    """Embed 'x y' as the vector (x, y, noise)."""
    rng = np.random.default_rng(len(texts))
    noise = rng.normal(size=(len(texts), 1))
    return np.concatenate([[[*map(float, text.split())] for text in texts], noise], axis=1).astype(np.float32)


def points(seed: int, count: int = 200) -> Any:
    return np.random.default_rng(seed).normal(size=(count, 2))


def named(values: Any) -> list[str]:
    return [" ".join(map(str, row)) for row in values]


def test_the_probe_finds_classes() -> None:
    head = Task("t").head(("a", "b", "c"))
    blocks = [split((named(x),), 0.0 + (x[:, 0] > -0.5) + (x[:, 0] > 0.5)) for x in map(points, range(3))]
    assert linear_probe(head, *blocks, vectors) > 0.95


def test_the_probe_of_a_pair_sees_the_product() -> None:
    head = Task("t").head(("differ", "same"))
    blocks = []
    for seed in range(3):
        u, v = points(seed), points(seed + 10)
        blocks.append(split((named(u), named(v)), 1.0 * (u[:, 0] * v[:, 0] > 0)))
    assert linear_probe(head, *blocks, vectors) > 0.9


def test_the_probe_finds_scores() -> None:
    head = Task("t", kind="regression").head()
    blocks = [split((named(x),), 100 + x[:, 0] - 2 * x[:, 1]) for x in map(points, range(3))]
    assert linear_probe(head, *blocks, vectors) > 0.95


def test_the_probe_regularises_where_there_is_nothing_to_learn() -> None:
    head = Task("t").head(("a", "b"))
    rng = np.random.default_rng(0)
    blocks = [split((["x"] * n,), rng.integers(0, 2, n)) for n in (80, 400, 400)]
    noise = iter([rng.normal(size=(n, 200)).astype(np.float32) for n in (80, 400, 400)])
    assert 0.4 < linear_probe(head, *blocks, lambda _: next(noise)) < 0.6


def test_the_probe_is_fast() -> None:
    head = Task("t").head(("a", "b"))
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2000, 1536)).astype(np.float32)
    labels = features[:, 0] + rng.normal(size=2000) > 0
    block = split((["x"] * 2000,), labels)
    start = time.perf_counter()
    linear_probe(head, block, block, block, lambda _: features)
    assert time.perf_counter() - start < 10
