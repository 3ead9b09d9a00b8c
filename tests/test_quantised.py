"""Quantised backbones: training, compacting, generating. `dev` has bitsandbytes; torchao is optional."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

import graftwork as gw
from graftwork.errors import ExportError, MergeError
from graftwork.tuner.view import backbone_parameters
from toys import TASKS, graft_layers, grafted, outputs, tiny, tokens

# The packages announce their own changes, and so do the kernels of torch that they use.
pytestmark = pytest.mark.filterwarnings("ignore")

SIZES = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32}
ROWS = torch.tensor([0, 2, 1, 0])


def plain() -> PreTrainedModel:
    return tiny("llama", "AutoModelForCausalLM", **SIZES)


def quantised(kind: str, folder: Path) -> PreTrainedModel:
    if kind == "torchao int8":
        quantization = pytest.importorskip(
            "torchao.quantization", reason="needs pip install graftwork[quantised]"
        )
        model = plain()
        quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
        return model
    pytest.importorskip("bitsandbytes", reason="needs pip install graftwork[quantised]")
    plain().save_pretrained(str(folder / "base"))
    bits: dict[str, Any] = {"load_in_8bit": True}
    if kind == "bitsandbytes nf4":
        bits = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    model = AutoModelForCausalLM.from_pretrained(
        str(folder / "base"), quantization_config=BitsAndBytesConfig(**bits), device_map="cpu"
    )
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


@pytest.mark.parametrize("kind", ["torchao int8", "bitsandbytes int8", "bitsandbytes nf4"])
def test_training_compacting_and_generating(tmp_path, kind):
    backbone = quantised(kind, tmp_path)
    bare = outputs(backbone.eval())
    torch.testing.assert_close(bare, outputs(plain()), atol=0.1, rtol=0.1)
    config = gw.GraftConfig(tasks=TASKS, pool_size=3, r=2, budget=1000, task_type="CAUSAL_LM")
    model = get_peft_model(backbone, config).train()
    assert backbone_parameters(model) == sum(parameter.numel() for parameter in plain().parameters())
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    search = gw.StructureSearch(model, total_steps=12)
    search.begin(learning_rates=0.02 * len(search.window))
    losses = []
    for step in range(12):
        optimizer.zero_grad()
        loss = model(input_ids=tokens(), labels=tokens(), graft_rows=ROWS).loss
        loss.backward()
        search.before_step(step)
        optimizer.step()
        search.after_step(step + 1)
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    with model.disable_adapter():
        assert torch.equal(outputs(model.eval()), bare)
    structure = gw.compact_(model.eval())
    assert 0 < structure.parameters() <= 1000
    expected = outputs(model, graft_rows=ROWS)
    assert not torch.allclose(expected, bare, atol=1e-2)
    generated = model.generate(
        input_ids=tokens(), attention_mask=torch.ones(4, 5), max_new_tokens=3, pad_token_id=0, graft_rows=ROWS
    )
    assert generated.shape == (4, 8)
    model.save_pretrained(str(tmp_path / "adapter"))
    loaded = PeftModel.from_pretrained(quantised(kind, tmp_path), str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(outputs(loaded, graft_rows=ROWS), expected)


@pytest.mark.parametrize("kind", ["torchao int8", "bitsandbytes int8", "bitsandbytes nf4"])
def test_merging_into_quantised_weights_is_refused(tmp_path, kind):
    model = grafted(quantised(kind, tmp_path), tasks=["one"], activation="identity")
    expected = outputs(model)
    with pytest.raises(MergeError, match=r"quantised or sharded .* cannot be merged into"):
        model.merge_adapter()
    assert torch.equal(outputs(model), expected)
    assert not any(layer.merged for layer in graft_layers(model))


@pytest.mark.parametrize("kind", ["bitsandbytes int8", "bitsandbytes nf4"])
def test_exporting_a_quantised_backbone_is_refused(tmp_path, kind):
    model = grafted(quantised(kind, tmp_path))
    with pytest.raises(ExportError, match=r"the backbone is quantised, which torch\.export cannot trace"):
        gw.export_program(model, {"input_ids": tokens()})
