"""Model folders to serve: tiny ones on one backbone, with adapters that differ in rank, scale and path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

import graftwork as gw
from graftwork.kinds.heads import TaskHead
from graftwork.models.backbone import load_backbone
from graftwork.models.folder import write_model
from graftwork.models.multitask import MultiTaskModel
from toyrun import WORDS, write_backbone
from toys import graft_layers, random_structure

MOOD = TaskHead("mood", ("text",), "label", "classification", "accuracy", ("calm", "pushy"))
PAIR = TaskHead("pair", ("first", "second"), "label", "classification", "accuracy", ("no", "so", "yes"))
SIZE = TaskHead("size", ("text",), "score", "regression", "spearman", (), 2.0, 3.0)
THINGS = TaskHead("things", ("text",), "things", "multilabel", "micro_f1", ("bird", "road", "stone"))
TAGS = ("O", "B-place", "I-place")
PLACES = TaskHead("places", ("text",), "spans", "tokens", "entity_f1", TAGS)
TRUE = TaskHead("true", ("text",), "label", "classification", "accuracy", ("false", "true"))
LEVEL = TaskHead("level", ("text",), "label", "classification", "accuracy", ("0", "1", "2"))
LIKE_BERT = {"placement": "linear", "position": "parallel", "activation": "identity"}


def write_served(folder: Path, backbone: Path, heads: list[TaskHead], seed: int = 0, **settings: Any) -> Path:
    """A finished model with random adapters, each task on a path of its own."""
    base, tokenizer = load_backbone(str(backbone))
    torch.manual_seed(seed)
    names = [head.name for head in heads]
    options: dict[str, Any] = {"pool_size": 4, "r": 1, "gates": "fixed", **settings}
    adapted = gw_model(base, names, options)
    model = MultiTaskModel(adapted, heads, max_length=settings.get("max_length", 16)).eval()
    nn.init.normal_(model.heads.weight, std=0.3)
    gw.set_structure_(model, random_structure(adapted, seed=seed))
    structure = gw.compact_(model)
    folder.mkdir(parents=True)
    write_model(
        model,
        tokenizer,
        folder,
        backbone_name=str(backbone),
        place=folder,
        structure=structure,
        recipe=None,
        report={},
    )
    return folder


def gw_model(base: Any, names: list[str], options: dict[str, Any]) -> Any:
    from peft import get_peft_model

    options = {key: value for key, value in options.items() if key != "max_length"}
    adapted = get_peft_model(base, gw.GraftConfig(tasks=names, **options))
    for layer in graft_layers(adapted):
        for up in layer.graft_up.values():
            nn.init.normal_(up, std=0.3)
        for bias in layer.graft_bias.values():
            nn.init.normal_(bias, std=0.3)
    return adapted.eval()


def write_folders(folder: Path) -> list[Path]:
    """Three folders: two that fuse, though rank and scale differ, and one of another form."""
    backbone = write_backbone(folder / "backbone")
    return [
        write_served(folder / "one", backbone, [MOOD, PAIR], 1),
        write_served(folder / "two", backbone, [SIZE, THINGS, PLACES], 2, r=2, pool_size=3, scale=0.7),
        write_served(folder / "three", backbone, [TRUE, LEVEL], 3, activation="gelu", position="sequential"),
    ]


def rows_of(head: TaskHead, count: int, start: int = 0) -> list[Any]:
    """Rows of different length, and of length 1."""
    texts = [
        " ".join(WORDS[(start + index + place) % len(WORDS)] for place in range(1 + (start + index) % 9))
        for index in range(count)
    ]
    return texts if len(head.text) == 1 else [(text, "stone lamp") for text in texts]
