"""Tiny random models, and graft models on them, for the tests."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

import graftwork as gw

TASKS = ["cats", "dogs", "birds"]
VOCABULARY = 40
HOULSBY: dict[str, Any] = {
    "placement": "attention+ffn",
    "position": "sequential",
    "activation": "gelu",
    "scale": 1.0,
}
"""Bottleneck adapters as Houlsby et al. 2019 have them: nonlinear, with biases, after two maps of a layer.
The default is linear ones beside all linear maps."""

_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 0,
}
_DECODER: dict[str, Any] = {
    **_SMALL,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": None,
}
_BART: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
    "dropout": 0.0,
    "bos_token_id": 1,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
_T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": None,
}
_VIT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_SIZES: dict[str, dict[str, Any]] = {
    "bert": _SMALL,
    "roberta": _SMALL,
    "deberta": {**_SMALL, "type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {**_SMALL, "type_vocab_size": 0},
    "electra": {**_SMALL, "embedding_size": 16},
    "distilbert": {
        "vocab_size": VOCABULARY,
        "dim": 16,
        "hidden_dim": 24,
        "n_layers": 2,
        "n_heads": 2,
        "max_position_embeddings": 32,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "pad_token_id": 0,
    },
    "modernbert": {**_SMALL, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
    "llama": _DECODER,
    "mistral": _DECODER,
    "qwen2": _DECODER,
    "qwen3": _DECODER,
    "gemma": _DECODER,
    "gemma2": {**_DECODER, "query_pre_attn_scalar": 8},
    "gemma3_text": {**_DECODER, "query_pre_attn_scalar": 8},
    "phi": {**_DECODER, "num_key_value_heads": 2, "partial_rotary_factor": 0.5},
    "phi3": {**_DECODER, "pad_token_id": 0},
    "gptj": {
        "vocab_size": VOCABULARY,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 32,
        "rotary_dim": 4,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": 1,
        "eos_token_id": None,
    },
    "gpt_neox": {**_DECODER, "hidden_dropout": 0.0, "attention_dropout": 0.0},
    "bloom": {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "n_layer": 2,
        "n_head": 2,
        "bos_token_id": 1,
        "eos_token_id": None,
        "pad_token_id": 0,
    },
    "falcon": {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "bos_token_id": 1,
        "eos_token_id": None,
        "pad_token_id": 0,
    },
    "opt": {
        **_SMALL,
        "ffn_dim": 24,
        "word_embed_proj_dim": 16,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": None,
    },
    "bart": _BART,
    "mbart": _BART,
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 32,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": 1,
        "eos_token_id": None,
        "pad_token_id": 0,
    },
    "t5": _T5,
    "mt5": _T5,
    "vit": _VIT,
    "dinov2": {**_VIT, "mlp_ratio": 2},
    "dinov2_with_registers": {**_VIT, "mlp_ratio": 2},
    "swin": {
        "image_size": 8,
        "patch_size": 2,
        "embed_dim": 16,
        "depths": [2],
        "num_heads": [2],
        "window_size": 2,
        "drop_path_rate": 0.0,
    },
    "clip_vision_model": _VIT,
}
IMAGES = ("vit", "dinov2", "dinov2_with_registers", "swin", "clip_vision_model")
"""Models that take images of 8 x 8 pixels."""


def tiny_config(kind: str, **changes: Any) -> PretrainedConfig:
    return transformers.AutoConfig.for_model(kind, **{**_SIZES[kind], **changes})


def tiny(kind: str = "bert", auto: str = "AutoModel", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model of two layers and width 16, in evaluation mode; equal seeds give equal weights."""
    torch.manual_seed(seed)
    model: PreTrainedModel = getattr(transformers, auto).from_config(tiny_config(kind, **changes))
    return model.eval()


def grafted(
    backbone: nn.Module | None = None, *, tasks: list[str] | None = None, **settings: Any
) -> PeftModel:
    """A graft model whose adapters do something, in evaluation mode."""
    settings = {
        "pool_size": 3,
        "r": 2,
        "budget": 10**6,
        "gates": "hard_concrete",
        "init_weights": False,
        **settings,
    }
    if settings.get("penalty") is not None or settings.get("gates") == "fixed":
        settings["budget"] = None
    torch.manual_seed(1)
    model = get_peft_model(
        tiny() if backbone is None else backbone, gw.GraftConfig(tasks=tasks or TASKS, **settings)
    )
    for layer in graft_layers(model):
        for name in layer.graft_up:
            nn.init.normal_(layer.graft_up[name], std=0.3)
            if not layer.pools[name].linear:
                nn.init.normal_(layer.graft_bias[name], std=0.3)
    return model.eval()


def graft_layers(model: nn.Module) -> list[gw.GraftLayer]:
    return [module for module in model.modules() if isinstance(module, gw.GraftLayer)]


def spread_gates(model: nn.Module, seed: int = 2) -> None:
    """Give every learned gate another logit, from closed to open."""
    generator = torch.Generator().manual_seed(seed)
    for layer in graft_layers(model):
        for theta in layer.graft_gate_bias.values():
            theta.data.copy_(torch.rand(theta.shape, generator=generator) * 8 - 6)


def random_structure(model: nn.Module, share: float = 0.4, seed: int = 3) -> gw.Structure:
    """A structure that fits the model, with about `share` of its gates open."""
    generator = torch.Generator().manual_seed(seed)
    full = gw.structure_of(model).to_dict()
    for site in full["sites"].values():
        site["open"] = (
            torch.rand(len(full["tasks"]), site["pool_size"], generator=generator) < share
        ).tolist()
    return gw.Structure.from_dict(full)


def tokens(rows: int = 4, length: int = 5, seed: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (rows, length), generator=generator)


@torch.no_grad()
def outputs(model: nn.Module, inputs: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
    """The first output of a model: last hidden state or logits."""
    return model(input_ids=tokens() if inputs is None else inputs, **kwargs)[0]
