from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graftwork.errors import CheckpointError, ConfigError, DataError
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.linear_heads import TaskHeads
from graftwork.models.multitask import MultiTaskModel, hidden_width
from toy_heads import HEADS
from toys import TASKS, graft_layers, grafted, spread_gates, tiny, tokens

ROWS = torch.tensor([0, 1, 2, 0])
LABELS = torch.tensor([1.0, -0.3, 2.0, 0.0])


def multitask(**settings) -> MultiTaskModel:
    backbone = grafted()
    spread_gates(backbone)
    torch.manual_seed(0)
    return MultiTaskModel(backbone, HEADS, **settings).eval()


def test_heads_are_those_of_every_task_alone():
    torch.manual_seed(0)
    heads = TaskHeads(HEADS, 5)
    x = torch.randn(4, 5)
    logits = heads(x, ROWS)
    assert logits.shape == (4, 3)
    for i, row in enumerate(ROWS):
        size = HEADS[row].size
        expected = F.linear(x[i], heads.weight[row, :size], heads.bias[row, :size])
        torch.testing.assert_close(logits[i, :size], expected)
        assert (logits[i, size:] == float("-inf")).all()


def test_the_loss_is_the_mean_of_each_rows_own():
    torch.manual_seed(0)
    heads = TaskHeads(HEADS, 5)
    logits = heads(torch.randn(4, 5), ROWS)
    expected = [
        F.cross_entropy(logits[0, :2], torch.tensor(1)),
        (logits[1, 0] - LABELS[1]) ** 2,
        F.cross_entropy(logits[2], torch.tensor(2)),
        F.cross_entropy(logits[3, :2], torch.tensor(0)),
    ]
    loss = heads.loss(logits, LABELS, ROWS)
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    loss.backward()
    assert torch.isfinite(heads.weight.grad).all()
    assert (heads.weight.grad[0, 2:] == 0).all()
    assert (heads.weight.grad[1, 1:] == 0).all()


def test_a_row_counts_by_the_weight_of_its_class():
    torch.manual_seed(0)
    plain = TaskHeads(HEADS, 5)
    weighted = TaskHeads((replace(HEADS[0], class_weights=(0.5, 4.0)), *HEADS[1:]), 5)
    assert plain.class_weights is None
    assert weighted.state_dict().keys() == plain.state_dict().keys()
    logits = plain(torch.randn(4, 5), ROWS)
    own = plain.row_losses(logits, LABELS, ROWS)
    found = weighted.row_losses(logits, LABELS, ROWS)
    assert torch.equal(found, own * torch.tensor([4.0, 1.0, 1.0, 0.5]))
    assert torch.equal(found[1:3], own[1:3])


@pytest.mark.parametrize("classes", [4, 17, 77])
def test_logits_do_not_depend_on_how_many_classes_another_task_has(classes):
    torch.manual_seed(0)
    heads = TaskHeads(HEADS, 384)
    many = TaskHead("fish", ("text",), "label", "classification", "accuracy", tuple(map(str, range(classes))))
    more = TaskHeads((*HEADS, many), 384)
    more.load({**more.export(), **heads.export()})
    for rows in (ROWS, torch.zeros(64, dtype=torch.long), torch.arange(64) % 3):
        x = torch.randn(len(rows), 384)
        assert torch.equal(more(x, rows)[:, :3], heads(x, rows))


def test_heads_round_trip_without_padding():
    heads = TaskHeads(HEADS, 5)
    tensors = heads.export()
    assert {name: tuple(value.shape) for name, value in tensors.items()} == {
        "cats.weight": (2, 5),
        "cats.bias": (2,),
        "dogs.weight": (1, 5),
        "dogs.bias": (1,),
        "birds.weight": (3, 5),
        "birds.bias": (3,),
    }
    assert heads.count() == 6 * 5 + 6
    other = TaskHeads(HEADS, 5)
    other.load(tensors)
    assert torch.equal(other.weight, heads.weight)
    with pytest.raises(
        CheckpointError, match=r"weight of the head of task 'birds' is \(2, 5\); \(3, 5\) is needed"
    ):
        other.load({**tensors, "birds.weight": torch.zeros(2, 5)})
    with pytest.raises(CheckpointError, match="bias of the head of task 'cats' is none"):
        other.load({name: value for name, value in tensors.items() if name != "cats.bias"})


@torch.no_grad()
def test_a_mixed_batch_equals_the_batches_of_every_task():
    model = multitask()
    inputs = tokens()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]])
    mixed = model(input_ids=inputs, attention_mask=mask, graft_rows=ROWS).logits
    for i in range(4):
        width = int(mask[i].sum())
        alone = model(input_ids=inputs[i : i + 1, :width], graft_rows=ROWS[i : i + 1]).logits
        torch.testing.assert_close(mixed[i], alone[0])
    assert not torch.allclose(mixed, model(input_ids=inputs, attention_mask=mask, graft_rows=2 - ROWS).logits)


def test_loss_and_gradients_reach_adapters_and_heads():
    model = multitask().train()
    model.backbone.base_model.router.driven = True
    model(input_ids=tokens(), labels=LABELS, graft_rows=ROWS).loss.backward()
    assert model.heads.weight.grad.abs().sum() > 0
    assert all(layer.graft_up["default"].grad is not None for layer in graft_layers(model))
    assert all(p.grad is None for name, p in model.named_parameters() if not p.requires_grad)


@torch.no_grad()
def test_a_plain_backbone_and_a_single_task():
    model = MultiTaskModel(tiny(), HEADS[2:]).eval()
    logits = model(input_ids=tokens()).logits
    assert torch.equal(logits, model(input_ids=tokens(), graft_rows=torch.zeros(4, dtype=torch.long)).logits)
    several = MultiTaskModel(tiny(), HEADS).eval()
    with pytest.raises(DataError, match=r"several tasks \(cats, dogs, birds\); pass graft_rows"):
        several(input_ids=tokens())
    assert several(input_ids=tokens(), graft_rows=ROWS).logits.shape == (4, 3)


@torch.no_grad()
def test_images():
    model = MultiTaskModel(grafted(tiny("vit")), HEADS, pooling="cls").eval()
    assert model(pixel_values=torch.randn(4, 3, 8, 8), graft_rows=ROWS).logits.shape == (4, 3)


def test_width_of_the_hidden_state():
    assert hidden_width(tiny()) == hidden_width(grafted()) == 16
    assert hidden_width(tiny("t5")) == hidden_width(tiny("gpt2")) == 16
    with pytest.raises(ConfigError, match="configuration of Linear names no hidden_size"):
        hidden_width(nn.Linear(2, 2))
    odd = nn.Linear(2, 2)
    odd.config = SimpleNamespace(model_type="odd")
    with pytest.raises(ConfigError, match="names no hidden_size"):
        MultiTaskModel(odd, HEADS)


def test_the_tasks_of_the_heads_are_those_of_the_adapter():
    with pytest.raises(
        ConfigError, match="the heads are for birds, dogs, cats, the adapter for cats, dogs, birds"
    ):
        MultiTaskModel(grafted(tasks=TASKS), HEADS[::-1])
