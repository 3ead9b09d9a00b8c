"""A language model of several tasks: its loss, its heads, and what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import graftwork as gw
from graftwork.data.task import Task
from graftwork.errors import CheckpointError, ConfigError, DataError, RecipeError
from graftwork.kinds.heads import TaskHead
from graftwork.models.backbone import load_backbone
from graftwork.models.causal.answering import Prompt, write_answers
from graftwork.models.causal.model import CausalMultiTaskModel
from graftwork.models.folder import load_model, save_model
from graftwork.models.multitask import select_tasks_
from graftwork.training.answering.trained import set_loss_
from toy_writer import toy_tokenizer, write_decoder
from toyrun import write_backbone
from toys import grafted, spread_gates, tiny

KINDS = ["llama", "gpt2", "qwen2"]
NAMES = ["one", "two", "class"]
HEADS = [
    Task("one", "x", kind="generation").head(),
    Task("two", "x", kind="generation").head(),
    Task("class", "x").head(["a", "b", "c"]),
]
HEADS = [
    TaskHead(
        **{**vars(head), "writing": Task("t", "x", kind="generation").writing() if head.written else None}
    )
    for head in HEADS
]
IDS = torch.tensor([[1, 7, 8, 9, 10, 2], [1, 9, 8, 2, 0, 0], [1, 11, 12, 0, 0, 0]])
MASK = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 3 + [0] * 3])
TRAINED = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0], [0] * 6])
ROWS = torch.tensor([0, 1, 2])
LABELS = torch.tensor([0.0, 1.0, 2.0])


def model(kind: str = "llama", **changes: Any) -> CausalMultiTaskModel:
    backbone = tiny(kind, "AutoModelForCausalLM", **changes)
    adapted = grafted(backbone, tasks=NAMES, activation="identity", position="parallel")
    spread_gates(adapted)
    torch.manual_seed(5)
    return CausalMultiTaskModel(adapted, HEADS).eval()


def batch(*rows: int) -> dict[str, Tensor]:
    chosen = list(rows) or [0, 1, 2]
    parts = {
        "input_ids": IDS,
        "attention_mask": MASK,
        "trained": TRAINED,
        "graft_rows": ROWS,
        "labels": LABELS,
    }
    return {name: part[chosen] for name, part in parts.items()}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_mean_over_rows_of_their_mean_over_tokens(kind: str, tied: bool) -> None:
    found = model(kind, tie_word_embeddings=tied)
    with torch.no_grad():
        outputs = found(**batch())
        words = found.backbone(input_ids=IDS, attention_mask=MASK, graft_rows=ROWS).logits
    wanted = []
    for row in (0, 1):
        places = [place for place in range(1, 6) if TRAINED[row, place]]
        losses = [F.cross_entropy(words[row, place - 1], IDS[row, place]) for place in places]
        wanted.append(torch.stack(losses).mean())
    torch.testing.assert_close(outputs.logits[:2, 0], torch.stack(wanted))
    own = F.cross_entropy(outputs.logits[2:], torch.tensor([2]))
    torch.testing.assert_close(outputs.loss, (sum(wanted) + own) / 3)
    assert outputs.logits[:2, 1:].isneginf().all()


def test_the_loss_may_be_per_token() -> None:
    found = model()
    with torch.no_grad():
        rows = found(**batch()).logits
        own = F.cross_entropy(rows[2:], torch.tensor([2]))
        set_loss_(found, "token")
        tokens = (3 * rows[0, 0] + 2 * rows[1, 0]) / 5
        # The two written rows together weigh as much as before, beside that of a head.
        torch.testing.assert_close(found(**batch()).loss, (2 * tokens + own) / 3)
        torch.testing.assert_close(found(**batch(0, 1)).loss, tokens)
        torch.testing.assert_close(found(**batch(2)).loss, own)
        set_loss_(found, "row")
        torch.testing.assert_close(found(**batch(0, 1)).loss, rows[:2, 0].mean())
    encoder = gw.MultiTaskModel(grafted(tiny("bert"), tasks=["class"]), HEADS[2:])
    set_loss_(encoder, "row")
    with pytest.raises(ConfigError, match=r"loss=token is for tasks of kind: generation and choice, and no"):
        set_loss_(encoder, "token")


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_the_rows_beside_it(kind: str) -> None:
    found = model(kind)
    with torch.no_grad():
        together = found(**batch()).logits
        for row in range(3):
            torch.testing.assert_close(found(**batch(row)).logits[0], together[row])


def test_the_head_for_words_reads_answers_alone() -> None:
    found, seen = model(), []
    head = found.backbone.get_base_model().get_output_embeddings()
    head.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape[:2])))
    found(**batch())
    assert seen == [(1, int(TRAINED.sum()))]


def test_another_model_around_the_same_backbone_has_the_same_loss() -> None:
    found = model()
    gw.discretise_(found)
    with torch.no_grad():
        wanted = found(**batch(0, 1)).logits
        again = CausalMultiTaskModel(found.backbone, HEADS).eval()
        assert torch.equal(again(**batch(0, 1)).logits, wanted)
        small, _ = select_tasks_(again, ["two"])
        rest = {name: part for name, part in batch(1).items() if name != "graft_rows"}
        torch.testing.assert_close(small(**rest).logits[0, 0], wanted[1, 0])


def test_heads_read_the_last_token() -> None:
    found = model()
    with torch.no_grad():
        outputs = found(**batch(2)).logits[0]
        hidden = found.backbone.get_base_model().base_model
        with gw.route(found, "class"):
            last = hidden(input_ids=IDS[2:, :3]).last_hidden_state[:, -1]
        torch.testing.assert_close(outputs, found.heads(last, torch.tensor([2]))[0])


def test_accumulated_gradients_are_those_of_one_batch() -> None:
    """Rows of one token and of many, and of a head, in two halves."""
    found = model()
    four = [0, 1, 2, 0]

    def gradients(*parts: list[int]) -> dict[str, Tensor]:
        found.zero_grad()
        for part in parts:
            (found(**batch(*part)).loss / len(parts)).backward()
        return {name: p.grad.clone() for name, p in found.named_parameters() if p.grad is not None}

    whole, halves = gradients(four), gradients(four[:2], four[2:])
    assert whole.keys() == halves.keys()
    assert any("graft_up" in name for name in whole)
    for name, gradient in whole.items():
        torch.testing.assert_close(halves[name], gradient, msg=name)


def test_a_written_task_has_no_weights_of_a_head() -> None:
    found = model()
    assert sorted(found.heads.export()) == ["class.bias", "class.weight"]
    assert found.heads.count() == 3 * 17
    assert not found.heads.weight[:2].any()
    found(**batch()).loss.backward()
    assert not found.heads.weight.grad[:2].any()


def test_several_tasks_need_to_be_told_apart() -> None:
    with pytest.raises(DataError, match="several tasks"):
        model()(IDS, trained=TRAINED)


def test_another_pooling_is_refused() -> None:
    with pytest.raises(ConfigError, match="read the last token"):
        CausalMultiTaskModel(tiny("llama", "AutoModelForCausalLM"), HEADS, pooling="mean")


def prompts() -> list[Prompt]:
    rows = [[1, 7, 8, 9, 10], [1, 9], [1, 11, 12, 5, 6, 7, 8], [4]]
    return [
        Prompt(ids, task % 2, most, (2,))
        for task, (ids, most) in enumerate(zip(rows, (6, 6, 3, 6), strict=True))
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_a_mixed_batch_are_those_of_every_row_alone(kind: str) -> None:
    """The one with padding in front, of other tasks and of other lengths; the other from plain passes."""
    found, tokenizer = model(kind), toy_tokenizer()
    together = write_answers(found.backbone, tokenizer, prompts(), batch_size=4)
    for prompt, answer in zip(prompts(), together, strict=True):
        ids = list(prompt.ids)
        with torch.no_grad():
            while len(ids) < len(prompt.ids) + prompt.most:
                rows = torch.tensor([prompt.task])
                words = found.backbone(input_ids=torch.tensor([ids]), graft_rows=rows).logits[0, -1]
                if int(words.argmax()) in prompt.ends:
                    break
                ids.append(int(words.argmax()))
        assert answer == ids[len(prompt.ids) :]
    assert len({tuple(answer) for answer in together}) > 1


def test_an_answer_ends_at_its_own_end() -> None:
    found, tokenizer = model(), toy_tokenizer()
    free = write_answers(found.backbone, tokenizer, [Prompt([1, 7], 0, 5, (2,))])[0]
    first = Prompt([1, 7], 0, 5, (free[1],))
    other = Prompt([1, 9, 8], 1, 5, (2,))
    alone = write_answers(found.backbone, tokenizer, [other])[0]
    assert write_answers(found.backbone, tokenizer, [first, other]) == [free[: free.index(free[1])], alone]


def test_answering_leaves_no_trace() -> None:
    found, tokenizer = model().train(), toy_tokenizer()
    torch.manual_seed(3)
    write_answers(found.backbone, tokenizer, prompts())
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    assert found.training
    assert found.backbone.training


def test_a_saved_model_is_the_same_to_the_bit(tmp_path: Path) -> None:
    write_decoder(tmp_path / "backbone")
    backbone, tokenizer = load_backbone(str(tmp_path / "backbone"), causal=True)
    adapted = grafted(backbone, tasks=NAMES, gates="fixed", activation="identity", position="parallel")
    found = CausalMultiTaskModel(adapted, HEADS).eval()
    (tmp_path / "model").mkdir()
    save_model(found, tmp_path / "model", backbone_name=str(tmp_path / "backbone"))
    tokenizer.save_pretrained(tmp_path / "model")
    loaded, _ = load_model(tmp_path / "model")
    assert isinstance(loaded, CausalMultiTaskModel)
    assert loaded.heads.heads == tuple(HEADS)
    with torch.no_grad():
        assert torch.equal(loaded(**batch()).logits, found(**batch()).logits)


def test_a_saved_head_that_contradicts_itself_is_refused() -> None:
    values = HEADS[0].as_dict()
    assert TaskHead.from_dict(values) == HEADS[0]
    for broken in ({**values, "writing": None}, {**HEADS[2].as_dict(), "writing": {}}):
        with pytest.raises(CheckpointError, match="saved head of task"):
            TaskHead.from_dict(broken)


def test_an_encoder_does_not_write(tmp_path: Path) -> None:
    write_backbone(tmp_path / "bert")
    with pytest.raises(RecipeError, match=r"is an encoder .bert., and kind: generation needs a decoder"):
        load_backbone(str(tmp_path / "bert"), causal=True)
    tiny("t5").save_pretrained(tmp_path / "t5")
    with pytest.raises(
        RecipeError, match=r"is an encoder-decoder .t5., and kind: generation needs a decoder"
    ):
        load_backbone(str(tmp_path / "t5"), causal=True)
