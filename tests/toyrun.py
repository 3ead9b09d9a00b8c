"""A whole run in miniature: a tiny random encoder on disk, three toy tasks as JSON lines, a recipe."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from graftwork.data.splits import load_task
from graftwork.data.tokens import tokenise
from graftwork.models.backbone import load_backbone
from graftwork.models.multitask import MultiTaskModel
from graftwork.recipe.loading import load_recipe
from toys import grafted

WORDS = ["red", "blue", "green", "stone", "river", "cloud", "tree", "bird", "road", "lamp"]


def write_backbone(folder: Path, *, hidden: int = 32, seed: int = 0, positions: int = 32) -> Path:
    """A two-layer BERT and a whole-word tokenizer."""
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=positions,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_tasks(folder: Path) -> None:
    """`colour`: which colour is in the text; `same`: do two texts begin alike; `length`: how many words."""
    draw = random.Random(0)
    for split, size in (("train", 96), ("validation", 48), ("test", 48)):
        colours, pairs, lengths = [], [], []
        for index in range(size):
            words = draw.choices(WORDS[3:], k=draw.randint(2, 5))
            colour = WORDS[index % 2]
            colours.append({"text": " ".join([*words, colour]), "label": colour})
            other = words[0] if index % 2 else draw.choice([word for word in WORDS[3:] if word != words[0]])
            label = "same" if index % 2 else "different"
            pairs.append({"first": " ".join(words), "second": f"{other} lamp", "label": label})
            lengths.append({"text": " ".join(words), "score": len(words) / 2})
        write_lines(folder / "colour" / f"{split}.jsonl", colours)
        write_lines(folder / "same" / f"{split}.jsonl", pairs)
        write_lines(folder / "length" / f"{split}.jsonl", lengths)


def recipe_dict(folder: Path) -> dict[str, Any]:
    """A run of a few seconds."""
    return {
        "model": str(folder / "backbone"),
        "output": str(folder / "out"),
        "tasks": [
            {"name": "colour", "train": str(folder / "data/colour")},
            {
                "name": "same",
                "train": str(folder / "data/same"),
                "text": ["first", "second"],
                "metric": "macro_f1",
                "pairs": "joint",
            },
            {"name": "length", "train": str(folder / "data/length"), "label": "score", "kind": "regression"},
        ],
        "graft": {"budget": 0.05, "pool_size": 4, "r": 2},
        "training": {"epochs": 3, "batch_size": 16, "learning_rate": 0.01, "max_length": 16},
    }


def write_run(folder: Path) -> Path:
    """Everything for one run; returns the path of the recipe."""
    write_backbone(folder / "backbone")
    write_tasks(folder / "data")
    return write_recipe(folder, recipe_dict(folder))


def write_recipe(folder: Path, recipe: dict[str, Any], name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def run_parts(folder: Path) -> tuple[Any, Any, Any]:
    """Tokens, tokenizer and heads of the tasks of `write_run`."""
    recipe = load_recipe(folder / "recipe.yaml")
    _, tokenizer = load_backbone(recipe.model)
    datas = [load_task(task) for task in recipe.tasks]
    return tokenise(datas, tokenizer, 16, None), tokenizer, [data.head for data in datas]


def run_model(folder: Path, heads: Any) -> MultiTaskModel:
    """The backbone of `write_run` with pools and heads, before any training."""
    backbone, _ = load_backbone(str(folder / "backbone"))
    adapted = grafted(backbone, tasks=[head.name for head in heads])
    return MultiTaskModel(adapted, heads).eval()
