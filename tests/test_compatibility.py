"""What works with LoRA in PEFT and Transformers works alike: every test runs for both.

The rest of `docs/compatibility.md` is shown by the tests it names.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AutoPeftModel,
    AutoPeftModelForCausalLM,
    AutoPeftModelForFeatureExtraction,
    AutoPeftModelForSeq2SeqLM,
    AutoPeftModelForSequenceClassification,
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_model_status,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from torch import nn
from transformers import AutoModel, Trainer, TrainingArguments

import graftwork as gw
from toys import outputs, tiny, tokens

BOTH = pytest.mark.parametrize("method", ["graft", "lora"])
ATTENTION = {"llama": ["o_proj"], "bert": ["attention.output.dense"], "t5": ["o"]}


def settings_of(method: str, kind: str = "bert", **settings: Any) -> PeftConfig:
    """A configuration whose adapters do something from the start, or one that starts as the backbone."""
    start = settings.pop("init_weights", False)
    if method == "lora":
        return LoraConfig(r=4, target_modules=ATTENTION[kind], init_lora_weights=start, **settings)
    return gw.GraftConfig(
        r=4, pool_size=2, target_modules=ATTENTION[kind], init_weights=start, budget=10**6, **settings
    )


def adapted(method: str, kind: str = "bert", auto: str = "AutoModel", **settings: Any) -> PeftModel:
    torch.manual_seed(1)
    return get_peft_model(tiny(kind, auto), settings_of(method, kind, **settings)).eval()


def strengthen(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if "graft_up" in name or "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)


@BOTH
@pytest.mark.parametrize(
    ("kind", "auto", "task_type", "loader"),
    [
        ("llama", "AutoModelForCausalLM", "CAUSAL_LM", AutoPeftModelForCausalLM),
        ("t5", "AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM", AutoPeftModelForSeq2SeqLM),
        ("bert", "AutoModelForSequenceClassification", "SEQ_CLS", AutoPeftModelForSequenceClassification),
        ("bert", "AutoModel", "FEATURE_EXTRACTION", AutoPeftModelForFeatureExtraction),
        ("bert", "AutoModel", None, AutoPeftModel),
    ],
)
def test_the_auto_classes_load_backbone_and_adapter(tmp_path, method, kind, auto, task_type, loader):
    base, folder = str(tmp_path / "base"), str(tmp_path / "adapter")
    extra = {"decoder_input_ids": tokens(length=3)} if kind == "t5" else {}
    tiny(kind, auto).save_pretrained(base)
    model = get_peft_model(
        type(tiny(kind, auto)).from_pretrained(base), settings_of(method, kind, task_type=task_type)
    ).eval()
    strengthen(model)
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            nn.init.normal_(parameter)
    model.save_pretrained(folder)
    loaded = loader.from_pretrained(folder).eval()
    assert torch.equal(outputs(loaded, **extra), outputs(model, **extra))
    assert not torch.allclose(outputs(loaded, **extra), outputs(tiny(kind, auto), **extra), atol=1e-4)


@BOTH
@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")
def test_transformers_own_adapter_methods(tmp_path, method):
    model = tiny()
    bare = outputs(model)
    torch.manual_seed(1)
    model.add_adapter(settings_of(method), adapter_name="first")
    model.add_adapter(settings_of(method), adapter_name="second")
    strengthen(model)
    model.eval()
    second = outputs(model)
    model.set_adapter("first")
    assert model.active_adapters() == ["first"]
    first = outputs(model)
    assert not torch.allclose(first, second, atol=1e-4)
    model.disable_adapters()
    assert torch.equal(outputs(model), bare)
    model.enable_adapters()
    assert torch.equal(outputs(model), first)
    model.save_pretrained(str(tmp_path))
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(os.listdir(tmp_path))
    loaded = tiny()
    loaded.load_adapter(str(tmp_path), adapter_name="again")
    assert torch.equal(outputs(loaded.eval()), first)
    model.set_adapter("second")
    model.delete_adapter("first")
    assert torch.equal(outputs(model), second)


@BOTH
def test_a_backbone_saved_with_its_adapter_loads_in_one_call(tmp_path, method):
    tiny().save_pretrained(str(tmp_path))
    backbone = AutoModel.from_pretrained(str(tmp_path))
    model = get_peft_model(backbone, settings_of(method)).eval()
    strengthen(model)
    expected = outputs(model)
    model.save_pretrained(str(tmp_path))
    assert torch.equal(outputs(AutoModel.from_pretrained(str(tmp_path)).eval()), expected)


@BOTH
def test_the_model_card(tmp_path, method):
    tiny().save_pretrained(str(tmp_path / "base"))
    model = get_peft_model(AutoModel.from_pretrained(str(tmp_path / "base")), settings_of(method))
    model.save_pretrained(str(tmp_path / "adapter"))
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "library_name: peft" in card
    # Ours never names a path of this machine (tests/cards/test_cards.py).
    assert (f"base_model: {tmp_path / 'base'}" in card) is (method == "lora")


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast_adapter_dtype", [True, False])
def test_half_precision_weights_train(method, dtype, autocast_adapter_dtype):
    model = get_peft_model(
        tiny().to(dtype),
        settings_of(method, init_weights=True),
        autocast_adapter_dtype=autocast_adapter_dtype,
    ).train()
    if method == "graft":
        model.base_model.router.driven = True
    strengthen(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32 if autocast_adapter_dtype else dtype}
    optimizer = torch.optim.SGD(trained, lr=1.0)
    target = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        result = model(input_ids=tokens())[0]
        assert result.dtype == dtype
        loss = (result.float() - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.isfinite(parameter).all() for parameter in trained)


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains(method, dtype):
    model = adapted(method, init_weights=True).train()
    if method == "graft":
        model.base_model.router.driven = True
    with torch.autocast("cpu", dtype=dtype):
        loss = model(input_ids=tokens())[0].float()[:, :, 0].square().mean()
    loss.backward()
    with_gradient = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in with_gradient)
    assert all(torch.isfinite(p.grad).all() for p in with_gradient)
    exact = adapted(method).eval()
    with torch.autocast("cpu", dtype=dtype):
        rough = outputs(exact)
    torch.testing.assert_close(rough.float(), outputs(exact), atol=0.1, rtol=0.1)


@BOTH
@pytest.mark.parametrize("checkpointing", [None, True, False], ids=["none", "reentrant", "not reentrant"])
def test_trainer_classifies_checkpoints_and_resumes(tmp_path, method, checkpointing):
    def make(**settings: Any) -> Trainer:
        torch.manual_seed(1)
        config = settings_of(method, task_type="SEQ_CLS", init_weights=True)
        model = get_peft_model(tiny("bert", "AutoModelForSequenceClassification", num_labels=2), config)
        rows = [{"input_ids": row, "labels": row[0] % 2} for row in tokens(32, 6).tolist()]
        arguments = {
            "max_steps": 8,
            "per_device_train_batch_size": 4,
            "learning_rate": 0.01,
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "logging_strategy": "no",
            "save_strategy": "no",
            **settings,
        }
        if checkpointing is not None:
            arguments["activation_checkpointing"] = True
            arguments["activation_checkpointing_kwargs"] = {"use_reentrant": checkpointing}
        callbacks = [gw.StructureCallback()] if method == "graft" else []
        return Trainer(
            model, TrainingArguments(str(tmp_path), **arguments), train_dataset=rows, callbacks=callbacks
        )

    whole = make(save_strategy="steps", save_steps=3)
    whole.train()
    resumed = make()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    classifier = whole.model.base_model.model.classifier
    assert not torch.equal(classifier.modules_to_save["default"].weight, classifier.original_module.weight)


@BOTH
def test_injection_without_a_peft_model(method):
    model = inject_adapter_in_model(settings_of(method), tiny())
    strengthen(model)
    expected = outputs(model.eval())
    state = get_peft_model_state_dict(model)
    assert state
    other = inject_adapter_in_model(settings_of(method), tiny())
    result = set_peft_model_state_dict(other, state)
    assert not result.unexpected_keys
    assert torch.equal(outputs(other.eval()), expected)


@BOTH
def test_the_status_of_a_model(method):
    model = adapted(method)
    status = get_model_status(model)
    assert status.enabled is True
    assert status.active_adapters == ["default"]
    assert status.requires_grad == {"default": True}
    assert status.num_adapter_layers == 2
    trainable, total = model.get_nb_trainable_parameters()
    assert 0 < trainable < total


@BOTH
def test_several_adapters_add_up(method):
    model = adapted(method)
    model.add_adapter("other", settings_of(method))
    strengthen(model)
    found = [outputs(tiny())]
    for names in ("default", "other", ["default", "other"]):
        model.base_model.set_adapter(names)
        found.append(outputs(model))
    for i, first in enumerate(found):
        assert not any(torch.allclose(first, second, atol=1e-3) for second in found[:i])


@BOTH
def test_tokens_trained_beside_the_adapters(tmp_path, method):
    model = adapted(method, trainable_token_indices=[5, 7])
    delta = model.get_input_embeddings().token_adapter.trainable_tokens_delta["default"]
    assert delta.shape == (2, 16)
    nn.init.normal_(delta)
    expected = outputs(model)
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(tiny(), str(tmp_path)).eval()
    assert torch.equal(outputs(loaded), expected)


@pytest.mark.slow  # two interpreters
def test_a_model_of_peft_that_does_not_know_us_says_so(tmp_path):
    """Without `import graftwork` PEFT cannot name the method; the README says what to do."""
    import subprocess
    import sys

    adapted("graft").save_pretrained(str(tmp_path))
    code = f"from peft import PeftConfig; PeftConfig.from_pretrained({str(tmp_path)!r})"
    environment = {**os.environ, "PYTHONPATH": str(Path(gw.__file__).parents[1])}
    bare = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "KeyError: 'GRAFT'" in bare.stderr
    known = subprocess.run(
        [sys.executable, "-c", f"import graftwork; {code}"], capture_output=True, text=True, env=environment
    )
    assert known.returncode == 0, known.stderr


def test_an_adapter_added_in_evaluation_does_not_draw_its_gates():
    model = adapted("graft")
    config = gw.GraftConfig(target_modules=["intermediate.dense"], pool_size=2, r=2, init_weights=False)
    model.add_adapter("other", config)
    model.set_adapter("other")
    assert all(not module.training for module in model.modules())
    assert torch.equal(outputs(model), outputs(model))


def test_a_configuration_given_to_load_with_is_the_models_own(tmp_path):
    model = adapted("graft")
    model.save_pretrained(str(tmp_path))
    config = PeftConfig.from_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(tiny(), str(tmp_path), config=config)
    assert loaded.peft_config["default"] is config
