"""Queries and their passages: the loss of a batch, ranks among all passages, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import graftwork as gw
from graftwork.data.pairs.negatives import negative_notes, negatives
from graftwork.data.splits import load_split, load_task
from graftwork.errors import CheckpointError, ConfigError, DataError, RecipeError
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.linear_heads import TaskHeads
from graftwork.kinds.pairs.ranking import chance, ranked_against, ranks, with_cosine
from graftwork.kinds.registry import KINDS
from graftwork.kinds.scores import of_task, per_task_scores
from graftwork.kinds.scoring.metrics import score
from graftwork.models.pairs import compared
from graftwork.noise import Noise, apply_to_task
from toy_heads import HEADS
from toyrun import write_lines

TEXTS = ("query", "passage")
FAQ = TaskHead("faq", TEXTS, "label", "retrieval", "mrr", pairs="separate")
LAW = TaskHead("law", TEXTS, "label", "retrieval", "recall@1", pairs="separate")
KIND = KINDS["retrieval"]


def vectors(rows: int, width: int = 5, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return compared.with_cosine(torch.randn(rows, width), torch.randn(rows, width))


def loss_of(outputs: torch.Tensor, targets: Any, rows: Any, heads: Any = (FAQ,)) -> torch.Tensor:
    labels = torch.tensor(targets, dtype=torch.float32)
    return TaskHeads(heads, 5).row_losses(outputs, labels, torch.tensor(rows))


def test_the_loss_is_cross_entropy_among_the_passages_of_the_batch() -> None:
    outputs = vectors(6).requires_grad_()
    found = loss_of(outputs, [(i, i) for i in range(6)], [0] * 6)
    u, v = outputs[:, 1:6], outputs[:, 6:]
    expected = F.cross_entropy(20 * u @ v.T, torch.arange(6), reduction="none")
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.mean(), outputs)
    assert gradient[:, 1:].abs().min() > 0
    assert not gradient[:, 0].any()


def test_the_loss_is_that_of_sentence_transformers() -> None:
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    torch.manual_seed(1)
    u, v = torch.randn(7, 5), torch.randn(7, 5)
    theirs = losses.MultipleNegativesRankingLoss(torch.nn.Identity())
    expected = theirs.compute_loss_from_embeddings([u, v], None)
    outputs = compared.with_cosine(u, v)
    found = loss_of(outputs, [(i, i) for i in range(7)], [0] * 7).mean()
    torch.testing.assert_close(found, expected)


def test_the_loss_is_in_single_precision() -> None:
    outputs, targets = vectors(6), [(i, i) for i in range(6)]
    with torch.autocast("cpu", torch.bfloat16):
        found = loss_of(outputs, targets, [0] * 6)
    assert torch.equal(found, loss_of(outputs, targets, [0] * 6))


def test_only_rows_of_the_same_task_with_other_texts_are_negatives() -> None:
    outputs = vectors(8)
    rows = [0, 1, 0, 1, 0, 0, 1, 0]
    targets = [(0, 0), (0, 0), (1, 1), (1, 1), (2, 0), (0, 3), (2, 2), (4, 4)]
    found = loss_of(outputs, targets, rows, (FAQ, LAW))
    u, v = outputs[:, 1:6], outputs[:, 6:]
    for i in range(8):
        rivals = [
            j
            for j in range(8)
            if rows[j] == rows[i] and targets[j][0] != targets[i][0] and targets[j][1] != targets[i][1]
        ]
        near = 20 * torch.stack([u[i] @ v[j] for j in [i, *rivals]])
        torch.testing.assert_close(found[i], near.logsumexp(0) - near[0])
    assert loss_of(outputs[:1], [(0, 0)], [0]).item() == 0.0
    assert loss_of(outputs[:2], [(0, 0), (1, 0)], [0, 0]).tolist() == [0.0, 0.0]


def test_other_tasks_of_a_batch_keep_their_loss() -> None:
    torch.manual_seed(0)
    alone, mixed = TaskHeads(HEADS, 5), TaskHeads([*HEADS, FAQ], 5)
    rows = torch.arange(24) % 4
    x, labels = torch.randn(24, 5), torch.randint(0, 2, (24, 2)).float()
    mixed.load(alone.export())
    logits = compared.in_place_of_logits(mixed(x, rows), vectors(24), rows == 3, tagged=False)
    assert logits.shape == (24, 11)
    others = rows < 3
    found = mixed.row_losses(logits, labels, rows)
    expected = alone.row_losses(alone(x[others], rows[others]), labels[others][:, 0], rows[others])
    torch.testing.assert_close(found[others], expected)
    own = loss_of(vectors(24)[~others], labels[~others].tolist(), [0] * 6)
    torch.testing.assert_close(found[~others], own)


def test_a_head_has_no_weights() -> None:
    heads = TaskHeads([FAQ], 5)
    assert heads.export() == {}
    assert heads.count() == 0
    assert not any(value.requires_grad for value in heads.parameters())
    beside = TaskHeads([*HEADS, FAQ], 5)
    assert beside.count() == TaskHeads(HEADS, 5).count()


@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("columns", [1, 3, 40])
def test_vectors_stand_where_other_rows_have_logits(tagged: bool, columns: int) -> None:
    logits = torch.randn(4, 3, columns) if tagged else torch.randn(4, columns)
    mine = torch.tensor([True, False, True, False])
    found = compared.in_place_of_logits(logits, vectors(4), mine, tagged=tagged)
    outputs, targets = of_task(FAQ, found[mine].numpy(), np.zeros((2, 7)))
    assert np.array_equal(outputs, vectors(4)[mine].numpy())
    assert targets.shape == (2, 2)
    rest = found[~mine]
    if tagged:
        assert torch.equal(rest[:, :3], logits[~mine])
        assert not rest[:, 3:].any()
        padded = np.pad(
            found[mine].numpy(), ((0, 0), (0, 2), (0, 0)), constant_values=-100
        )  # as Trainer does
        assert np.array_equal(of_task(FAQ, padded, np.zeros((2, 7)))[0], outputs)
    else:
        assert torch.equal(rest[:, :columns], logits[~mine])


def test_ranks_are_those_of_a_search_one_by_one() -> None:
    draw = np.random.default_rng(0)
    targets = np.stack([draw.integers(0, 30, 80), draw.integers(0, 25, 80)], axis=1).astype(float)
    passages = draw.normal(size=(25, 6))
    outputs = with_cosine(draw.normal(size=(80, 6)), passages[targets[:, 1].astype(int)])
    found = ranks(outputs, targets)
    right = {query: {p for q, p in targets if q == query} for query in targets[:, 0]}
    for (query, own), row, rank, against in zip(
        targets, outputs, found, ranked_against(targets), strict=True
    ):
        rivals = [p for p in np.unique(targets[:, 1]) if p == own or p not in right[query]]
        unit = {p: passages[int(p)] / np.linalg.norm(passages[int(p)]) for p in rivals}
        near = sorted(rivals, key=lambda p: -float(row[1:7] @ unit[p]))
        assert rank == near.index(own) + 1
        assert against == len(rivals)
    assert score("mrr", found, found) == pytest.approx((1 / found).mean())
    assert score("recall@10", found, found) == (found <= 10).mean()
    assert score("recall@1", found, found) == (found == 1).mean()


def test_of_equally_near_passages_the_right_one_is_the_last() -> None:
    targets = np.array([(i, i) for i in range(5)], dtype=float)
    same = with_cosine(np.ones((5, 3)), np.ones((5, 3)))
    assert ranks(same, targets).tolist() == [5] * 5
    assert per_task_scores(same, targets, np.zeros(5, int), [FAQ]) == {"faq": pytest.approx(0.2)}
    assert np.isnan(per_task_scores(same * np.nan, targets, np.zeros(5, int), [FAQ])["faq"])


@pytest.mark.parametrize("metric", KIND.metrics)
def test_chance_is_the_mean_over_random_orders(metric: str) -> None:
    targets = np.array([(0, 0), (0, 1), (1, 2), *((i, i) for i in range(3, 14))], dtype=float)
    against = ranked_against(targets)
    assert against.tolist() == [13, 13, *[14] * 12]
    draw = np.random.default_rng(0)
    told = [score(metric, draw.integers(1, against + 1), against) for _ in range(4000)]
    assert chance(metric, against) == pytest.approx(np.mean(told), abs=0.01)
    head = TaskHead("faq", TEXTS, "label", "retrieval", metric, pairs="separate")  # type: ignore[arg-type]
    assert KIND.majority(head, targets, targets) == chance(metric, against)


def test_a_score_over_few_passages_is_said_to_mean_little() -> None:
    head = TaskHead("faq", TEXTS, "label", "retrieval", "recall@10", pairs="separate")
    few, many = np.full(5, 10.0), np.full(5, 11.0)
    assert KIND.says_little(head, few, few) == (
        "the queries of task 'faq' are ranked against 10 passages; recall@10 is then 1 whatever the model "
        "says"
    )
    assert KIND.says_little(head, many, many) is None
    assert KIND.says_little(FAQ, few, few) is None


def task(folder: Path, **changes: Any) -> gw.Task:
    given: dict[str, Any] = {"text": TEXTS, "kind": "retrieval", **changes}
    return gw.Task("faq", str(folder / "faq.jsonl"), **given)


def rows(count: int) -> list[dict[str, Any]]:
    return [{"query": f"question {i}", "passage": f"answer {i // 2}"} for i in range(count)]


def test_targets_say_which_texts_are_equal(tmp_path: Path) -> None:
    given = [*rows(40), {"query": " Question  1", "passage": "ANSWER 7"}]
    write_lines(tmp_path / "faq.jsonl", given)
    data = load_task(task(tmp_path))
    assert data.head == FAQ
    assert sum(data.counts.values()) == 41
    for split in data.splits.values():
        told = [" ".join(text.casefold().split()) for text in split.texts[1]]
        for i, j in np.ndindex(len(split), len(split)):
            assert (told[i] == told[j]) == (split.targets[i, 1] == split.targets[j, 1])
    again = load_split(task(tmp_path), data.head, "test").splits["test"]
    assert again.sha256 == data.splits["test"].sha256
    assert np.array_equal(again.targets, data.splits["test"].targets)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "who", "passage": ""}, r"line 3: the text in 'passage' is empty; nothing can be found by"),
        ({"query": " \t", "passage": "he"}, r"line 3: the text in 'query' is empty"),
        ({"query": "who"}, r"line 3 has no field 'passage'; its fields: query"),
        ({"query": None, "passage": "he"}, r"line 3: the text in 'query' is null, not a string"),
        (
            {"query": ["who"], "passage": "he"},
            r"line 3: the text in 'query' is \['who'\] \(list\), not a str",
        ),
        ({"query": "who", "passage": 3}, r"line 3: the text in 'passage' is 3 \(int\), not a string"),
        ({"query": {"a": 1}, "passage": "he"}, r"line 3: the text in 'query' is .*dict\), not a string"),
    ],
)
def test_a_row_that_is_no_pair_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    write_lines(tmp_path / "faq.jsonl", [*rows(2), row, *rows(30)])
    with pytest.raises(DataError, match=message) as error:
        load_task(task(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("side", TEXTS)
def test_one_query_or_one_passage_is_nothing_to_learn(tmp_path: Path, side: str) -> None:
    write_lines(tmp_path / "faq.jsonl", [{**row, side: "the same"} for row in rows(30)])
    with pytest.raises(DataError, match=r"all 30 rows have one query or one passage; there is nothing to"):
        load_task(task(tmp_path))


def test_settings_that_do_not_fit_are_refused() -> None:
    wrong = [
        (
            {"text": "query"},
            r"kind: retrieval reads two texts; name their fields as text: \[query, passage\]",
        ),
        ({"image": "photo", "text": "text"}, r"kind: retrieval reads two texts"),
        ({"pairs": "joint"}, r"pairs is 'joint', but kind: retrieval reads each text alone; leave pairs out"),
        ({"pairs": "auto"}, r"pairs is 'auto', but kind: retrieval reads each text alone"),
        ({"label": "right"}, r"a retrieval task has no label: its passage is the right one; remove label"),
        ({"labels": ["a", "b"]}, r"a retrieval task has no labels; remove them"),
        ({"class_weights": "balanced"}, r"a retrieval task has no class_weights; remove them"),
        ({"metric": "accuracy"}, r"allowed for retrieval: mrr, recall@1, recall@10"),
        ({"stride": 8}, r"stride is for one text, not a pair"),
        ({"separator": "|"}, r"separator is for kind: multilabel, not retrieval"),
    ]
    for changes, message in wrong:
        with pytest.raises(RecipeError, match=message):
            task(Path("data"), **changes)
    assert task(Path("data")).pairs == "separate"
    assert task(Path("data")).metric == "mrr"


def test_a_saved_head_that_is_damaged_is_refused() -> None:
    saved = json.loads(json.dumps(FAQ.as_dict()))
    assert TaskHead.from_dict(saved) == FAQ
    for changes in ({"pairs": "joint"}, {"text": ["query"]}, {"metric": "accuracy"}):
        with pytest.raises(CheckpointError, match=r"the saved head of task 'faq' has"):
            TaskHead.from_dict({**saved, **changes})
    del saved["pairs"]
    with pytest.raises(
        CheckpointError, match=r"the saved head of task 'faq' has pairs=None, kind='retrieval'"
    ):
        TaskHead.from_dict(saved)


def test_noise_is_for_the_texts(tmp_path: Path) -> None:
    write_lines(tmp_path / "faq.jsonl", rows(60))
    data = load_task(task(tmp_path))
    noisy, report = apply_to_task(data, Noise("row_drop", 0.5))
    kept = noisy.splits["train"]
    assert len(kept) == round(len(data.splits["train"]) * 0.5)
    assert report.realised["train"] == 0.5
    for i, j in np.ndindex(len(kept), len(kept)):
        assert (kept.texts[1][i] == kept.texts[1][j]) == (kept.targets[i, 1] == kept.targets[j, 1])
    with pytest.raises(ConfigError, match=r"labels noise changes targets, and a row of task 'faq' has none"):
        apply_to_task(data, Noise("labels", 0.2))
    damaged, _ = apply_to_task(data, Noise("word_drop", 0.5))
    assert damaged.splits["test"].texts != data.splits["test"].texts
    assert np.array_equal(damaged.splits["test"].targets, data.splits["test"].targets)


def test_how_many_negatives_there_are_is_said(tmp_path: Path) -> None:
    assert negatives([300], 32, 1.0) == [31.0]
    assert negatives([300, 100], 41, 1.0) == [30.0, 10.0]
    assert negatives([300, 100], 41, 1e9) == pytest.approx([20.0, 20.0])
    write_lines(tmp_path / "faq.jsonl", rows(60))
    data = load_task(task(tmp_path))
    (told,) = negative_notes([data], batch_size=8, temperature=1.0, gradient_accumulation=4)
    assert told == (
        "task 'faq': negatives of a query are the passages of other rows of its task in a batch of 8, about "
        "7, and gradient_accumulation adds none; a larger training.batch_size gives more"
    )
