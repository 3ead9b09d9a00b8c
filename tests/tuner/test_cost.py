from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import graftwork as gw
from graftwork.errors import ConfigError, StructureError
from graftwork.search.discretise import site_scores
from graftwork.sparsity.budget import budget_cost, budget_parameters, site_prices
from graftwork.sparsity.budget_control import BudgetControl
from graftwork.sparsity.size import expected_active, expected_size, pool_cost, pool_parameters
from graftwork.tuner.cost import backbone_flops
from graftwork.tuner.view import graft_view
from toyrun import write_backbone
from toys import TASKS, graft_layers, grafted, spread_gates, tiny

SITES = [f"encoder.layer.{i}.{name}" for i in range(2) for name in ("attention.output.dense", "output.dense")]


AT_SITES = {"placement": "attention+ffn"}  # those four


def table(prices=(1.0, 2.0, 3.0, 4.0)) -> dict[str, float]:
    return dict(zip(SITES, prices, strict=True))


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_flops_are_two_per_weight_of_the_linear_maps(kind):
    backbone = tiny(kind)
    linear = [m for m in backbone.modules() if isinstance(m, nn.Linear | Conv1D)]
    by_hand = 2 * sum(m.weight.numel() for m in linear)
    assert backbone_flops(backbone) == by_hand > 0
    model = grafted(tiny(kind), cost="flops", budget=0.1)
    assert backbone_flops(model) == by_hand  # adapters do not count
    assert budget_cost(model) == int(0.1 * by_hand)
    prices = site_prices(graft_view(model))
    for layer, price in zip(graft_layers(model), prices.values(), strict=True):
        pool = layer.pools["default"]
        assert (
            price == 2 * (layer.graft_down["default"].numel() + layer.graft_up["default"].numel()) / pool.size
        )


def test_a_budget_of_flops_is_met():
    model = grafted(cost="flops", budget=0.05)
    spread_gates(model)
    structure = gw.structure_of(model)
    prices = site_prices(graft_view(model))
    left = budget_cost(model) - structure.total(prices)
    assert 0 <= left < min(prices.values())
    assert structure.parameters() == sum(s.cost * sum(s.used) for s in structure.sites.values())
    assert budget_parameters(model) is None


def test_a_table_prices_every_site_and_a_fraction_is_of_the_whole_pool():
    model = grafted(cost=table(), budget=0.5, pool_size=3, **AT_SITES)
    assert pool_cost(graft_view(model)) == 30.0
    assert budget_cost(model) == 15.0
    spread_gates(model)
    assert gw.structure_of(model).total(table()) == 15.0
    assert budget_cost(grafted(cost=table(), budget=7.5, **AT_SITES)) == 7.5


def test_cheap_sites_hold_more_adapters():
    even = [
        gw.structure_of(grafted(cost=table(prices), budget=6.0, **AT_SITES))
        for prices in ((1, 1, 1, 1), (1, 9, 9, 9))
    ]
    assert sum(sum(site.used) for site in even[0].sites.values()) == 6
    assert sum(even[1].sites[SITES[0]].used) == 3
    assert sum(sum(site.used) for site in even[1].sites.values()) == 3


def test_expected_size_is_in_the_unit_of_the_cost():
    model = grafted(cost=table(), budget=0.5, **AT_SITES)
    spread_gates(model)
    view = graft_view(model)
    open_ = {name: site.prob_open("default").detach().amax(dim=0).sum() for name, site in view.sites.items()}
    by_hand = sum(float(open_[name]) * price for name, price in table().items())
    assert expected_size(view).item() == pytest.approx(by_hand, rel=1e-5)
    in_parameters = sum(float(open_[n]) * s.pools["default"].cost for n, s in view.sites.items())
    assert expected_size(view, in_parameters=True).item() == pytest.approx(in_parameters, rel=1e-5)
    control = BudgetControl(budget_cost(model))
    excess = by_hand / pool_cost(view) - 0.5
    control.multipliers.data.fill_(1.0)
    assert control.loss(view, 1.0).item() == pytest.approx(excess + excess**2, rel=1e-4)
    assert pool_parameters(view) == 3 * sum(s.pools["default"].cost for s in view.sites.values())


