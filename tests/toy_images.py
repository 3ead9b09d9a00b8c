"""Toy backbones of images, and tasks whose images are made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

SIDE = 16
"""Pixels of a side."""
_SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": SIDE,
    "patch_size": 4,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTConfig", "ViTModel", _SMALL),
    "dinov2": ("Dinov2Config", "Dinov2Model", {**_SMALL, "mlp_ratio": 2}),
    "swin": (
        "SwinConfig",
        "SwinModel",
        {
            "image_size": SIDE,
            "patch_size": 2,
            "embed_dim": 8,
            "depths": [2, 2],
            "num_heads": [2, 2],
            "window_size": 4,
        },
    ),
    "clip_vision_model": ("CLIPVisionConfig", "CLIPVisionModel", _SMALL),
}


def write_image_backbone(folder: Path, kind: str = "vit", **changes: Any) -> Path:
    """A random model of one of `KINDS`, with an image processor."""
    config, model, values = KINDS[kind]
    torch.manual_seed(0)
    getattr(transformers, model)(getattr(transformers, config)(**{**values, **changes})).save_pretrained(
        folder
    )
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def drawn(colour: str, bright: float, rng: np.random.Generator) -> Image.Image:
    """An image that is red or blue on top, and in all parts as bright as that."""
    pixels = rng.integers(0, 40, size=(20, 24, 3))
    pixels[:10, :, 0 if colour == "red" else 2] += 200
    return Image.fromarray((pixels * bright).astype(np.uint8))


def write_images(folder: Path) -> None:
    """`colour`: a folder per class; `bright`: paths and numbers; `both`: several labels."""
    rng = np.random.default_rng(0)
    for split, size in (("train", 48), ("validation", 24), ("test", 24)):
        rows = []
        for index in range(size):
            colour, bright = ("red", "blue")[index % 2], 0.3 + 0.7 * float(rng.random())
            image = drawn(colour, bright, rng)
            file = folder / "colour" / split / colour / f"{index:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file)
            labels = [colour] + ["bright"] * (bright > 0.65)
            rows.append(
                {"photo": f"../colour/{split}/{colour}/{file.name}", "score": bright, "labels": labels}
            )
        path = folder / "bright" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def image_recipe(folder: Path, **training: Any) -> dict[str, Any]:
    """A run of a few seconds, of a folder per class and a field with paths."""
    colour, bright = folder / "data/colour", folder / "data/bright"
    return {
        "model": str(folder / "backbone"),
        "output": str(folder / "out"),
        "tasks": [
            {
                "name": "colour",
                "image": "image",
                **{split: str(colour / split) for split in ("train", "validation", "test")},
            },
            {
                "name": "bright",
                "train": str(bright),
                "image": "photo",
                "label": "score",
                "kind": "regression",
            },
            {"name": "both", "train": str(bright), "image": "photo", "label": "labels", "kind": "multilabel"},
        ],
        "graft": {"pool_size": 4, "budget": "20%"},
        "training": {"epochs": 2, "batch_size": 16, "learning_rate": 0.01, **training},
    }
