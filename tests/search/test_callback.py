from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from transformers import TrainerCallback

import graftwork as gw
from graftwork.errors import ConfigError, TrainingError
from toy_search import classifier, make_trainer
from toys import graft_layers, outputs, tiny

ADAPTER = 64
"""Parameters beside a map of 16 to 16; beside one of the feed-forward part there are 80."""
POOL = 2 * 3 * (4 * ADAPTER + 2 * 80)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("budget", [150, 300, 0.05])
def test_the_budget_is_met_by_plain_trainer(tmp_path, budget):
    model = classifier(budget=budget)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    callback = gw.StructureCallback()
    make_trainer(tmp_path, model, [callback]).train()
    allowed = budget if budget >= 1 else int(budget * sum(p.numel() for p in frozen.values()))
    structure = gw.structure_of(model)
    assert allowed - ADAPTER < structure.parameters() <= allowed
    assert structure == callback.structure.compacted()
    assert not any("gate_bias" in name for name, _ in model.named_parameters())
    assert {name: phase["steps"] for name, phase in callback.phases.items()} == {
        "warm-up": 3,
        "search": 9,
        "tune": 8,
    }
    for name, parameter in model.named_parameters():
        for changed in (name, name.replace(".base_layer", "")):
            if changed in frozen:
                assert torch.equal(parameter, frozen[changed])


def test_without_compacting_the_pool_stays(tmp_path):
    model = classifier()
    callback = gw.StructureCallback(compact=False)
    make_trainer(tmp_path, model, [callback]).train()
    assert len(graft_layers(model)) == 12
    assert gw.structure_of(model) == callback.structure
    assert json.loads(json.dumps(callback.state()))["args"]["compact"] is False


class Recorder(TrainerCallback):
    """Keeps the gates of every optimizer step, and silences the task's gradient on them."""

    def __init__(self, factor: float = 0.0) -> None:
        self.factor = factor
        self.seen: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs) -> None:
        for layer in graft_layers(model):
            if (grad := layer.graft_gate_bias["default"].grad) is not None:
                grad.mul_(self.factor)

    def on_optimizer_step(self, args, state, control, model, **kwargs) -> None:
        thetas = [layer.graft_gate_bias["default"].detach().flatten() for layer in graft_layers(model)]
        self.seen.append(torch.cat(thetas))


@pytest.mark.parametrize("settings", [{"penalty": 1.0}, {"budget": 300}])
def test_the_penalty_does_not_depend_on_accumulation_or_clipping(tmp_path, settings):
    runs = []
    for accumulation, clip in ((1, 1.0), (4, 1.0), (4, 0.0), (2, 1e-6)):
        recorder = Recorder()
        make_trainer(
            tmp_path,
            classifier(**settings),
            [recorder, gw.StructureCallback(discretise=1.0, compact=False)],
            gradient_accumulation_steps=accumulation,
            max_grad_norm=clip,
            max_steps=8,
        ).train()
        runs.append(torch.stack(recorder.seen))
    assert runs[0][1].abs().sum() == 0
    assert runs[0][-1].abs().sum() > 0
    for other in runs[1:]:
        torch.testing.assert_close(other, runs[0])


def test_the_clipping_factor_is_known(tmp_path):
    callback = gw.StructureCallback(compact=False)
    settings = {"max_grad_norm": 1e-3, "logging_strategy": "steps", "logging_steps": 1}
    make_trainer(tmp_path, classifier(), [callback], max_steps=3, **settings).train()
    assert callback.figures()["penalty_factor"] > 10


def test_gates_are_kept_out_of_weight_decay(tmp_path):
    trainer = make_trainer(tmp_path, classifier(), [], weight_decay=0.1)
    decayed = [p for g in trainer.create_optimizer().param_groups if g["weight_decay"] for p in g["params"]]
    names = {name for name, p in trainer.model.named_parameters() if any(p is other for other in decayed)}
    assert any("graft_up" in name for name in names)
    assert not any("graft_gate" in name for name in names)


def test_gates_travel_as_far_as_asked(tmp_path):
    recorder = Recorder()
    model = classifier(penalty=1.0)
    callback = gw.StructureCallback(warmup=0.0, ramp=0.0, discretise=1.0, compact=False, travel=8.0)
    trainer = make_trainer(tmp_path, model, [recorder, callback], max_steps=40, lr_scheduler_type="constant")
    trainer.train()
    ratio = float(graft_layers(model)[0].graft_ratio["default"])
    assert ratio == pytest.approx(8.0 / (40 * 0.01))
    # Under Adam a gradient that keeps its sign moves a gate by the learning rate, until the clamp stops it.
    travelled = -float(recorder.seen[-1].min()) * ratio
    bound = graft_layers(model)[0].pools["default"].family.bound
    assert travelled == pytest.approx(min(8.0, bound + 2.0), rel=0.2)


