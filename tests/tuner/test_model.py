from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open

import graftwork as gw
from graftwork.errors import CheckpointError
from toys import TASKS, graft_layers, grafted, outputs, random_structure, spread_gates, tiny, tokens

ROWS = torch.tensor([0, 2, 1, 2])


def prepare(stage: str):
    """A model at one stage of its life, and the rows to try it on."""
    model = grafted()
    spread_gates(model)
    if stage == "learning":
        return model, ROWS
    gw.set_structure_(model, gw.Structure(tuple(TASKS), {}) if stage == "empty" else random_structure(model))
    if stage == "discretised":
        return model, ROWS
    gw.compact_(model, tasks=["dogs"] if stage == "extract" else None)
    return model, torch.zeros(4, dtype=torch.long) if stage == "extract" else ROWS


STAGES = ["learning", "discretised", "compact", "extract", "empty"]


@pytest.mark.parametrize("stage", STAGES)
def test_round_trip_through_peft_is_bit_equal(tmp_path, stage):
    model, rows = prepare(stage)
    expected = outputs(model, graft_rows=rows)
    model.save_pretrained(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} <= {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    loaded = PeftModel.from_pretrained(tiny(), str(tmp_path)).eval()
    assert torch.equal(outputs(loaded, graft_rows=rows), expected)
    assert gw.structure_of(loaded) == gw.structure_of(model)
    assert len(graft_layers(loaded)) == len(graft_layers(model))
    loaded.save_pretrained(str(tmp_path / "again"))
    again = PeftModel.from_pretrained(tiny(), str(tmp_path / "again")).eval()
    assert torch.equal(outputs(again, graft_rows=rows), expected)


@pytest.mark.parametrize("stage", STAGES)
def test_loading_with_transformers_own_method(tmp_path, stage):
    model, rows = prepare(stage)
    expected = outputs(model, graft_rows=rows)
    model.save_pretrained(str(tmp_path))
    backbone = tiny()
    backbone.load_adapter(str(tmp_path))
    assert torch.equal(outputs(backbone.eval(), graft_rows=rows), expected)


@pytest.mark.parametrize("stage", ["learning", "discretised"])
def test_state_dict_into_an_existing_model(tmp_path, stage):
    """What Trainer does when it resumes."""
    model, rows = prepare(stage)
    expected = outputs(model, graft_rows=rows)
    model.save_pretrained(str(tmp_path))
    other = grafted()
    other.load_adapter(str(tmp_path), "default", is_trainable=True)
    assert torch.equal(outputs(other.eval(), graft_rows=rows), expected)
    assert all(parameter.requires_grad == (".graft_" in name) for name, parameter in other.named_parameters())


def test_a_compact_file_is_small_and_plain(tmp_path):
    model, _ = prepare("compact")
    structure = gw.structure_of(model)
    model.save_pretrained(str(tmp_path))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "GRAFT"
    assert set(config["target_modules"]) == set(structure.sites) == set(config["structure"]["sites"])
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        count = sum(file.get_tensor(name).numel() for name in file.keys() if "graft_mask" not in name)
    assert count == structure.parameters()


def test_a_structure_that_does_not_fit_its_tasks_is_refused(tmp_path):
    model, _ = prepare("compact")
    model.save_pretrained(str(tmp_path))
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tasks": ["one"]}))
    with pytest.raises(CheckpointError, match="the files do not belong together"):
        PeftModel.from_pretrained(tiny(), str(tmp_path))


def test_the_settings_of_the_user_are_not_changed():
    config = gw.GraftConfig(tasks=TASKS, pool_size=3, r=2, budget=10**6)
    before = config.to_dict()
    first = get_peft_model(tiny(), config)
    gw.set_structure_(first, random_structure(first))
    gw.compact_(first, tasks=["dogs"])
    assert {**config.to_dict(), "base_model_name_or_path": None} == {
        **before,
        "base_model_name_or_path": None,
    }
    second = get_peft_model(tiny(num_hidden_layers=3), config)
    assert len(graft_layers(second)) == 18
    assert not graft_layers(second)[0].is_decided("default")


def test_two_adapters_take_turns():
    model = grafted()
    spread_gates(model)
    first = outputs(model, graft_rows=ROWS)
    other = gw.GraftConfig(
        tasks=["only"],
        pool_size=2,
        r=1,
        gates="fixed",
        target_modules=["query", "output.dense"],
        init_weights=False,
    )
    model.add_adapter("other", other)
    assert torch.equal(outputs(model, graft_rows=ROWS), first)
    model.set_adapter("other")
    second = outputs(model)
    assert not torch.equal(second, first)
    active = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert active
    assert all(name.endswith(".other") for name in active)
    with model.disable_adapter():
        assert torch.equal(outputs(model), outputs(tiny()))
    assert torch.equal(outputs(model), second)
    model.set_adapter("default")
    assert torch.equal(outputs(model, graft_rows=ROWS), first)
    assert gw.structure_of(model, "other").tasks == ("only",)
    assert gw.structure_of(model).tasks == tuple(TASKS)
    with pytest.warns(UserWarning, match="Adapter default was active which is now deleted"):
        model.delete_adapter("default")
    assert torch.equal(outputs(model), second)


def test_compacting_one_adapter_leaves_the_other_alone():
    model = grafted()
    spread_gates(model)
    config = gw.GraftConfig(tasks=["only"], pool_size=2, r=1, gates="fixed", init_weights=False)
    model.add_adapter("other", config)
    model.set_adapter("other")
    second = outputs(model)
    model.set_adapter("default")
    sites = list(gw.structure_of(model).sites)
    chosen = random_structure(model)
    gw.set_structure_(model, gw.Structure(chosen.tasks, {name: chosen.sites[name] for name in sites[:2]}))
    first = outputs(model, graft_rows=ROWS)
    gw.compact_(model)
    torch.testing.assert_close(outputs(model, graft_rows=ROWS), first, atol=1e-5, rtol=0)
    model.set_adapter("other")
    assert torch.equal(outputs(model), second)
    model.set_adapter("default")
    torch.testing.assert_close(outputs(model, graft_rows=ROWS), first, atol=1e-5, rtol=0)


def test_an_adapter_beside_lora():
    backbone = tiny()
    expected = outputs(backbone)
    model = get_peft_model(backbone, LoraConfig(target_modules=["query"], r=2)).eval()
    assert torch.equal(outputs(model), expected)
    unloaded = model.unload()
    assert torch.equal(outputs(grafted(tiny(), tasks=["one"], init_weights=True).unload()), outputs(unloaded))


def test_unload_gives_back_the_backbone():
    model, _rows = prepare("learning")
    with model.disable_adapter():
        expected = outputs(model)
    backbone = model.unload()
    assert graft_layers(backbone) == []
    assert torch.equal(outputs(backbone), expected)
    assert [name for name, _ in backbone.named_modules()] == [name for name, _ in tiny().named_modules()]


def test_modules_to_save_are_trained_whole(tmp_path):
    backbone = tiny("bert", "AutoModelForSequenceClassification", num_labels=2)
    model = grafted(backbone, modules_to_save=["classifier"])
    model.base_model.model.classifier.modules_to_save["default"].weight.data.normal_()
    expected = outputs(model, graft_rows=ROWS)
    model.save_pretrained(str(tmp_path))
    fresh = tiny("bert", "AutoModelForSequenceClassification", num_labels=2)
    loaded = PeftModel.from_pretrained(fresh, str(tmp_path)).eval()
    assert torch.equal(outputs(loaded, graft_rows=ROWS), expected)


def test_inference_mode_and_low_memory_loading(tmp_path):
    model, rows = prepare("discretised")
    expected = outputs(model, graft_rows=rows)
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(tiny(), str(tmp_path), low_cpu_mem_usage=True).eval()
    assert torch.equal(outputs(loaded, graft_rows=rows), expected)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_save_and_load_under_a_head(tmp_path, kind):
    auto = "AutoModelForSeq2SeqLM" if kind == "t5" else "AutoModelForCausalLM"
    task_type = "SEQ_2_SEQ_LM" if kind == "t5" else "CAUSAL_LM"
    extra = {"decoder_input_ids": tokens(length=3)} if kind == "t5" else {}
    model = grafted(tiny(kind, auto), task_type=task_type)
    gw.set_structure_(model, random_structure(model))
    gw.compact_(model)
    expected = outputs(model, graft_rows=ROWS, **extra)
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(tiny(kind, auto), str(tmp_path)).eval()
    assert torch.equal(outputs(loaded, graft_rows=ROWS, **extra), expected)
