"""Runs that diverge stop at once, say where, and keep the last good checkpoint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

import graftwork as gw
import toy_search
from graftwork.errors import DivergenceError
from graftwork.kinds.linear_heads import TaskHeads
from graftwork.search.divergence import not_finite
from graftwork.training.checkpoints import last_checkpoint
from toy_heads import HEADS
from toy_training import make_model, make_trainer, weights
from toys import graft_layers

NAN, INF = float("nan"), float("inf")


class Spoil(TrainerCallback):
    """Makes a value of some tensor wrong after the optimizer step of one step."""

    def __init__(self, step: int, choose: Any, value: float = NAN) -> None:
        self.step, self.choose, self.value = step, choose, value

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        if state.global_step == self.step - 1:
            with torch.no_grad():
                self.choose(model).flatten()[-1] = self.value


def spoil_label(trainer: Any, rows_per_step: int, value: float) -> int:
    """Give one row of the regression task a wrong label; returns the step that meets it, not the first."""
    tasks = trainer.train_dataset["graft_rows"]
    order = list(trainer._get_train_sampler())
    place = next(i for i in range(rows_per_step, len(order)) if HEADS[tasks[order[i]]].kind == "regression")
    columns = trainer.train_dataset.to_dict()
    columns["labels"][order[place]] = value
    trainer.train_dataset = type(trainer.train_dataset).from_dict(columns)
    return 1 + place // rows_per_step


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_the_task_and_the_step_are_named(tmp_path: Path, value: float, accumulation: int) -> None:
    model = make_model()
    trainer = make_trainer(
        tmp_path, model, gradient_accumulation_steps=accumulation, callbacks=[gw.StructureCallback()]
    )
    step = spoil_label(trainer, 6 * accumulation, value)
    with pytest.raises(DivergenceError) as caught:
        trainer.train()
    assert re.fullmatch(
        rf"training diverged at step {step}: the loss of task 'dogs' \(1 of its \d rows\) is (nan|inf); "
        r"lower the learning rate, or clip gradients with a smaller max_grad_norm\.",
        str(caught.value),
    )
    assert trainer.state.global_step == step - 1
    assert not not_finite(dict(model.named_parameters()))  # the optimizer has not seen it


def test_row_losses_are_those_of_the_mean() -> None:
    heads = TaskHeads(HEADS, 5)
    rows, labels = torch.tensor([0, 1, 2, 0]), torch.tensor([1.0, -0.3, 2.0, 0.0])
    logits = heads(torch.randn(4, 5), rows)
    assert torch.equal(heads.row_losses(logits, labels, rows).mean(), heads.loss(logits, labels, rows))


@pytest.mark.parametrize("what", ["head", "gate", "weight"])
def test_no_checkpoint_is_written_of_weights_that_are_not_finite(tmp_path: Path, what: str) -> None:
    choose = {
        "head": lambda model: model.heads.weight,
        "gate": lambda model: graft_layers(model)[-1].graft_gate_bias["default"],
        "weight": lambda model: graft_layers(model)[1].graft_up["default"],
    }[what]
    model = make_model()
    callbacks = [Spoil(6, choose), gw.StructureCallback()]
    trainer = make_trainer(
        tmp_path, model, callbacks=callbacks, save_strategy="steps", save_steps=3, save_total_limit=2
    )
    with pytest.raises(DivergenceError, match=r"training diverged at step 6: .*finite"):
        trainer.train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3"]
    assert last_checkpoint(tmp_path)[0] == tmp_path / "checkpoint-3"
    fresh = make_model()
    again = make_trainer(tmp_path, fresh, callbacks=[gw.StructureCallback()])
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.state.global_step == 20
    assert not not_finite(weights(fresh))


def test_weights_that_broke_are_named_with_the_loss(tmp_path: Path) -> None:
    callbacks = [Spoil(4, lambda model: model.heads.bias), gw.StructureCallback()]
    trainer = make_trainer(tmp_path, make_model(), callbacks=callbacks)
    with pytest.raises(
        DivergenceError, match=r"at step 5: the loss is nan, since 1 of .* such as heads\.bias"
    ):
        trainer.train()


@pytest.mark.parametrize("settings", [{"learning_rate": 1e30}, {"learning_rate": 1e30, "max_grad_norm": 0.0}])
def test_a_rate_that_is_too_high_stops_the_run(tmp_path: Path, settings: dict[str, Any]) -> None:
    trainer = make_trainer(tmp_path, make_model(), callbacks=[gw.StructureCallback()], **settings)
    with pytest.raises(DivergenceError, match=r"training diverged at step [2-5]: "):
        trainer.train()


@pytest.mark.parametrize("what", ["gate", "weight"])
@pytest.mark.parametrize("step", [1, 5, 12, 17])
def test_plain_trainer_is_stopped_by_the_callback(tmp_path: Path, what: str, step: int) -> None:
    """Before the search, in it, on the step that decides, and while the structure is tuned.

    One tensor alone is noticed when it counts: on the step that decides, or when the next step has spread it.
    """

    def choose(model: Any) -> torch.Tensor:
        layers = graft_layers(model)
        return layers[0].graft_gate_bias["default"] if what == "gate" else layers[0].graft_up["default"]

    if what == "gate" and step == 17:
        pytest.skip("gates are decided by then")
    # As a loss that is not finite does, the whole tensor.
    spoil = Spoil(step, choose)
    spoil.choose = lambda model: choose(model).fill_(NAN)
    model = toy_search.classifier()
    trainer = toy_search.make_trainer(tmp_path, model, [spoil, gw.StructureCallback()])
    seen = step if step == 12 else step + 1
    with pytest.raises(
        DivergenceError, match=rf"training diverged at step {seen}: \d+ of \d+ trained tensors"
    ):
        trainer.train()


def test_plain_trainer_with_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    model = toy_search.classifier()
    trainer = toy_search.make_trainer(
        tmp_path, model, [gw.StructureCallback()], learning_rate=1e30, save_strategy="steps", save_steps=1
    )
    with pytest.raises(DivergenceError, match=r"training diverged at step \d: "):
        trainer.train()
    for path in tmp_path.glob("checkpoint-*"):
        fresh = toy_search.classifier()
        toy_search.make_trainer(tmp_path, fresh, [gw.StructureCallback()])._load_from_checkpoint(str(path))
        assert not not_finite({name: value for name, value in fresh.named_parameters() if "graft" in name})


def test_a_run_goes_on_with_another_rate(tmp_path: Path) -> None:
    """The gates stay where they are, and reach as far in a search at a third of the rate."""
    whole = make_trainer(
        tmp_path,
        make_model(),
        callbacks=[gw.StructureCallback()],
        save_strategy="steps",
        save_steps=8,
        learning_rate=0.03,
        head_learning_rate=0.06,
    )
    whole.train()
    seen: dict[str, Any] = {}

    class Look(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            layers = graft_layers(kwargs["model"])
            seen["ratio"] = [float(layer.graft_ratio["default"]) for layer in layers]
            seen["logits"] = [layer.logits("default").detach().clone() for layer in layers]
            seen["rates"] = [group["lr"] for group in kwargs["optimizer"].param_groups]

    def go_on(**rates: float) -> dict[str, Any]:
        callbacks = [gw.StructureCallback(), Look()]
        trainer = make_trainer(tmp_path, make_model(), callbacks=callbacks, **rates)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
        return dict(seen)

    same = go_on(learning_rate=0.03, head_learning_rate=0.06)
    slower = go_on(learning_rate=0.01, head_learning_rate=0.06)
    assert slower["ratio"] == pytest.approx([3 * ratio for ratio in same["ratio"]])
    for old, new in zip(same["logits"], slower["logits"], strict=True):
        torch.testing.assert_close(new, old)
    heads = [rate for rate in same["rates"] if rate == max(same["rates"])]
    assert sorted(set(slower["rates"])) == pytest.approx(
        sorted({rate / 3 for rate in same["rates"]} - {max(same["rates"]) / 3} | set(heads))
    )


def test_the_finite_are_not_named() -> None:
    tensors = {
        "a": torch.ones(2),
        "b": torch.tensor([1.0, INF]),
        "c": torch.tensor([1]),
        "d": torch.tensor(NAN),
    }
    assert not_finite(tensors) == ["b", "d"]
    assert not_finite({"c": tensors["c"]}) == []
