"""The factor of the sum over open adapters: a constant of the pool, saved with it."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel, get_peft_config

import graftwork as gw
from graftwork.errors import ConfigError
from graftwork.tuner.config_checks import pool_scale
from graftwork.tuner.view import graft_view
from toys import TASKS, graft_layers, grafted, outputs, random_structure, tiny

ROWS = torch.tensor([0, 1, 2, 0])
LINEAR = {"activation": "identity", "position": "parallel", "placement": "linear"}


def scales(model) -> set[float]:
    return {layer.pools["default"].scale for layer in graft_layers(model)}


def test_auto_follows_from_pool_and_rank():
    for pool_size, r in ((3, 2), (16, 1), (128, 4)):
        model = grafted(pool_size=pool_size, r=r, scale="auto")
        assert scales(model) == {pool_scale(pool_size, r)} == {graft_view(model).config.scale}
    assert pool_scale(16, 4) == pool_scale(64, 1) < pool_scale(16, 1)
    assert scales(grafted(scale=0.5)) == {0.5}
    assert scales(grafted()) == scales(grafted(scale="auto"))


def test_the_sum_is_multiplied():
    plain, scaled = grafted(scale=1.0, **LINEAR), grafted(scale=0.25, **LINEAR)
    for layer in graft_layers(plain):
        layer.graft_up["default"].data.mul_(0.25)
    torch.testing.assert_close(outputs(scaled, graft_rows=ROWS), outputs(plain, graft_rows=ROWS))


def test_what_open_adapters_write_does_not_depend_on_closed_ones():
    model = grafted(gates="fixed", scale=0.3, **LINEAR)
    layer = graft_layers(model)[0]
    x = torch.randn(2, 5, 16)
    base = layer.base_layer(x)
    with torch.no_grad(), gw.route(model, "cats"):
        parts = []
        for k in range(3):
            mask = torch.zeros(3, 3, dtype=torch.bool)
            mask[:, k] = True
            layer.set_mask("default", mask)
            parts.append(layer(x) - base)
        layer.set_mask("default", torch.ones(3, 3, dtype=torch.bool))
        torch.testing.assert_close(layer(x) - base, sum(parts))


def test_compact_models_keep_it_on_disk_and_merged(tmp_path):
    model = grafted(pool_size=4, scale="auto", **LINEAR)
    before = scales(model)
    gw.set_structure_(model, random_structure(model))
    expected = outputs(model, graft_rows=ROWS)
    gw.compact_(model)
    assert scales(model) == before
    model.save_pretrained(str(tmp_path))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["scale"] in before
    loaded = PeftModel.from_pretrained(tiny(), str(tmp_path)).eval()
    assert scales(loaded) == before
    assert torch.equal(outputs(loaded, graft_rows=ROWS), outputs(model, graft_rows=ROWS))
    torch.testing.assert_close(outputs(loaded, graft_rows=ROWS), expected)
    alone = outputs(model, graft_rows=torch.ones(4, dtype=torch.long))
    with gw.route(loaded, TASKS[1]):
        merged = loaded.merge_and_unload()
    torch.testing.assert_close(outputs(merged), alone, atol=2e-5, rtol=1e-4)


def test_configurations_saved_without_it_have_none(tmp_path):
    model = grafted(scale=1.0)
    model.save_pretrained(str(tmp_path))
    path = tmp_path / "adapter_config.json"
    values = json.loads(path.read_text())
    del values["scale"]
    path.write_text(json.dumps(values))
    loaded = PeftModel.from_pretrained(tiny(), str(tmp_path)).eval()
    assert scales(loaded) == {1.0}
    assert torch.equal(outputs(loaded, graft_rows=ROWS), outputs(model, graft_rows=ROWS))


def test_only_a_file_without_a_scale_means_none():
    """Settings in Python may name the type, as PEFT's `get_peft_config` wants it."""
    assert gw.GraftConfig(peft_type="GRAFT").scale == pool_scale(32, 1)
    assert get_peft_config({"peft_type": "GRAFT", "scale": "auto", "pool_size": 8}).scale == pool_scale(8, 1)


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), "much", True])
def test_absurd_scales_are_refused(scale):
    with pytest.raises(ConfigError, match=r"scale=.* must be a number above 0"):
        gw.GraftConfig(scale=scale)
