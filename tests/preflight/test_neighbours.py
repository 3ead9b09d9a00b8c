"""A row's outputs, alone and beside a longer row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from graftwork.data.tokens import pad
from graftwork.errors import RecipeError
from graftwork.models.pooling import pool
from graftwork.preflight.neighbours import check_neighbours
from toys import VOCABULARY, tiny

KINDS = [
    *("bert", "roberta", "deberta", "deberta-v2", "electra", "distilbert", "modernbert", "llama", "qwen3"),
    *("gemma2", "phi", "gptj", "gpt_neox", "bloom", "falcon", "opt", "bart", "gpt2", "t5"),
]
SHORT = {"input_ids": [5, 9, 7], "attention_mask": [1, 1, 1]}
LONG = {"input_ids": list(range(4, 24)), "attention_mask": [1] * 20}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({str(i): i for i in range(VOCABULARY)}, unk_token="3"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="0", padding_side="left")


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_beside_a_longer_one(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model: Any = tiny(kind)
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    hidden = []
    for rows in ([SHORT], [SHORT, LONG]):
        batch = pad(tokenizer, rows)
        assert batch["attention_mask"][0, :3].all()
        hidden.append((model(**batch).last_hidden_state, batch["attention_mask"]))
    for pooling in ("mean", "cls", "last"):
        alone, beside = (pool(*part, pooling)[0] for part in hidden)  # type: ignore[arg-type]
        torch.testing.assert_close(beside, alone, atol=1e-5, rtol=0)
    check_neighbours(model, tokenizer, kind, 32)


def test_padding_that_reaches_the_tokens_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model("fnet", **sizes, max_position_embeddings=32))
    with pytest.raises(RecipeError, match="model x gives a row other outputs beside a longer row than alone"):
        check_neighbours(model, tokenizer, "x", 32)
    with pytest.raises(RecipeError, match=r"model x cannot read a row of text \(T5Block.forward\(\) missing"):
        check_neighbours(tiny("t5").encoder.block[0], tokenizer, "x", 32)
