"""One trainer for fit, its budgets, an added task and a comparison, with what each of them asks for."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.trainer_callback import PrinterCallback, ProgressCallback

import graftwork as gw
from graftwork.models.multitask import MultiTaskModel
from graftwork.recipe.length import settle_length
from graftwork.recipe.loading import load_recipe
from graftwork.recipe.settings import TrainingSettings
from graftwork.training.bars import TrainingBars
from graftwork.training.build import build_trainer
from graftwork.training.preparation import Prepared, prepare
from graftwork.training.run import train
from graftwork.training.trainer import MultiTaskTrainer
from toyrun import write_run
from toys import grafted

SETTINGS = settle_length(TrainingSettings(epochs=1, batch_size=48, learning_rate=0.01), 288)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    write_run(folder)
    return folder


@pytest.fixture
def prepared(folder: Path) -> Prepared:
    recipe = load_recipe(folder / "recipe.yaml")
    return prepare(recipe.model, recipe.tasks, max_length=16)


def built(prepared: Prepared, folder: Path, **options: Any) -> MultiTaskTrainer:
    torch.manual_seed(0)
    adapted = grafted(copy.deepcopy(prepared.backbone), tasks=prepared.names, gates="fixed")
    model = MultiTaskModel(adapted, [data.head for data in prepared.datas])
    settings = options.pop("settings", SETTINGS)
    return build_trainer(
        model, prepared, settings, **{"folder": folder, "seed": 3, "callbacks": [], **options}
    )


def test_settings_and_rows_arrive(prepared: Prepared, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, head_learning_rate=0.1, temperature=2.0)
    trainer = built(prepared, tmp_path, settings=settings, changes={"run_name": "mine"})
    assert trainer.args.learning_rate == 0.01
    assert trainer.args.per_device_train_batch_size == 48
    assert trainer.args.seed == 3
    assert trainer.args.run_name == "mine"
    assert (trainer.head_learning_rate, trainer.temperature) == (0.1, 2.0)
    assert trainer.backbone_name == prepared.name
    assert trainer.train_dataset is prepared.tokens["train"]
    assert trainer.eval_dataset is prepared.tokens["validation"]


@pytest.mark.parametrize(("every", "strategy"), [(None, "epoch"), (2, "steps")])
def test_checkpoints_are_saved_where_they_are_asked_for(
    every: int | None, strategy: str, prepared: Prepared, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, eval_steps=every)
    args = built(prepared, tmp_path, settings=settings, checkpoints=True).args
    assert args.save_strategy == args.eval_strategy == strategy
    assert args.load_best_model_at_end
    assert args.save_total_limit == 2
    args = built(prepared, tmp_path, settings=settings).args
    assert args.eval_strategy == strategy
    assert args.save_strategy == "no"
    assert not args.load_best_model_at_end


def test_bars_are_for_a_terminal(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(terminal: bool, **options: Any) -> set[type]:
        monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
        callbacks = built(prepared, tmp_path, **options).callback_handler.callbacks
        return {type(item) for item in callbacks} & {TrainingBars, ProgressCallback, PrinterCallback}

    assert shown(True, bars=True) == {TrainingBars}
    assert shown(True) == shown(False, bars=True) == set()


def test_without_validation_rows_nothing_is_evaluated(prepared: Prepared, tmp_path: Path) -> None:
    alone = dataclasses.replace(prepared, tokens={"train": prepared.tokens["train"]})
    trainer = built(alone, tmp_path)
    train(trainer, [], [])
    assert not any("eval_mean" in entry for entry in trainer.state.log_history)
    assert trainer.evaluation_seconds == 0.0


def test_a_method_may_add_to_the_loss(prepared: Prepared, tmp_path: Path) -> None:
    calls: list[None] = []

    def extra() -> torch.Tensor:
        calls.append(None)
        return torch.tensor(100.0)

    trainer = built(prepared, tmp_path, extra_loss=extra)
    assert train(trainer, [], []) > 100
    assert len(calls) > trainer.state.global_step  # in evaluation, too, where it is not added
    (loss,) = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert loss < 100
    assert trainer.evaluation_seconds > 0


def test_a_method_may_name_parameters_with_a_rate_of_their_own(prepared: Prepared, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, head_learning_rate=0.1)
    trainer = built(prepared, tmp_path, settings=settings, rates={"graft_bias": 0.5})
    trainer.create_optimizer_and_scheduler(10)
    names = {id(value): name for name, value in trainer.model.named_parameters()}
    rates = {
        names[id(value)]: group["initial_lr"]
        for group in trainer.optimizer.param_groups
        for value in group["params"]
    }
    assert set(rates) == {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    for name, rate in rates.items():
        expected = 0.1 if name.startswith("heads") else 0.5 if "graft_bias" in name else 0.01
        assert rate == expected, name


def test_callbacks_are_called_in_their_order(prepared: Prepared, tmp_path: Path) -> None:
    given = [gw.StructureCallback(), gw.StructureCallback(adapter_name="other")]
    found = built(prepared, tmp_path, callbacks=given).callback_handler.callbacks
    assert [item for item in found if item in given] == given
