"""What a pass before training finds, and that it leaves nothing behind."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from graftwork.data.splits import load_task
from graftwork.errors import RecipeError, SiteError, TrainingError
from graftwork.models.backbone import load_backbone
from graftwork.models.first_pass import measure_width_, measured_width
from graftwork.models.multitask import MultiTaskModel, hidden_width
from graftwork.preflight.positions import most_tokens
from graftwork.preflight.preflight import fitting_tokens, preflight
from graftwork.recipe.loading import load_recipe
from graftwork.routing.traceless import traceless
from toyrun import run_model, run_parts, write_run
from toys import graft_layers, grafted, tiny, tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("preflight")
    write_run(path)
    return path


@pytest.fixture
def parts(folder: Path) -> SimpleNamespace:
    splits, tokenizer, heads = run_parts(folder)
    return SimpleNamespace(
        splits=splits, tokenizer=tokenizer, heads=heads, model=run_model(folder, heads), folder=folder
    )


def state(model: nn.Module) -> list[Any]:
    return [
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        {name: buffer.clone() for name, buffer in model.named_buffers()},
        [parameter.grad for parameter in model.parameters()],
        [module.training for module in model.modules()],
    ]


def test_nothing_of_it_stays(parts: SimpleNamespace) -> None:
    model = parts.model.train()
    model.backbone.eval()
    model.heads.bias.grad = torch.ones_like(model.heads.bias)
    before = state(model)
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    expected = torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    assert preflight(model, parts.splits, parts.tokenizer) == []
    assert torch.equal(torch.rand(3), expected[0])
    assert (np.random.rand(), random.random()) == expected[1:]  # noqa: NPY002
    after = state(model)
    for old, new in zip(before[:2], after[:2], strict=True):
        assert old.keys() == new.keys()
        assert all(torch.equal(old[name], new[name]) for name in old)
    assert [gradient is None for gradient in before[2]] == [gradient is None for gradient in after[2]]
    assert torch.equal(model.heads.bias.grad, torch.ones_like(model.heads.bias))
    assert before[3] == after[3]


def test_buffers_that_a_pass_moves_are_put_back() -> None:
    norm = nn.BatchNorm1d(3)
    with traceless(norm):
        norm.train()(torch.randn(4, 3))
        assert norm.num_batches_tracked == 1
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_mean, torch.zeros(3))


class Fused(nn.Module):
    """Reads the weight of its layer without calling it; in evaluation only, if `mode` says so."""

    def __init__(self, dense: nn.Module, mode: str) -> None:
        super().__init__()
        self.dense = dense
        self.mode = mode

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.mode == "evaluation" and self.training:
            return self.dense(hidden)  # type: ignore[no-any-return]
        layer = self.dense.get_base_layer()  # type: ignore[operator]
        return nn.functional.linear(hidden, layer.weight, layer.bias)


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("always", "the backbone never calls"),
        ("evaluation", "the backbone calls them in training alone"),
    ],
)
def test_a_site_that_is_not_called_is_named(mode: str, why: str, parts: SimpleNamespace) -> None:
    intermediate = parts.model.backbone.get_base_model().encoder.layer[0].output
    intermediate.dense = Fused(intermediate.dense, mode)
    (note,) = preflight(parts.model, parts.splits, parts.tokenizer)
    assert why in note
    assert "encoder.layer.0.output.dense.dense" in note
    assert "exclude_modules" in note


def test_no_site_that_learns_is_an_error(parts: SimpleNamespace) -> None:
    for layer in parts.model.backbone.get_base_model().encoder.layer:
        for part in (layer.attention.output, layer.intermediate, layer.output):
            part.dense = Fused(part.dense, "always")
        for name in ("query", "key", "value"):
            setattr(layer.attention.self, name, Fused(getattr(layer.attention.self, name), "always"))
    with pytest.raises(SiteError, match="no adapter can learn: of 12 sites"):
        preflight(parts.model, parts.splits, parts.tokenizer)


def test_a_loss_that_is_no_number_is_an_error(parts: SimpleNamespace) -> None:
    with torch.no_grad():
        next(parts.model.backbone.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"the loss of the first 4 rows .* is nan before any"):
        preflight(parts.model, parts.splits, parts.tokenizer)


def test_what_the_backbone_raises_is_one_line(parts: SimpleNamespace) -> None:
    encoder = parts.model.backbone.get_base_model().encoder
    weight = nn.Embedding(2, 3)
    encoder.register_forward_pre_hook(lambda *_: weight(torch.tensor([7])))
    with pytest.raises(TrainingError, match=r"cannot be passed through the backbone \(BertModel\); .*index"):
        preflight(parts.model, parts.splits, parts.tokenizer)


@pytest.mark.parametrize(
    ("kind", "settings", "bound"),
    [
        ("bert", {}, 32),
        ("roberta", {"pad_token_id": 1}, 30),
        ("opt", {}, 32),
        ("bart", {}, 32),
        ("gpt2", {}, 32),
        ("gptj", {}, 32),
        ("electra", {}, 32),
        ("distilbert", {}, 32),
        ("t5", {}, 64),
        ("deberta-v2", {"relative_attention": True, "position_biased_input": False}, 64),
        ("modernbert", {}, 64),
        ("llama", {}, 64),
        ("bloom", {}, 64),
    ],
)
def test_the_bound_of_positions(kind: str, settings: dict[str, Any], bound: int) -> None:
    model = tiny(kind, **settings)
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    assert most_tokens(model, 64, 5) == bound
    assert most_tokens(model, 20, 5) == 20


def test_a_backbone_without_room_for_text_is_refused(parts: SimpleNamespace) -> None:
    datas = [load_task(task) for task in load_recipe(parts.folder / "recipe.yaml").tasks]
    with pytest.raises(RecipeError, match="positions for 3 tokens, of which 3 are special ones"):
        fitting_tokens(
            datas, tiny("bert", max_position_embeddings=3, vocab_size=14), parts.tokenizer, 16, None
        )


def test_tokens_without_an_embedding_are_refused(parts: SimpleNamespace) -> None:
    datas = [load_task(task) for task in load_recipe(parts.folder / "recipe.yaml").tasks]
    with pytest.raises(RecipeError, match=r"the token 'lamp' with number 13, but .* embeddings for 0 to 12"):
        fitting_tokens(datas, tiny("bert", vocab_size=13), parts.tokenizer, 16, None)
    tokenizer = copy.deepcopy(parts.tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[MORE]"})
    with pytest.raises(RecipeError, match=r"pads with '\[MORE\]', number 14"):
        fitting_tokens(datas, tiny("bert", vocab_size=14), tokenizer, 16, None)


def test_the_width_is_that_of_the_output(parts: SimpleNamespace) -> None:
    model = tiny("opt", word_embed_proj_dim=8, vocab_size=14)
    assert hidden_width(model) == 8
    model.config.word_embed_proj_dim = None
    measure_width_(model, parts.tokenizer, "name")
    assert hidden_width(model) == measured_width(nn.Sequential(model)) == 8
    assert MultiTaskModel(grafted(model, tasks=["cats"]), parts.heads[:1]).heads.weight.shape[-1] == 8


def test_a_backbone_without_hidden_states_is_refused(parts: SimpleNamespace) -> None:
    model = tiny("bert", auto="AutoModelForSequenceClassification", vocab_size=14)
    with pytest.raises(RecipeError, match=r"needs a last_hidden_state of .* gives none"):
        measure_width_(model, parts.tokenizer, "name")


def test_of_an_encoder_decoder_the_encoder_is_loaded(parts: SimpleNamespace, tmp_path: Path) -> None:
    whole = tiny("bart", vocab_size=14)
    whole.save_pretrained(tmp_path)
    parts.tokenizer.save_pretrained(tmp_path)
    encoder, _ = load_backbone(str(tmp_path))
    ids = tokens(2, 5) % 14
    with torch.no_grad():
        expected = whole.get_encoder()(ids).last_hidden_state
        assert torch.equal(encoder(ids).last_hidden_state, expected)
    assert len(graft_layers(grafted(encoder))) == 12
