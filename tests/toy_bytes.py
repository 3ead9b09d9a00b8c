"""A toy Llama with a vocabulary of bytes, as a saved model of two written tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import graftwork as gw
from graftwork.data.task import Task
from graftwork.kinds.heads import TaskHead
from graftwork.models.backbone import load_backbone
from graftwork.models.causal.model import CausalMultiTaskModel
from graftwork.models.folder import save_model
from toy_writer import CHAT
from toys import grafted, random_structure

TEXTS = ["What is the capital of France?", "2 and 3 are 5, 12 and 30 are 42.", "Write one sentence now."]


def byte_tokenizer(*, digits: bool = False) -> PreTrainedTokenizerFast:
    """A small vocabulary of bytes."""
    tokenizer = Tokenizer(models.BPE())
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False)
    parts = [pre_tokenizers.Digits(individual_digits=True), bytes_only]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts) if digits else bytes_only
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<eos>", "<user>", "<bot>", "<end>", "<system>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<eos>",
        additional_special_tokens=special[1:],
        chat_template=CHAT,
    )


def write_model(folder: Path, *, digits: bool = False, **changes: Any) -> Path:
    """A model of two written tasks on a toy Llama; one task talks in a chat."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer(digits=digits)
    small = {
        "vocab_size": len(tokenizer) + 3,  # more embeddings than tokens
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": 0,
    }
    backbone = LlamaForCausalLM(LlamaConfig(**{**small, **changes}))
    # A random head says nothing clearly; a trained one does.
    backbone.get_output_embeddings().weight.data.mul_(10)
    backbone.save_pretrained(folder / "backbone")
    tokenizer.save_pretrained(folder / "backbone")
    return finish(folder)


def finish(folder: Path) -> Path:
    """Adapters with a decided structure on the decoder in `backbone`, saved."""
    backbone, tokenizer = load_backbone(str(folder / "backbone"), causal=True)
    tasks = [
        Task("plain", "x", kind="generation"),
        Task("talk", "x", kind="generation", chat=True),
    ]
    heads = [TaskHead(**{**vars(task.head()), "writing": task.writing()}) for task in tasks]
    adapted = grafted(backbone, tasks=["plain", "talk"], activation="identity", position="parallel")
    gw.set_structure_(adapted, random_structure(adapted))
    gw.compact_(adapted)
    (folder / "model").mkdir()
    save_model(
        CausalMultiTaskModel(adapted, heads).eval(),
        folder / "model",
        backbone_name=str(folder / "backbone"),
    )
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"
