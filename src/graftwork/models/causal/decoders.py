"""Which models write from left to right."""

from __future__ import annotations

from typing import Any

from graftwork.errors import RecipeError
from graftwork.messages import shown

__all__ = ["check_decoder"]


def check_decoder(config: Any, name: str) -> None:
    """Refuse a model that does not write from left to right.

    Raises:
        RecipeError: it is an encoder, or an encoder-decoder.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
    )

    kind = type(config)
    split = getattr(config, "is_encoder_decoder", False)
    encoder = kind in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if split or encoder or kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        what = "an encoder-decoder" if split else "an encoder"
        raise RecipeError(
            f"model {shown(name)} is {what} ({config.model_type}), and kind: generation needs a decoder, "
            "as choice does, such as Llama, Qwen, Gemma or GPT-2: give one as model:, or set kind: "
            "classification with labels"
        )