def test_expected_active_parameters_of_every_task():
    model = grafted()
    spread_gates(model)
    found = expected_active(graft_view(model))
    assert found.shape == (len(TASKS),)
    by_hand = [
        sum(sum(row) * scores.cost for scores in site_scores(model).values() for row in [scores.scores[task]])
        for task in range(len(TASKS))
    ]
    assert found.tolist() == pytest.approx(by_hand, rel=1e-5)
    search = gw.StructureSearch(model, total_steps=10)
    assert search.figures()["active_parameters_dogs"] == pytest.approx(by_hand[1], rel=1e-5)


def test_a_table_is_read_when_the_model_is_wrapped_and_saved_with_it(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table()))
    model = grafted(cost=f"file:{path}", budget=0.5, **AT_SITES)
    path.unlink()
    assert graft_view(model).config.cost == table()
    assert budget_cost(model) == 15.0
    gw.compact_(model)
    model.save_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["cost"] == table()


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (
            "flop",
            r"cost='flop' is not known; did you mean 'flops'\? Allowed: parameters, flops, file:TABLE.json",
        ),
        ("file:", "is not known"),
        (3, "cost=3 must map names of sites"),
        ({}, "must map names of sites"),
        ({"a": 0}, "the cost of site 'a' is 0; it must be a number above 0"),
        ({"a": "x"}, "the cost of site 'a' is 'x'"),
        ({"a": float("nan")}, "the cost of site 'a' is nan"),
    ],
)
def test_bad_costs(cost, message):
    with pytest.raises(ConfigError, match=message):
        gw.GraftConfig(cost=cost)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no file .*table.json; make one with benchmarks/site_latency.py"),
        ("{", "cannot be read as JSON"),
        ("[1]", r"cost='file:.*': cost=\[1\] must map"),
        ('"flops"', "the file holds 'flops', not a mapping"),
        ('{"a": -1}', "the cost of site 'a' is -1"),
    ],
)
def test_bad_tables(text, message, tmp_path):
    path = tmp_path / "table.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        grafted(cost=f"file:{path}")
    assert "\n" not in str(caught.value)


def test_a_site_that_the_table_lacks():
    short = table()
    del short[SITES[2]]
    with pytest.raises(
        ConfigError, match=r"the cost table has no site 'encoder.layer.1.attention.output.dense'"
    ):
        budget_cost(grafted(cost=short, **AT_SITES))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cost": "flops", "budget": 0.001}, r"budget=0.001 allows \d+ flops, less than one adapter \(128\)"),
        (
            {"cost": table(), "budget": 0.01, **AT_SITES},
            r"budget=0.01 allows 0.3 of the cost table's units, .*least 0.033",
        ),
        ({"task_budget": 60}, r"task_budget=60 allows 60 parameters, .* \(64\); raise the task budget to at"),
    ],
)
def test_budgets_below_one_adapter(settings, message):
    with pytest.raises(StructureError, match=message):
        gw.structure_of(grafted(**settings))


def test_the_latency_benchmark_writes_a_table_that_a_configuration_takes(tmp_path, capsys):
    backbone = write_backbone(tmp_path / "backbone")
    path = Path(__file__).parents[2] / "benchmarks" / "site_latency.py"
    spec = importlib.util.spec_from_file_location("site_latency", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    threads = torch.get_num_threads()
    options = ["--rows", "8", "--length", "16", "--repeats", "9", "--threads", "1", "--placement", "ffn"]
    benchmark.main([str(tmp_path / "table.json"), "--model", str(backbone), *options])
    torch.set_num_threads(threads)
    found = json.loads((tmp_path / "table.json").read_text())
    assert list(found) == [f"encoder.layer.{i}.output.dense" for i in range(2)]
    assert found[SITES[1]] == found[SITES[3]] > 0  # of the same widths
    assert "microseconds per adapter" in capsys.readouterr().out
    model = grafted(placement="ffn", cost=f"file:{tmp_path / 'table.json'}", budget=0.5)
    assert gw.structure_of(model).total(found) == pytest.approx(3 * found[SITES[1]])
