from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

import graftwork as gw
from graftwork.models.files import FILES
from graftwork.training.trainer import suite_scores
from toy_heads import HEADS
from toy_training import make_model, make_trainer, weights


def test_accumulation_gives_the_step_of_the_whole_batch(tmp_path):
    found = []
    for batch, accumulation in ((24, 1), (6, 4)):
        model = make_model(gates="fixed", budget=None)
        trainer = make_trainer(
            tmp_path,
            model,
            max_steps=1,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            max_grad_norm=0.0,
            learning_rate=1.0,
            lr_scheduler_type="constant",
        )
        # The same 24 rows in any batching.
        trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(range(24))
        result = trainer.train()
        found.append((result.training_loss, weights(model)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    start = weights(make_model(gates="fixed", budget=None))
    moved = 0
    for name, value in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], value, atol=1e-5, rtol=1e-4)
        moved += not torch.equal(value, start[name])
    assert moved > 10


def test_a_run_learns_and_ends_compact(tmp_path):
    model = make_model()
    callback = gw.StructureCallback()
    trainer = make_trainer(
        tmp_path, model, callbacks=[callback], logging_strategy="steps", logging_steps=1, max_steps=40
    )
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert np.mean([entry["loss"] for entry in history[-5:]]) < np.mean(
        [entry["loss"] for entry in history[:5]]
    )
    assert {"graft/expected_parameters", "graft/open_paths_cats", "graft/up_norm"} <= set(history[0])
    assert history[-1]["graft/realised_parameters"] == callback.structure.parameters()
    assert 300 - 66 < gw.structure_of(model).parameters() <= 300
    metrics = trainer.evaluate()
    assert {"eval_cats", "eval_dogs", "eval_birds", "eval_mean"} <= set(metrics)


def test_heads_may_have_a_learning_rate_of_their_own(tmp_path):
    model = make_model()
    trainer = make_trainer(
        tmp_path, model, head_learning_rate=0.5, weight_decay=0.1, callbacks=[gw.StructureCallback()]
    )
    optimizer = trainer.create_optimizer()
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert len(rates) == sum(len(g["params"]) for g in optimizer.param_groups) == len(trainable)
    assert rates[id(model.heads.weight)] == (0.5, 0.1)
    assert rates[id(model.heads.bias)] == (0.5, 0.0)
    assert {rates[id(p)][0] for name, p in model.named_parameters() if "graft_" in name} == {0.01}
    assert {rates[id(p)][1] for name, p in model.named_parameters() if "graft_gate" in name} == {0.0}
    trainer.train()
    assert 300 - 66 < gw.structure_of(model).parameters() <= 300


@pytest.mark.parametrize("at", [7, 15])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, at):
    settings = {"head_learning_rate": 0.05, "eval_strategy": "steps", "eval_steps": 5}
    whole = make_model()
    make_trainer(
        tmp_path, whole, callbacks=[gw.StructureCallback()], save_strategy="steps", save_steps=at, **settings
    ).train()
    folder = tmp_path / f"checkpoint-{at}"
    names = {path.name for path in folder.iterdir()}
    assert {FILES.heads, FILES.tasks, FILES.adapter_weights, FILES.adapter_config} <= names
    assert json.loads((folder / FILES.tasks).read_text())["model"] == "tiny"
    assert not any(name.endswith("model.safetensors") and "adapter" not in name for name in names)
    resumed = make_model()
    resumed.heads.weight.data.mul_(2)
    trainer = make_trainer(tmp_path, resumed, callbacks=[gw.StructureCallback()], save_steps=at, **settings)
    trainer.train(resume_from_checkpoint=str(folder))
    expected, found = weights(whole), weights(resumed)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_best_model_comes_back(tmp_path):
    model = make_model()
    trainer = make_trainer(
        tmp_path,
        model,
        callbacks=[gw.StructureCallback(compact=False)],
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=4,
        save_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="mean",
    )
    trainer.train()
    assert int(trainer.state.best_model_checkpoint.rpartition("-")[2]) >= 12
    best = trainer.state.best_metric
    assert trainer.evaluate()["eval_mean"] == pytest.approx(best)


def test_gradient_checkpointing_gives_the_same_run(tmp_path):
    found = []
    for on in (False, True):
        model = make_model()
        trainer = make_trainer(
            tmp_path, model, callbacks=[gw.StructureCallback()], activation_checkpointing=on, max_steps=6
        )
        trainer.train()
        found.append(weights(model))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value)


def test_scores_of_a_suite():
    logits = np.array(
        [[2.0, 1.0, -np.inf], [0.3, -np.inf, -np.inf], [0.9, -np.inf, -np.inf], [0.0, 1.0, 3.0]]
    )
    labels, tasks = np.array([0.0, 0.1, 0.2, 1.0]), np.array([0, 1, 1, 2])
    scores = suite_scores(HEADS)(EvalPrediction(logits, (labels, tasks)))
    assert scores == {"cats": 1.0, "dogs": pytest.approx(1.0), "birds": 0.0, "mean": pytest.approx(2 / 3)}
