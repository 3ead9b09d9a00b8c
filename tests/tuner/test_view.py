from __future__ import annotations

import pytest
from peft import LoraConfig, get_peft_model
from torch import nn

import graftwork as gw
from graftwork.errors import ConfigError, StructureError
from graftwork.sparsity.budget import budget_parameters
from graftwork.tuner.view import backbone_parameters, graft_view
from toys import graft_layers, grafted, tiny


def count(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_adapter_is_found_at_any_depth():
    model = grafted()
    for outer in (model, model.base_model, model.base_model.model, nn.ModuleDict({"deep": model})):
        view = graft_view(outer)
        assert view.backbone is model.base_model.model
        assert view.adapter_name == "default"
        assert list(view.sites.values()) == graft_layers(model)
        assert "encoder.layer.0.output.dense" in view.sites
        assert not view.decided


def test_the_backbone_is_counted_without_adapters():
    assert backbone_parameters(grafted()) == count(tiny())
    classifier = tiny("bert", "AutoModelForSequenceClassification")
    wanted = count(classifier)
    assert backbone_parameters(grafted(classifier, modules_to_save=["classifier"])) == wanted


def test_a_budget_is_a_fraction_or_a_count():
    size = count(tiny())
    assert budget_parameters(grafted(budget=0.05)) == int(0.05 * size)
    assert budget_parameters(grafted(budget=500)) == 500
    assert budget_parameters(grafted(penalty=1.0)) is None


def test_a_budget_below_one_adapter_is_refused():
    model = grafted(budget=0.001)
    with pytest.raises(
        StructureError, match=r"allows \d+ parameters, less than one adapter \(64\); raise the budget to"
    ):
        budget_parameters(model)
    with pytest.raises(StructureError, match="less than one adapter"):
        gw.structure_of(model)


def test_models_without_such_an_adapter():
    for model in (tiny(), get_peft_model(tiny(), LoraConfig(target_modules=["query"]))):
        with pytest.raises(ConfigError, match="has no graft adapter; wrap it with get_peft_model"):
            graft_view(model)
    with pytest.raises(ConfigError, match="no graft adapter 'other'; the model has default"):
        graft_view(grafted(), "other")
