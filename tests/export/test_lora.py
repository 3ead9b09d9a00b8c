from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file

import graftwork as gw
from graftwork.errors import MergeError, RoutingError, StructureError
from toys import TASKS, graft_layers, grafted, outputs, random_structure, spread_gates, tiny, tokens

ROUND = {"atol": 2e-5, "rtol": 1e-4}


def linear(kind: str = "bert", auto: str = "AutoModel", **settings) -> PeftModel:
    return grafted(tiny(kind, auto), **{"activation": "identity", **settings})


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("position", ["sequential", "parallel"])
@pytest.mark.parametrize("stage", ["learning", "discretised", "compact"])
@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed but the targeted layer")
def test_stock_lora_gives_the_outputs_of_every_task(tmp_path, kind, position, stage):
    model = linear(kind, position=position)
    spread_gates(model)
    if stage != "learning":
        gw.set_structure_(model, random_structure(model))
    if stage == "compact":
        gw.compact_(model)
    bare = outputs(tiny(kind))
    for row, task in enumerate(TASKS):
        folder = tmp_path / task
        config = gw.export_lora(model, folder, task)
        loaded = PeftModel.from_pretrained(tiny(kind), str(folder)).eval()
        expected = outputs(model, graft_rows=torch.full((4,), row))
        torch.testing.assert_close(outputs(loaded), expected, **ROUND)
        assert not torch.allclose(expected, bare, atol=1e-3)
        assert isinstance(loaded.peft_config["default"], LoraConfig)
        if config.lora_bias is False or kind != "llama":
            torch.testing.assert_close(outputs(loaded.merge_and_unload()), expected, **ROUND)


def test_ranks_are_those_of_the_open_adapters(tmp_path):
    model = linear(placement="attention+ffn", tasks=["one", "two"])
    structure = gw.structure_of(model).to_dict()
    opened = [[True, True, False], [True, False, False], [False, False, False], [True, True, True]]
    for site, own in zip(structure["sites"].values(), opened, strict=True):
        site["open"] = [own, [False] * 3]
    gw.set_structure_(model, gw.Structure.from_dict(structure))
    config = gw.export_lora(model, tmp_path, "one")
    sites = list(structure["sites"])
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    ranks = {
        site: len(tensors[f"base_model.model.{site}.lora_A.weight"])
        for site in (sites[0], sites[1], sites[3])
    }
    assert list(ranks.values()) == [4, 2, 6]
    assert not any(sites[2] in name for name in tensors)
    assert config.r == 6
    assert set(config.target_modules) == set(ranks)
    assert not config.lora_bias
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["peft_type"] == "LORA"
    assert sorted(written["rank_pattern"].values()) == [2, 4]
    with pytest.raises(StructureError, match="task 'two' uses no adapter"):
        gw.export_lora(model, tmp_path / "two", "two")


def test_a_classifier_goes_along(tmp_path):
    model = linear(
        "bert", "AutoModelForSequenceClassification", modules_to_save=["classifier"], task_type="SEQ_CLS"
    )
    for parameter in model.base_model.model.classifier.modules_to_save.parameters():
        torch.nn.init.normal_(parameter)
    gw.export_lora(model, tmp_path, "dogs")
    fresh = tiny("bert", "AutoModelForSequenceClassification")
    loaded = PeftModel.from_pretrained(fresh, str(tmp_path)).eval()
    expected = outputs(model, graft_rows=torch.ones(4, dtype=torch.long))
    torch.testing.assert_close(outputs(loaded), expected, **ROUND)


def test_the_files_need_no_graftwork(tmp_path):
    tiny().save_pretrained(str(tmp_path / "base"))
    model = linear(tasks=["one"])
    gw.export_lora(model, tmp_path / "lora")
    code = f"""
import sys, torch
from peft import PeftModel
from transformers import AutoModel
backbone = AutoModel.from_pretrained({str(tmp_path / "base")!r})
model = PeftModel.from_pretrained(backbone, {str(tmp_path / "lora")!r})
assert "graftwork" not in sys.modules
print(model.eval()(input_ids=torch.tensor({tokens().tolist()})).last_hidden_state.sum(dim=(0, 1)).tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    torch.testing.assert_close(found, outputs(model).sum(dim=(0, 1)), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "task", "error", "message"),
    [
        ({"activation": "gelu"}, "cats", MergeError, "activation='gelu' are nonlinear"),
        (
            {"placement": "block", "position": "sequential"},
            "cats",
            MergeError,
            "is a BertLayer; only linear layers export as LoRA",
        ),
        ({}, None, RoutingError, "a LoRA holds one task; give task=, one of cats, dogs, birds"),
        ({}, "dgos", RoutingError, "unknown task 'dgos'; did you mean 'dogs'"),
    ],
)
def test_what_is_no_lora_is_refused(tmp_path, settings, task, error, message):
    with pytest.raises(error, match=message):
        gw.export_lora(linear(**settings), tmp_path / "out", task)
    assert not (tmp_path / "out").exists()


def test_merged_adapters_are_refused(tmp_path):
    model = linear(tasks=["one"])
    model.merge_adapter()
    with pytest.raises(MergeError, match="has merged adapters"):
        gw.export_lora(model, tmp_path)
    assert all(layer.merged for layer in graft_layers(model))
