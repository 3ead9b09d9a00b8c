from __future__ import annotations

import re

import pytest
import torch
import transformers
from peft import get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn

import graftwork as gw
from graftwork.errors import SiteError
from graftwork.tuner.sites import DEFAULT_SITES, resolve_sites
from toys import IMAGES, VOCABULARY, graft_layers, tiny, tokens

PLACEMENTS = ("attention+ffn", "attention", "ffn", "block")
ENCODER_DECODER = {"attention+ffn": 10, "attention": 6, "ffn": 4, "block": 4}
ENCODER_DECODERS = ("t5", "mt5", "bart", "mbart")


def sites_of(model, **settings) -> list[str]:
    return resolve_sites(model, gw.GraftConfig(tasks=["one"], budget=10**6, **settings))


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("kind", [kind for kind in DEFAULT_SITES if kind != "xlm-roberta"])
@torch.no_grad()  # T5 takes another attention kernel when its position bias needs a gradient
def test_default_sites_of_two_layers(kind, placement):
    backbone = tiny(kind)
    inputs = {"pixel_values": torch.randn(2, 3, 8, 8)} if kind in IMAGES else {"input_ids": tokens(2)}
    if kind in ENCODER_DECODERS:
        inputs["decoder_input_ids"] = tokens(2, 3)
    expected = backbone(**inputs)[0]
    config = gw.GraftConfig(tasks=["a", "b"], placement=placement, budget=10**6)
    model = get_peft_model(backbone, config).eval()
    layers = graft_layers(model)
    single = {"attention+ffn": 4, "attention": 2, "ffn": 2, "block": 2}
    assert len(layers) == (ENCODER_DECODER if kind in ENCODER_DECODERS else single)[placement]
    assert {pool.width_out for layer in layers for pool in layer.pools.values()} == {16}
    with gw.route(model, ["a", "b"]):
        assert torch.equal(model(**inputs)[0], expected)
        for layer in layers:
            layer.graft_up["default"].data.normal_()
            before, expected = expected, model(**inputs)[0]
            assert not torch.equal(before, expected), "a site without effect"


@pytest.mark.parametrize("kind", [kind for kind in DEFAULT_SITES if kind != "xlm-roberta"])
@torch.no_grad()
def test_linear_is_every_linear_map_of_the_layers(kind):
    backbone = tiny(kind)
    inputs = {"pixel_values": torch.randn(2, 3, 8, 8)} if kind in IMAGES else {"input_ids": tokens(2)}
    if kind in ENCODER_DECODERS:
        inputs["decoder_input_ids"] = tokens(2, 3)
    linear = [
        name
        for name, part in backbone.named_modules()
        if (isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D") and "pos_" not in name
    ]
    expected = [name for name in linear if re.search(r"\.\d+\.", name)]
    assert sites_of(backbone, placement="linear") == expected
    assert len(expected) >= len(linear) - 1, "only a pooler is left out"
    config = gw.GraftConfig(
        tasks=["a", "b"], placement="linear", position="parallel", activation="identity", budget=10**6
    )
    model = get_peft_model(backbone, config).eval()
    outcome = model(**inputs, graft_rows=torch.tensor([0, 1]))[0]
    for layer in graft_layers(model):
        layer.graft_up["default"].data.normal_()
        before, outcome = outcome, model(**inputs, graft_rows=torch.tensor([0, 1]))[0]
        assert not torch.equal(before, outcome), "a site without effect"


def test_linear_sites_of_a_model_with_a_head_and_of_torchs_own_layers():
    base = sites_of(tiny("bert"), placement="linear")
    assert sites_of(tiny("bert", "AutoModelForSequenceClassification"), placement="linear") == [
        f"bert.{name}" for name in base
    ]
    generating = sites_of(tiny("llama", "AutoModelForCausalLM"), placement="linear")
    assert len(generating) == 14
    assert all("lm_head" not in name for name in generating)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    assert sites_of(encoder, placement="linear") == [
        f"layers.{layer}.{name}" for layer in (0, 1) for name in ("linear1", "linear2")
    ]
    assert len(sites_of(tiny("bert"), placement="linear", layers_to_transform=1)) == 6
    assert len(sites_of(tiny("bert"), placement="linear", exclude_modules=["query"])) == 10


def test_defaults_hold_under_heads_and_prefixes():
    placed = {"placement": "attention+ffn"}
    base = sites_of(tiny("bert"), **placed)
    headed = sites_of(tiny("bert", "AutoModelForSequenceClassification"), **placed)
    assert headed == [f"bert.{name}" for name in base]
    assert sites_of(tiny("roberta"), **placed) == base
    assert base == [
        "encoder.layer.0.attention.output.dense",
        "encoder.layer.0.output.dense",
        "encoder.layer.1.attention.output.dense",
        "encoder.layer.1.output.dense",
    ]


def test_layers_and_exclusions_narrow_the_defaults():
    backbone = tiny("bert", num_hidden_layers=12)
    for placement, count in (("attention+ffn", 2), ("linear", 6)):
        assert len(sites_of(backbone, placement=placement, layers_to_transform=[1, 11])) == 2 * count
        found = sites_of(backbone, placement=placement, layers_to_transform=1)
        assert all(".1." in name for name in found)
        assert len(sites_of(backbone, placement=placement, layers_to_transform=0)) == count
        found = sites_of(
            backbone, placement=placement, exclude_modules=r".*attention.*", layers_to_transform=[0, 3]
        )
        parts = ("output",) if placement == "attention+ffn" else ("intermediate", "output")
        assert found == [f"encoder.layer.{layer}.{part}.dense" for layer in (0, 3) for part in parts]


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"target_modules": ["query", "value"]}, 4),
        ({"target_modules": ["query"], "layers_to_transform": [1]}, 1),
        ({"target_modules": ["query", "value"], "exclude_modules": ["value"]}, 2),
        ({"target_modules": r".*\.0\..*\.(query|key)"}, 2),
        ({"target_modules": ["encoder.layer.1.output.dense"]}, 1),
        ({"target_modules": "all-linear"}, 13),
        ({"target_modules": "all-linear", "layers_to_transform": [0]}, 6),
        ({"target_modules": "all-linear", "exclude_modules": ["pooler.dense"]}, 12),
    ],
)
def test_explicit_targets_follow_peft(settings, count):
    assert len(sites_of(tiny("bert"), **settings)) == count