def test_forgetting_the_callback_warns_once(tmp_path):
    model = classifier()
    with pytest.warns(UserWarning, match="nobody drives the structure search.*StructureCallback") as caught:
        make_trainer(tmp_path, model, [], max_steps=3).train()
    assert sum("nobody drives" in str(item.message) for item in caught) == 1


def test_the_best_model_is_one_of_the_decided(tmp_path):
    class Falsify(TrainerCallback):
        """Makes every evaluation worse than the one before."""

        def on_evaluate(self, args, state, control, metrics, **kwargs) -> None:
            metrics["eval_loss"] = float(state.global_step)

    trainer = make_trainer(
        tmp_path,
        classifier(),
        [gw.StructureCallback(), Falsify()],
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=4,
        save_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
    )
    trainer.train()
    assert trainer.state.best_metric == 12.0
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-12")
    structure = gw.structure_of(trainer.model)
    assert 300 - ADAPTER < structure.parameters() <= 300


@pytest.mark.parametrize(
    ("at", "settings"),
    [
        *((at, settings) for at in (2, 8, 15) for settings in ({"budget": 300}, {"penalty": 1.0})),
        *((8, {"gates": gates}) for gates in ("gumbel", "shifted_sigmoid", "importance")),
        (2, {"gates": "importance"}),
    ],
)
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, at, settings):
    whole = classifier(**settings)
    callback = gw.StructureCallback()
    make_trainer(tmp_path, whole, [callback], save_strategy="steps", save_steps=at).train()
    resumed = classifier(**settings)
    for layer in graft_layers(resumed):
        layer.graft_down["default"].data.normal_()
    second = gw.StructureCallback()
    trainer = make_trainer(tmp_path, resumed, [second])
    trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
    assert second.structure == callback.structure
    expected = weights(whole)
    found = weights(resumed)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert sum(phase["steps"] for phase in second.phases.values()) == 20
    # Another run from the start, of the same callback, must not inherit anything.
    fresh = classifier(**settings)
    make_trainer(tmp_path / "fresh", fresh, [second]).train()
    assert all(torch.equal(weights(fresh)[name], expected[name]) for name in expected)
    assert sum(phase["steps"] for phase in second.phases.values()) == 20


@pytest.mark.parametrize("gates", ["gumbel", "shifted_sigmoid", "importance"])
def test_what_a_gate_family_keeps_is_in_the_checkpoint_until_compacted(tmp_path, gates):
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs) -> None:
            seen.append([layer.graft_state["default"].clone() for layer in graft_layers(model)])

    model = classifier(gates=gates)
    callbacks = [gw.StructureCallback(), Watch()]
    make_trainer(tmp_path, model, callbacks, save_strategy="steps", save_steps=8).train()
    loaded = classifier(gates=gates)
    start = [layer.graft_state["default"].clone() for layer in graft_layers(loaded)]
    loaded.load_adapter(str(tmp_path / "checkpoint-8"), "default", is_trainable=True)
    for layer, saved, first in zip(graft_layers(loaded), seen[7], start, strict=True):
        assert torch.equal(layer.graft_state["default"], saved)
        assert not torch.equal(saved, first)
    if gates == "gumbel":
        temperatures = [float(states[0]) for states in seen]
        assert temperatures == sorted(temperatures, reverse=True)
        assert temperatures[2] == 1.0
        assert temperatures[10] == pytest.approx(0.1)
    assert not any("graft_state" in name for name in model.state_dict())


def test_checkpoints_are_safetensors_and_load_with_peft(tmp_path):
    trainer = make_trainer(
        tmp_path, classifier(), [gw.StructureCallback(compact=False)], save_strategy="steps", save_steps=8
    )
    trainer.train()
    folder = tmp_path / "checkpoint-16"
    fresh = tiny("bert", "AutoModelForSequenceClassification", num_labels=2)
    loaded = PeftModel.from_pretrained(fresh, str(folder)).eval()
    assert gw.structure_of(loaded) == gw.structure_of(trainer.model)
    with gw.route(loaded, "dogs"):
        assert outputs(loaded).shape == (4, 2)


def test_deepspeed_is_refused(tmp_path):
    trainer = make_trainer(tmp_path, classifier(), [gw.StructureCallback()])
    trainer.args.deepspeed = "zero3.json"
    with pytest.raises(TrainingError, match="cannot work under DeepSpeed"):
        trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)


def test_a_schedule_out_of_order_is_refused():
    with pytest.raises(ConfigError, match="must satisfy"):
        gw.StructureCallback(warmup=0.7)


def test_fixed_gates_need_no_search_and_are_compacted(tmp_path):
    model = classifier(gates="fixed", budget=None)
    callback = gw.StructureCallback()
    make_trainer(tmp_path, model, [callback], max_steps=2).train()
    assert callback.structure is None
    assert gw.structure_of(model).parameters() == POOL
