"""Backbones and tokenizers as they are loaded, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from graftwork.errors import RecipeError
from graftwork.models.backbone import check_vocabulary, load_backbone, load_encoder, load_tokenizer
from graftwork.models.identity import identity_of
from toy_heads import save_backbone
from toys import tiny


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "t5", "llama", "qwen2", "deberta-v2", "mbart"])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, kind: str) -> None:
    tiny(kind).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="has no tokenizer: neither tokenizer") as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_bytes_needs_no_files(tmp_path: Path) -> None:
    tiny("t5", vocab_size=400).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(str(tmp_path), tokenizer_type="byt5").save_pretrained(tmp_path)
    model, tokenizer = load_backbone(str(tmp_path))
    assert len(set(tokenizer("abc")["input_ids"])) == 4
    assert model.get_input_embeddings().num_embeddings == 400


def test_a_tokenizer_pads_on_the_right(tmp_path: Path) -> None:
    folder = save_backbone(tmp_path)
    path = folder / "tokenizer_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "padding_side": "left", "truncation_side": "left"})
    )
    loaded = load_tokenizer(str(folder))
    assert (loaded.padding_side, loaded.truncation_side) == ("right", "left")
    loaded.save_pretrained(tmp_path / "again")
    again = AutoTokenizer.from_pretrained(str(tmp_path / "again"))
    assert (again.padding_side, again.truncation_side) == ("right", "left")


def test_a_pad_token_beyond_the_embeddings_is_refused(tmp_path: Path) -> None:
    folder = save_backbone(tmp_path)
    model, tokenizer = load_encoder(str(folder)), load_tokenizer(str(folder))
    check_vocabulary(tokenizer, model, "x", "y")
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    with pytest.raises(
        RecipeError, match=r"of 'x' has ids up to 40, but the backbone 'y' has embeddings for 40"
    ):
        check_vocabulary(tokenizer, model, "x", "y")


def test_what_was_loaded_says_who_it_is(tmp_path: Path) -> None:
    folder = save_backbone(tmp_path)
    first, second = load_encoder(str(folder)), load_encoder(str(folder))
    assert identity_of(first) == identity_of(second) is not None
    assert identity_of(tiny()) is None
