"""Every method trains one tiny run; its parameters are counted right, and its own machinery is alive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.poly.layer import PolyLayer
from rich.console import Console

from graftwork.errors import ConfigError
from graftwork.experiments.grid.grid import Grid, Trial, make_trial
from graftwork.experiments.grid.settings import load_data, run_settings
from graftwork.experiments.methods import baselines
from graftwork.experiments.methods.adapters import SwitchSite
from graftwork.experiments.methods.method import Adapted, Setup
from graftwork.experiments.methods.registry import METHODS
from graftwork.experiments.running.trial import run_trial
from graftwork.fitting.fit import fit
from graftwork.kinds.heads import TaskHead
from graftwork.models.backbone import load_backbone
from graftwork.models.multitask import MultiTaskModel
from graftwork.recipe.loading import load_recipe
from graftwork.recipe.settings import GraftSettings
from graftwork.search.schedule import Schedule
from graftwork.tuner.layer import GraftLayer
from toyrun import recipe_dict

MakeGrid = Callable[..., Grid]

HIDDEN, INNER, LAYERS, TASKS = 32, 64, 2, 3
BACKBONE = 19744
HEADS = 3 * 2 * 33  # three tasks, padded to two outputs
SITES = 2 * LAYERS


def adapter(r: int) -> int:
    return r * (2 * HIDDEN + 1)


BIASES = LAYERS * (4 * HIDDEN + INNER + HIDDEN + 2 * HIDDEN) + HIDDEN + HIDDEN
MAPS, MIXED, OWN = 2 * LAYERS, 8 * HIDDEN * (1 + 3), 8 * 8 + 3
"""Query and value; A and three B of rank 8; what each task has of its own: its matrix and its weights."""
# trained at most without the heads, stored, active of one task
SIZES: dict[str, tuple[int, int, int]] = {
    "heads": (0, 0, 0),
    "full": (BACKBONE, BACKBONE, BACKBONE),
    "bitfit": (BIASES, BIASES, BIASES),
    "lora": (2 * LAYERS * 8 * 2 * HIDDEN,) * 3,
    "adalora": (2 * LAYERS * (12 * (2 * HIDDEN + 1)), *(2 * LAYERS * 8 * (2 * HIDDEN + 1),) * 2),
    "ia3": (LAYERS * (2 * HIDDEN + HIDDEN + INNER),) * 3,
    "prefix": (20 * LAYERS * 2 * HIDDEN,) * 3,
    "poly": (2 * LAYERS * (4 * 4 * 2 * HIDDEN + TASKS * 4),) * 3,
    "mtl_lora": (MAPS * (MIXED + TASKS * OWN), MAPS * (MIXED + TASKS * OWN), MAPS * (MIXED + OWN)),
    "hydra_lora": (MAPS * (MIXED + 3 * HIDDEN),) * 3,
    "adapters": (SITES * adapter(8),) * 3,
    "adapters_ffn": (LAYERS * adapter(16),) * 3,
    "adapter_drop": (SITES // 2 * adapter(8),) * 3,
    "shared": (SITES * adapter(32),) * 3,
    "private": (SITES * TASKS * adapter(8), SITES * TASKS * adapter(8), SITES * adapter(8)),
    "adapter_fusion": (LAYERS * 3 * HIDDEN**2, *(LAYERS * (3 * HIDDEN**2 + TASKS * adapter(8)),) * 2),
}


def single_run(grid: Grid, **changes: Any) -> Trial:
    (cell,) = grid.cells()
    return make_trial(grid, cell, seed=0, purpose="final", **changes)


@pytest.mark.parametrize("name", SIZES)
def test_trains_with_the_right_parameter_counts(name: str, make_grid: MakeGrid) -> None:
    result = run_trial(single_run(make_grid(methods=[name])))
    trained, stored, active = SIZES[name]
    parameters = result["parameters"]
    assert parameters["backbone"] == BACKBONE
    assert parameters["peak_trainable"] == trained + HEADS
    assert parameters["stored"] == stored
    assert parameters["active"] == dict.fromkeys(("colour", "same", "length"), active)
    assert parameters["heads"] == (2 + 2 + 1) * 33
    assert result["bytes_on_disk"] > 4 * (stored + parameters["heads"])
    assert set(result["tasks"]["same"]) == {"metric", "validation", "test", "rows", "sha256"}
    scores = [task["test"] for task in result["tasks"].values()]
    assert result["suite"]["test"] == pytest.approx(sum(scores) / 3)
    assert 0 < result["seconds"]["train"] <= result["seconds"]["total"]
    assert [point["step"] for point in result["curves"] if "eval_mean" in point] == [18]
    assert result["memory_peak_bytes"] > 10**7


@pytest.mark.parametrize("name", ["graft", "random_structure", "gumbel_switch"])
def test_structures_are_recorded_and_counted(name: str, make_grid: MakeGrid) -> None:
    result = run_trial(single_run(make_grid(methods=[name])))
    sites = result["structure"]["sites"].values()
    used = sum(site["cost"] * sum(map(any, zip(*site["open"], strict=True))) for site in sites)
    assert result["parameters"]["stored"] == used
    if name != "gumbel_switch":
        assert 0 <= 0.05 * BACKBONE - used < adapter(2)


def test_linear_probe_needs_no_training(make_grid: MakeGrid) -> None:
    result = run_trial(single_run(make_grid(methods=["linear_probe"])))
    assert result["parameters"]["stored"] == 0
    assert result["parameters"]["heads"] == 33 + (4 * 32 + 1) + 33
    assert result["tasks"]["colour"]["test"] > 0.9
    assert result["curves"] == []
    assert set(result["settings"]["training"]) == {"max_length", "pooling"}


def test_graft_equals_fit(make_grid: MakeGrid, tmp_path_factory: pytest.TempPathFactory, toy: Any) -> None:
    from toyrun import recipe_dict, write_recipe

    folder = tmp_path_factory.mktemp("fit")
    recipe = {**recipe_dict(toy), "output": str(folder / "out")}
    report = fit(load_recipe(write_recipe(folder, recipe)), console=Console(quiet=True))
    grid = make_grid(methods=["graft"], training=recipe["training"])
    result = run_trial(single_run(grid))
    assert result["structure"] == report["structure"]
    for name, task in report["tasks"].items():
        assert result["tasks"][name]["validation"] == pytest.approx(task["validation"], abs=1e-6)
        assert result["tasks"][name]["test"] == pytest.approx(task["test"], abs=1e-6)


@pytest.mark.parametrize(
    "name", ["lora", "adapters", "private", "poly", "gumbel_switch", "adalora", "mtl_lora", "hydra_lora"]
)
def test_a_budget_sets_the_rank(name: str, make_grid: MakeGrid) -> None:
    result = run_trial(single_run(make_grid(methods=[name], vary={"budget": ["30%"]})))
    assert 0.1 * BACKBONE < result["parameters"]["stored"] <= 0.3 * BACKBONE or name == "gumbel_switch"


def test_a_budget_below_rank_one_is_refused(make_grid: MakeGrid) -> None:
    run = single_run(make_grid(methods=["lora"], vary={"budget": [0.001]}))
    with pytest.raises(ConfigError, match=r"budget=0.001 allows 19 parameters, but rank 1 needs 256"):
        run_trial(run)


def adapt(name: str, toy: Any, steps: int = 20, **options: Any) -> tuple[MultiTaskModel, Adapted]:
    backbone, _ = load_backbone(str(toy / "backbone"))
    setup = Setup(("a", "b"), steps, 0, GraftSettings(), Schedule(), list, lambda task, adapted: 0.0)
    adapted = METHODS[name](**options).adapt(backbone, setup)
    heads = [TaskHead(task, ("text",), "label", "classification", "accuracy", ("x", "y")) for task in "ab"]
    model = MultiTaskModel(adapted.backbone, heads)
    adapted.attach(model)
    return model, adapted


IDS = torch.tensor([[2, 5, 6, 3], [2, 7, 8, 3]])
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "graft_rows": torch.tensor([0, 1])}


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("budget", [0.02, 0.2, 0.5])
def test_a_lora_can_fill_its_budget(budget: float, rslora: bool, toy: Any) -> None:
    options = {"target_modules": ("query", "key", "value", "dense"), "alpha": 4.0, "rslora": rslora}
    model, _ = adapt("lora", toy, budget=budget, fill=True, **options)
    layers = [module for module in model.backbone.modules() if isinstance(module, LoraLayer)]
    smallest = 2 * HIDDEN
    stored = sum(p.numel() for name, p in model.backbone.named_parameters() if ".lora_" in name)
    assert budget * BACKBONE - smallest < stored <= budget * BACKBONE
    ranks = [layer.r["default"] for layer in layers]
    assert max(ranks) - min(ranks) <= 1 + (budget < 0.1)
    for rank, layer in zip(ranks, layers, strict=True):
        assert layer.scaling["default"] == pytest.approx(4.0 / (rank**0.5 if rslora else rank))


def test_a_lora_without_a_budget_has_nothing_to_fill(toy: Any) -> None:
    with pytest.raises(ConfigError, match="fill=true needs a budget"):
        adapt("lora", toy, fill=True)
    with pytest.raises(
        ConfigError, match=r"budget=0.001 is less than one module of rank 1 \(64 parameters\)"
    ):
        adapt("lora", toy, fill=True, budget=0.001)


def test_adalora_has_its_orthogonality_loss(toy: Any) -> None:
    model, adapted = adapt("adalora", toy)
    model(**BATCH)
    loss = adapted.extra_loss()
    assert loss is not None
    weights = [p for name, p in model.named_parameters() if ".lora_A." in name or ".lora_B." in name]
    square = [w @ w.T if w.shape[0] < w.shape[1] else w.T @ w for w in weights]
    expected = torch.stack([(s - torch.eye(len(s))).norm() for s in square]).mean() * 0.5
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(w.grad is not None and w.grad.abs().sum() > 0 for w in weights)
    assert adapted.extra_loss() is None


def test_poly_mixes_by_task(toy: Any) -> None:
    model, adapted = adapt("poly", toy)
    assert adapted.rates == {"module_logits": 0.1}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "poly_lora" in name:
                parameter.normal_()
            if "module_logits" in name:
                parameter.normal_(std=3)
    model.eval()
    hidden = []
    for rows in ([0, 0], [1, 1], [0, 1]):
        model.heads.weight.data[:] = 1.0
        logits = model(**{**BATCH, "graft_rows": torch.tensor(rows)}).logits
        hidden.append(logits[:, 0])
    assert not torch.allclose(hidden[0], hidden[1])
    torch.testing.assert_close(hidden[2], torch.stack([hidden[0][0], hidden[1][1]]))


def test_poly_can_average_its_pool_for_every_task(make_grid: MakeGrid, toy: Any) -> None:
    grid = make_grid(methods=[{"name": "poly", "label": "average", "method": {"uniform": True, "splits": 2}}])
    result = run_trial(single_run(grid))
    assert result["parameters"]["stored"] == 2 * LAYERS * 4 * 4 * 2 * HIDDEN  # no logits
    assert result["settings"]["method"]["uniform"] is True
    model, adapted = adapt("poly", toy, uniform=True)
    assert adapted.rates == {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "poly_lora" in name:
                parameter.normal_()
    layer = next(module for module in model.modules() if isinstance(module, PolyLayer))
    x = torch.randn(2, 3, HIDDEN)
    weights = [layer.poly_lora_A["default"], layer.poly_lora_B["default"]]
    down, up = (weight.mean(dim=1).squeeze(0) for weight in weights)
    for model_mode in (True, False):
        layer.train(model_mode)
        found = layer(x, task_ids=torch.tensor([0, 1]))
        torch.testing.assert_close(found, layer.base_layer(x) + x @ down @ up / 4)


def test_a_setting_that_came_later_leaves_the_key_as_it_was(make_grid: MakeGrid) -> None:
    plain = single_run(make_grid(methods=["poly"]))
    other = single_run(make_grid(methods=[{"name": "poly", "method": {"uniform": True}}]))
    datas = load_data(plain.tasks, 0)
    assert "uniform" not in run_settings(plain, datas)["settings"]["method"]
    assert run_settings(plain, datas)["key"] != run_settings(other, datas)["key"]


@pytest.mark.parametrize("name", ["adapters", "adapters_ffn", "adapter_drop", "shared", "private"])
def test_fixed_adapters_have_no_scale(name: str, toy: Any) -> None:
    """Unlike the pool of a search, whatever its default: their results were measured without one."""
    model, _ = adapt(name, toy)
    layers = [module for module in model.backbone.modules() if isinstance(module, GraftLayer)]
    pools = [pool for layer in layers for pool in layer.pools.values()]
    assert {(pool.scale, pool.activation, pool.parallel) for pool in pools} == {(1.0, "gelu", False)}


def test_prefix_changes_the_output(toy: Any) -> None:
    model, _ = adapt("prefix", toy)
    model.eval()
    before = model(**BATCH).logits
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "prompt_encoder" in name:
                parameter.normal_(std=2.0)
    assert not torch.allclose(model(**BATCH).logits, before)


def test_switches_are_hard_in_evaluation_and_soft_in_training(toy: Any) -> None:
    model, _ = adapt("gumbel_switch", toy)
    plain, _ = load_backbone(str(toy / "backbone"))
    sites = [module for module in model.modules() if isinstance(module, SwitchSite)]
    assert len(sites) == LAYERS
    with torch.no_grad():
        for site in sites:
            site.adapter.up.weight.normal_()
            site.switch_bias.copy_(torch.tensor([1.0, 0.0]))
    model.eval()
    inputs = {key: value for key, value in BATCH.items() if key != "graft_rows"}
    off = model.backbone(**inputs).last_hidden_state
    assert torch.equal(off, plain.eval()(**inputs).last_hidden_state)
    model.train()
    model(**BATCH).logits.sum().backward()
    assert all(site.switch_bias.grad is not None for site in sites)


def test_a_diverged_run_is_an_error(make_grid: MakeGrid) -> None:
    run = single_run(make_grid(methods=["full"]), rate=1e12)
    with pytest.raises(Exception, match="diverged"):
        run_trial(run)


def test_noise_is_applied_and_measured(make_grid: MakeGrid) -> None:
    noise = [
        {"kind": "word_drop", "ratio": 0.4, "when": "test"},
        {"kind": "labels", "ratio": 0.25},
        {"kind": "path_drop", "ratio": 0.5},
        {"kind": "embeddings", "ratio": 0.1, "when": "train"},
    ]
    noisy = run_trial(single_run(make_grid(methods=["graft"], noise=noise)))
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in noisy["noise"]:
        found.setdefault(entry["kind"], []).append(entry)
    assert {entry["task"] for entry in found["word_drop"]} == {"colour", "same", "length"}
    assert all(0.1 < entry["realised"]["train"] <= 0.25 for entry in found["labels"])
    assert found["path_drop"][0]["realised"]["test"] == pytest.approx(0.5, abs=0.2)
    assert found["embeddings"][0]["realised"]["train"] == pytest.approx(0.1, abs=0.02)


def test_bitfit_without_biases_is_refused() -> None:
    from transformers import LlamaConfig, LlamaModel

    backbone = LlamaModel(
        LlamaConfig(
            vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        )
    )
    setup = Setup(("a",), 1, 0, GraftSettings(), Schedule(), list, lambda task, adapted: 0.0)
    with pytest.raises(ConfigError, match="no biases"):
        baselines.BitFit().adapt(backbone, setup)


def pairs_grid(make_grid: MakeGrid, toy: Any, pairs: str, **changes: Any) -> Grid:
    tasks = recipe_dict(toy)["tasks"]
    tasks[1]["pairs"] = pairs
    return make_grid(tasks=tasks, **changes)


@pytest.mark.parametrize("name", ["lora", "poly", "mtl_lora", "prefix", "adapter_fusion", "graft"])
def test_every_engine_reads_the_texts_of_a_pair_separately(name: str, make_grid: MakeGrid, toy: Any) -> None:
    result = run_trial(single_run(pairs_grid(make_grid, toy, "separate", methods=[name])))
    assert result["parameters"]["heads"] == 2 * 33 + 2 * (4 * 32 + 1) + 33
    assert result["settings"]["tasks"][1]["pairs"] == "separate"
    assert "pairs" not in result


def test_a_trial_finds_out_how_to_read_pairs(make_grid: MakeGrid, toy: Any) -> None:
    found = {
        pairs: run_trial(single_run(pairs_grid(make_grid, toy, pairs, methods=["lora"])))
        for pairs in ("auto", "joint", "separate")
    }
    assert len({result["key"] for result in found.values()}) == 3
    choice = found["auto"]["pairs"]["same"]
    assert set(choice["scores"]) == {"joint", "separate"}
    same = found[choice["pairs"]]
    assert {name: task["test"] for name, task in found["auto"]["tasks"].items()} == {
        name: task["test"] for name, task in same["tasks"].items()
    }


def test_dora_and_pissa_are_those_of_peft(toy: Any) -> None:
    plain, _ = adapt("lora", toy, r=2)
    dora, adapted = adapt("lora", toy, r=2, dora=True)
    layers = [module for module in dora.modules() if isinstance(module, LoraLayer)]
    assert all(layer.use_dora["default"] for layer in layers)
    trained = sum(p.numel() for p in adapted.backbone.parameters() if p.requires_grad)
    magnitudes = sum(layer.out_features for layer in layers)
    lora = sum(p.numel() for p in plain.backbone.parameters() if p.requires_grad)
    assert trained == lora + magnitudes
    pissa, _ = adapt("lora", toy, r=2, start="pissa")
    (layer, *_), (other, *_) = (
        [module for module in model.modules() if isinstance(module, LoraLayer)] for model in (pissa, plain)
    )
    assert layer.lora_B["default"].weight.abs().max() > 0
    before, after = other.base_layer.weight, layer.base_layer.weight + layer.get_delta_weight("default")
    assert not torch.equal(before, layer.base_layer.weight)
    torch.testing.assert_close(after, before)


def test_settings_of_lora_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="leave one out"):
        METHODS["lora"](budget=0.1, fill=True, dora=True)
    with pytest.raises(ConfigError, match="allowed: default, pissa"):
        METHODS["lora"](start="olora")
