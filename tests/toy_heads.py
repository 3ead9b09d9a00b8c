"""Heads of three toy tasks, and a backbone on disk."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from graftwork.kinds.heads import TaskHead
from toys import VOCABULARY, tiny

HEADS = (
    TaskHead("cats", ("text",), "label", "classification", "accuracy", ("a", "b")),
    TaskHead("dogs", ("text",), "label", "regression", "spearman", (), 2.0, 3.0),
    TaskHead("birds", ("text",), "label", "classification", "accuracy", ("x", "y", "z")),
)


def save_backbone(folder: Path, **changes) -> Path:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{f"w{i}": i for i in range(2, VOCABULARY)}}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tiny(**changes).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        folder
    )
    return folder
