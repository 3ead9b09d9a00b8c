"""A run of a language model in miniature: a tiny random decoder on disk, toy tasks, a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from toyrun import WORDS, write_lines, write_recipe
from toys import tiny_config

SPECIAL = ["<unk>", "<bos>", "<eos>", "<user>", "<bot>", "<end>", "<system>"]
MORE = ["which", "colour", "first", "word", "one", "two", "three", ":", "Answer"]
CHAT = (
    "{% for m in messages %}"
    "{{ {'system': '<system> ', 'user': '<user> ', 'assistant': '<bot> '}[m['role']] }}"
    "{{ m['content'] + ' <end> ' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<bot> ' }}{% endif %}"
)


def toy_tokenizer(*, chat: bool = True, pad: bool = False) -> PreTrainedTokenizerFast:
    """Whole words, a token in front, none behind, and no pad token unless asked for."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS, *MORE])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<eos>" if pad else None,
        additional_special_tokens=["<user>", "<bot>", "<end>", "<system>"],
        chat_template=CHAT if chat else None,
    )


def write_decoder(folder: Path, kind: str = "llama", **changes: Any) -> Path:
    """A decoder of two layers; wide enough to learn what a word says."""
    small = {
        "max_position_embeddings": 64,
        "n_positions": 64,
        "eos_token_id": 2,
        "vocab_size": 32,
        "pad_token_id": None,
    }
    wide = {"hidden_size": 32, "intermediate_size": 48, "head_dim": 16} if kind != "gpt2" else {"n_embd": 32}
    torch.manual_seed(0)
    config = tiny_config(kind, **{**small, **wide, **changes})
    model = AutoModelForCausalLM.from_config(config)
    # A random head says nothing clearly; a trained one does.
    model.get_output_embeddings().weight.data.mul_(10)
    model.save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder


def colour_rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Which colour is in the text: the first word, so that even a random decoder can learn it."""
    rows = []
    for index in range(first, first + count):
        colour, other = WORDS[index % 3], WORDS[3 + index % 7]
        rows.append({"text": f"{other} {colour}", "target": f"colour {colour}"})
    return rows


def write_writing(folder: Path, kind: str = "llama", **task: Any) -> Path:
    """A recipe of two written tasks and one with a head; returns its path."""
    write_decoder(folder / "backbone", kind)
    for split, size in (("train", 48), ("validation", 12), ("test", 12)):
        write_lines(folder / "data/colour" / f"{split}.jsonl", colour_rows(size))
        talks = [
            {
                "messages": [
                    {"role": "user", "content": f"first word {row['text']}"},
                    {"role": "assistant", "content": row["text"].split()[0]},
                ]
            }
            for row in colour_rows(size)
        ]
        write_lines(folder / "data/first" / f"{split}.jsonl", talks)
        labelled = [{"text": row["text"], "label": row["target"].split()[-1]} for row in colour_rows(size)]
        write_lines(folder / "data/label" / f"{split}.jsonl", labelled)
    recipe: dict[str, Any] = {
        "model": str(folder / "backbone"),
        "output": str(folder / "out"),
        "tasks": [
            {
                "name": "colour",
                "train": str(folder / "data/colour"),
                "kind": "generation",
                "prompt": "which colour : {text} Answer :",
                "metric": "exact_match",
                "max_new_tokens": 4,
                **task,
            },
            {
                "name": "first",
                "train": str(folder / "data/first"),
                "kind": "generation",
                "max_new_tokens": 4,
            },
            {"name": "label", "train": str(folder / "data/label")},
        ],
        "graft": {"budget": 0.3, "pool_size": 8, "r": 2},
        "training": {"epochs": 12, "batch_size": 8, "learning_rate": 0.01, "max_length": 16},
    }
    recipe["graft"]["budget"] = "30%"
    return write_recipe(folder, recipe)