def test_all_linear_leaves_the_output_layer_alone():
    backbone = tiny("llama", "AutoModelForCausalLM")
    found = sites_of(backbone, target_modules="all-linear")
    assert len(found) == 14
    assert "lm_head" not in found
    assert len(sites_of(tiny("gpt2"), target_modules="all-linear")) == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["querry"]}, r"no module matches 'querry'\. Near misses: .*query"),
        ({"target_modules": r".*o_proj"}, r"no module matches '\.\*o_proj'\. Near misses:"),
        (
            {"target_modules": ["query"], "layers_to_transform": [7]},
            r"no module matches 'query' with layers_to_transform=\[7\]",
        ),
        (
            {"layers_to_transform": 9},
            r"no module matches placement='linear' with layers_to_transform=9\. Without that there are 12 "
            r"sites, from encoder\.layer\.0\.attention\.self\.query to encoder\.layer\.1\.output\.dense\.",
        ),
        (
            {"layers_to_transform": 9, "placement": "attention+ffn"},
            r"placement='attention\+ffn' with layers_to_transform=9\. Without that there are 4 sites",
        ),
        ({"exclude_modules": r".*"}, r"no module matches .* with exclude_modules='\.\*'"),
        ({"target_modules": "all-linear", "exclude_modules": r".*"}, "no module matches 'all-linear'"),
        (
            {"target_modules": ["encoder.layer.0.output.dense"], "exclude_modules": ["dense"]},
            "no module matches",
        ),
    ],
)
def test_no_match_is_an_error_with_near_misses(settings, message):
    with pytest.raises(SiteError, match=message) as caught:
        sites_of(tiny("bert"), **settings)
    assert "\n" not in str(caught.value)


class Unknown(nn.Module):
    """A model without a configuration, whose layers are in a list or in fields of their own."""

    def __init__(self, listed: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        layers = [nn.Linear(8, 8), nn.Linear(8, 8)]
        self.layers = nn.ModuleList(layers) if listed else nn.Sequential(*layers)
        self.out = nn.Linear(8, 2)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return self.out(x)


def test_an_unknown_architecture_has_linear_maps_in_layers_or_needs_targets():
    assert sites_of(Unknown(listed=True)) == ["layers.0", "layers.1"]
    with pytest.raises(
        SiteError,
        match=r"no module of a model without a model_type matches placement='linear'\. Please specify "
        r"`target_modules`, such as some of layers\.0, layers\.1, out\.$",
    ):
        sites_of(Unknown(listed=False))
    for placement in PLACEMENTS:
        with pytest.raises(
            SiteError,
            match=r"no default sites for a model without a model_type with placement=.*\. Please specify "
            r"`target_modules`, such as some of .*out or placement='linear'\.",
        ):
            sites_of(Unknown(listed=True), placement=placement)
    config = gw.GraftConfig(tasks=["a", "b"], target_modules=["out"], gates="fixed")
    model = get_peft_model(Unknown(listed=True), config)
    with gw.route(model, ["a", "b"]):
        assert model(tokens(2)).shape == (2, 5, 2)


def test_an_architecture_of_no_listed_layers_takes_its_sites_for_lora(monkeypatch):
    class FoobarConfig(transformers.PretrainedConfig):
        model_type = "foobar"

    backbone = Unknown(listed=False)
    backbone.config = FoobarConfig()
    monkeypatch.setitem(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, "foobar", ["out"])
    assert sites_of(backbone) == ["out"]
    backbone.layers = nn.ModuleList(backbone.layers)
    assert sites_of(backbone) == ["layers.0", "layers.1"]


def test_a_model_without_linear_maps_names_other_modules():
    with pytest.raises(SiteError, match=r"such as some of embed\.$"):
        sites_of(nn.ModuleDict({"embed": nn.Embedding(5, 8)}))


def test_an_architecture_known_to_peft_alone_takes_its_sites_for_lora():
    config = transformers.GPTNeoConfig(
        hidden_size=16, num_layers=2, num_heads=2, attention_types=[[["global"], 2]], vocab_size=VOCABULARY
    )
    backbone = transformers.GPTNeoModel(config)
    parts = [f"attn.attention.{part}_proj" for part in ("k", "v", "q", "out")] + ["mlp.c_fc", "mlp.c_proj"]
    assert sites_of(backbone) == [f"h.{layer}.{part}" for layer in (0, 1) for part in parts]
    placed = {"placement": "attention+ffn"}
    assert sites_of(backbone, **placed) == [
        f"h.{layer}.attn.attention.{part}" for layer in (0, 1) for part in ("v_proj", "q_proj")
    ]
    assert len(sites_of(backbone, layers_to_transform=[1], **placed)) == 2
    with pytest.raises(SiteError, match="no default sites for the architecture 'gpt_neo'"):
        sites_of(backbone, placement="block")
