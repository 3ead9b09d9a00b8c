"""A GGUF file: read back by Transformers it gives the tokens and the answers of the routed model."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
)

from commands import fails
from graftwork.cli import main
from graftwork.export.merged import asked
from graftwork.models.backbone import load_backbone
from graftwork.models.causal.answering import write_answers
from graftwork.models.folder import load_model
from graftwork.models.multitask import select_tasks_
from toy_bytes import TEXTS, finish, write_model
from toy_writer import CHAT, write_decoder

needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="pip install 'graftwork[gguf]'")


@needs_gguf
@pytest.mark.parametrize(("task", "digits", "tied"), [("plain", False, False), ("talk", True, True)])
def test_a_file_that_is_read_back_answers_as_the_routed_model(
    tmp_path: Path, task: str, digits: bool, tied: bool
) -> None:
    import gguf

    folder = write_model(tmp_path, digits=digits, tie_word_embeddings=tied)
    main(["export", str(folder), str(tmp_path / "file"), "--format", "gguf", "--task", task])
    described = json.loads((tmp_path / "file/export.json").read_text())
    assert 0 <= described["largest_difference"] < 1e-3
    model, _ = load_model(folder)
    model, _ = select_tasks_(model, [task])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "file")
    own = AutoTokenizer.from_pretrained(tmp_path / "file", gguf_file="model.gguf")
    for text in (*TEXTS, CHAT, "<user> 1999 <end>"):
        assert own(text)["input_ids"] == tokenizer(text)["input_ids"]
    reader = gguf.GGUFReader(tmp_path / "file/model.gguf")
    said = {name: reader.get_field(f"tokenizer.{name}") for name in ("chat_template", "ggml.eos_token_id")}
    ends = tokenizer.convert_tokens_to_ids({"plain": "<eos>", "talk": "<end>"}[task])
    assert [field and field.contents() for field in said.values()] == [CHAT, ends]
    prompts = asked(tokenizer, model.heads.heads[0])
    wanted = write_answers(model.backbone, tokenizer, prompts)
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "file",
        gguf_file="model.gguf",
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    assert write_answers(loaded.eval(), tokenizer, prompts, routed=False) == wanted
    assert any(wanted)
    # The adapters are in it, to the 16 bits: the backbone alone gives other logits.
    bare, _ = load_backbone(str(tmp_path / "backbone"), causal=True)
    ids = torch.tensor([prompts[0].ids])
    with torch.no_grad():
        routed = model.backbone(input_ids=ids, graft_rows=torch.tensor([0])).logits
        apart = [float((each(input_ids=ids).logits - routed).abs().max()) for each in (loaded, bare)]
    assert apart[0] < 2e-3 * float(routed.abs().max()) < 0.1 * apart[1]
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    assert (tmp_path / "file/model.gguf").stat().st_size < 3 * sum(p.numel() for p in loaded.parameters())


@needs_gguf
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "and here the activation is gelu; choose lora or merged"),
        ({"attention_bias": True}, "and here the linear maps have biases; choose lora or merged"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
            "and here the positions are of type linear; choose lora or merged",
        ),
    ],
)
def test_what_a_file_has_no_place_for_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    folder = write_model(tmp_path, **changes)
    line = fails(capsys, "export", str(folder), str(tmp_path / "out"), "--format", "gguf", "--task", "plain")
    assert message in line
    assert not (tmp_path / "out").exists()


@needs_gguf
def test_other_models_and_vocabularies_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, message in (
        ("llama", "--format gguf writes vocabularies of bytes"),
        ("qwen2", "and here the type is qwen2; choose lora or merged"),
    ):
        place = tmp_path / kind
        write_decoder(place / "backbone", kind)
        out = str(place / "out")
        line = fails(capsys, "export", str(finish(place)), out, "--format", "gguf", "--task", "plain")
        assert message in line
        assert not Path(out).exists()


def test_without_the_package_its_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftwork.export.gguf.find_spec", lambda name: None)
    line = fails(capsys, "export", str(tmp_path), str(tmp_path / "out"), "--format", "gguf")
    assert "pip install 'graftwork[gguf]'" in line
