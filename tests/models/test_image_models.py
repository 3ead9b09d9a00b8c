"""What a model of images needs of a backbone: one test for each architecture that people bring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from PIL import Image
from transformers import CLIPConfig, CLIPModel
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import graftwork as gw
from graftwork.data.images.reader import ImageReader
from graftwork.data.task import Task
from graftwork.errors import RecipeError
from graftwork.models.backbone import load_backbone, load_encoder
from graftwork.models.folder import load_model, save_model
from graftwork.models.multitask import MultiTaskModel
from graftwork.preflight.preflight import check_size
from toy_images import KINDS, SIDE, write_image_backbone
from toyrun import write_backbone

SITES = {
    "vit": ("attention.q_proj", "attention.o_proj", "mlp.fc2"),
    "dinov2": ("attention.q_proj", "attention.o_proj", "mlp.fc2"),
    "swin": ("attention.q_proj", "attention.o_proj", "mlp.fc2", "downsample.reduction"),
    "clip_vision_model": ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc2"),
}
TASKS = ["a", "b", "c"]


def model_of(folder: Path, **config: Any) -> tuple[MultiTaskModel, ImageReader]:
    backbone, reader = load_backbone(str(folder), "image")
    assert isinstance(reader, ImageReader)
    torch.manual_seed(0)
    adapted = get_peft_model(backbone, gw.GraftConfig(tasks=TASKS, gates="fixed", pool_size=2, **config))
    for name, weight in adapted.named_parameters():
        if "graft_" in name and weight.requires_grad:  # adapters begin at zero
            torch.nn.init.normal_(weight, std=0.3)
    heads = [Task(name, "x", image="image").head(labels=["one", "two"]) for name in TASKS]
    return MultiTaskModel(adapted, heads).eval(), reader


@pytest.mark.parametrize("kind", KINDS)
def test_default_sites_and_rows_of_their_own(kind: str, tmp_path: Path) -> None:
    model, _ = model_of(write_image_backbone(tmp_path / "backbone", kind))
    sites = list(gw.structure_of(model.backbone).sites)
    for name in SITES[kind]:
        assert any(site.endswith(name) for site in sites), (name, sites)
    # All linear maps of the layers, and none of the embeddings or the pooler.
    assert not [site for site in sites if "embeddings" in site or "pooler" in site]
    pixels, rows = torch.randn(4, 3, SIDE, SIDE), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        together = model(pixel_values=pixels, graft_rows=rows).logits
        alone = [model(pixel_values=pixels[[i]], graft_rows=rows[[i]]).logits for i in range(4)]
        other = model(pixel_values=pixels, graft_rows=torch.tensor([1, 1, 2, 0])).logits
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other[1:], together[1:], rtol=1e-4, atol=1e-5)
    labels = torch.tensor([0.0, 1, 1, 0])
    model.train()(pixel_values=pixels, labels=labels, graft_rows=rows).loss.backward()
    graft = {name: weight for name, weight in model.named_parameters() if "graft_up" in name}
    assert graft
    assert all(weight.grad is not None for weight in graft.values())


@pytest.mark.parametrize("kind", KINDS)
def test_another_size_than_in_pretraining(kind: str, tmp_path: Path) -> None:
    model, reader = model_of(write_image_backbone(tmp_path / "backbone", kind))
    pixels = reader.sized(24).pixels([Image.new("RGB", (9, 9), "red")])
    with torch.no_grad():
        assert model(pixel_values=pixels, graft_rows=torch.tensor([1])).logits.isfinite().all()


def test_no_image_changes_how_the_next_one_is_read(tmp_path: Path) -> None:
    folder = write_image_backbone(tmp_path / "backbone", "swin")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    model, reader = model_of(folder)
    noise = Image.effect_noise((30, 30), 90).convert("RGB")
    large, small = (reader.sized(size).pixels([noise]) for size in (32, SIDE))
    rows = torch.tensor([0])
    with torch.no_grad():
        before = model(pixel_values=large, graft_rows=rows).logits
        model(pixel_values=small, graft_rows=rows)
        assert torch.equal(model(pixel_values=large, graft_rows=rows).logits, before)


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(kind: str, tmp_path: Path) -> None:
    folder = write_image_backbone(tmp_path / "backbone", kind)
    model, reader = model_of(folder)
    (tmp_path / "model").mkdir()
    save_model(model, tmp_path / "model", backbone_name=str(folder))
    reader.sized(24).save_pretrained(tmp_path / "model")
    loaded, again = load_model(tmp_path / "model")
    assert isinstance(again, ImageReader)
    images = [Image.effect_noise((30, 20), 80).convert("RGB") for _ in range(3)]
    pixels = again.pixels(images)
    assert torch.equal(pixels, reader.sized(24).pixels(images))
    with torch.no_grad():
        rows = torch.tensor([0, 1, 2])
        assert torch.equal(
            loaded(pixel_values=pixels, graft_rows=rows).logits,
            model(pixel_values=pixels, graft_rows=rows).logits,
        )


def test_the_vision_tower_of_clip(tmp_path: Path) -> None:
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": 40, "eos_token_id": 2, "bos_token_id": 1}
    vision = {**small, "image_size": SIDE, "patch_size": 4}
    torch.manual_seed(0)
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    whole.save_pretrained(tmp_path)
    tower = load_encoder(str(tmp_path), "image")
    assert type(tower).__name__ == "CLIPVisionModel"
    pixels = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        mine = tower(pixel_values=pixels).last_hidden_state
        assert torch.equal(mine, whole.vision_model(pixel_values=pixels).last_hidden_state)


def test_backbones_that_do_not_fit(tmp_path: Path) -> None:
    images, texts = write_image_backbone(tmp_path / "images"), write_backbone(tmp_path / "texts")
    with pytest.raises(RecipeError, match="is a ViTModel, which reads images; name the field"):
        load_backbone(str(images))
    with pytest.raises(RecipeError, match="is a BertModel, which reads no images"):
        load_backbone(str(texts), "image")
    backbone, reader = load_backbone(str(images), "image")
    assert isinstance(reader, ImageReader)
    with pytest.raises(RecipeError, match=r"14 x 14 pixels are no whole number of the patches of 4 pixels"):
        check_size(reader.sized(14), backbone, "toy")
    (images / "preprocessor_config.json").unlink()
    with pytest.raises(RecipeError, match=r"has no image processor: there is no preprocessor_config\.json"):
        load_backbone(str(images), "image")
