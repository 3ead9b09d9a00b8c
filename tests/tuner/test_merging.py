from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors import safe_open
from torch import nn

import graftwork as gw
from graftwork.errors import MergeError, RoutingError, SiteError
from toy_linear import INPUTS, ROUND, SITES, Net, linear_net, outcome
from toys import TASKS, graft_layers, grafted, outputs, spread_gates, tiny, tokens

PARALLEL = ["linear", "no_bias", "transposed"]


@pytest.mark.parametrize(
    ("site", "position"), [(s, "sequential") for s in SITES] + [(s, "parallel") for s in PARALLEL]
)
def test_a_linear_pool_merges_for_the_task_of_the_route(site, position):
    model = linear_net([site], position)
    spread_gates(model)
    bare = outcome(Net())
    for task in TASKS:
        expected = outcome(model, task)
        assert not torch.allclose(expected, bare, atol=1e-3)
        with gw.route(model, task):
            model.merge_adapter()
        torch.testing.assert_close(outcome(model), expected, **ROUND)
        model.unmerge_adapter()
        torch.testing.assert_close(outcome(model, task), expected, **ROUND)
    with model.disable_adapter():
        torch.testing.assert_close(outcome(model), bare, **ROUND)


def test_all_sites_merge_at_once_and_nothing_of_peft_remains():
    model = linear_net(SITES)
    spread_gates(model)
    gw.discretise_(model)
    expected = outcome(model, "birds")
    with gw.route(model, "birds"):
        backbone = model.merge_and_unload(safe_merge=True)
    assert graft_layers(backbone) == []
    assert backbone.state_dict().keys() == Net().state_dict().keys()
    torch.testing.assert_close(outcome(backbone), expected, **ROUND)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_models_of_transformers_merge_also_without_biases(kind):
    model = grafted(tiny(kind), tasks=["one"])
    expected = outputs(model)
    assert not torch.allclose(expected, outputs(tiny(kind)), atol=1e-3)
    torch.testing.assert_close(outputs(model.merge_and_unload()), expected, **ROUND)


def test_a_compact_linear_pool_merges(tmp_path):
    model = linear_net(SITES)
    spread_gates(model)
    gw.compact_(model, tasks=["dogs"])
    expected = outcome(model)
    model.save_pretrained(str(tmp_path))
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        names = list(file.keys())
        count = sum(file.get_tensor(name).numel() for name in names if "graft_mask" not in name)
    assert not any("graft_bias" in name for name in names)
    assert count == gw.structure_of(model).parameters()
    loaded = PeftModel.from_pretrained(Net(), str(tmp_path)).eval()
    torch.testing.assert_close(outcome(loaded.merge_and_unload()), expected, **ROUND)


def test_adapters_merge_one_by_one_as_together():
    model = linear_net(["linear"], tasks=["one"])
    model.add_adapter(
        "other",
        gw.GraftConfig(
            target_modules=["linear"], activation="identity", r=2, gates="fixed", init_weights=False
        ),
    )
    model.base_model.set_adapter(["default", "other"])
    expected = outcome(model)
    whole = copy.deepcopy(model)
    whole.merge_adapter()
    model.merge_adapter(["other"])
    with pytest.warns(UserWarning, match="merged"):
        model.merge_adapter(["default"])
    for merged in (model, whole):
        torch.testing.assert_close(outcome(merged), expected, **ROUND)
    model.unmerge_adapter()
    model.set_adapter("default")
    reference = linear_net(["linear"], tasks=["one"])
    torch.testing.assert_close(outcome(model), outcome(reference), **ROUND)


def test_merging_needs_one_task():
    model = linear_net(["linear"])
    message = r"merging bakes in one task of cats, dogs, birds; call it inside `with gw\.route\(model, task\)"
    with pytest.raises(RoutingError, match=message):
        model.merge_adapter()
    with pytest.raises(RoutingError, match=message), gw.route(model, ["cats", "dogs", "cats", "dogs"]):
        model.merge_adapter()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"target_modules": ["linear"], "activation": "gelu"},
            "activation='gelu' are nonlinear and cannot be merged",
        ),
        (
            {"target_modules": ["grouped"], "position": "sequential"},
            "a Conv2d of 2 groups cannot be merged into",
        ),
    ],
)
def test_what_has_no_equivalent_weight_is_refused(settings, message):
    model = grafted(Net(), tasks=["one"], **settings)
    expected = outcome(model)
    with pytest.raises(MergeError, match=message):
        model.merge_and_unload()
    assert torch.equal(outcome(model), expected)


def test_whole_blocks_and_quantised_weights_are_refused():
    model = grafted(tiny(), tasks=["one"], placement="block", position="sequential")
    with pytest.raises(MergeError, match="a site that is a BertLayer cannot be merged into"):
        model.merge_adapter()
    model = linear_net(["linear"], tasks=["one"])
    layer = graft_layers(model)[0]
    layer.base_layer.weight = nn.Parameter(layer.base_layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(MergeError, match="a quantised or sharded Linear cannot be merged into"):
        model.merge_adapter()


def test_safe_merging_leaves_the_weight_as_it_was():
    model = linear_net(["linear"], tasks=["one"])
    layer = graft_layers(model)[0]
    before = layer.base_layer.weight.clone()
    layer.graft_up["default"].data[0] = torch.nan
    with pytest.raises(ValueError, match="The adapter default seems to be broken"):
        model.merge_adapter(safe_merge=True)
    assert torch.equal(layer.base_layer.weight, before)
    assert not layer.merged


@pytest.mark.parametrize("site", ["embedding", "conv1d", "conv2d", "grouped"])
def test_parallel_adapters_need_features_to_read(site):
    with pytest.raises(SiteError, match=r"no row of features.*position='sequential'"):
        linear_net([site], "parallel")


@pytest.mark.parametrize("site", [*SITES, "grouped"])
def test_a_site_of_any_kind_takes_rows_of_several_tasks(site):
    model = grafted(Net(), target_modules=[site], position="sequential", activation="gelu")
    spread_gates(model)
    names = ["cats", "birds", "dogs", "birds"]
    mixed = outcome(model, names)
    for row, name in enumerate(names):
        torch.testing.assert_close(mixed[row], outcome(model, name)[row])
    assert not torch.allclose(outcome(model, "cats")[1], mixed[1], atol=1e-3)


@pytest.mark.parametrize("site", [*SITES, "grouped"])
def test_a_site_of_any_kind_trains_all_its_parameters(site):
    settings = {"position": "sequential", "activation": "gelu"}
    model = grafted(Net(), tasks=["one"], target_modules=[site], **settings).train()
    model.base_model.router.driven = True
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(INPUTS).square().mean().backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


def test_widths_are_exposed_as_by_linear_layers():
    model = get_peft_model(Net(), gw.GraftConfig(target_modules=SITES, position="sequential"))
    for layer in graft_layers(model):
        assert (layer.in_features, layer.out_features) == (8, 8)


@pytest.mark.parametrize("site", ["linear1", "linear2", "self_attn", r".*layers\.\d"])
@pytest.mark.parametrize("padded", [False, True])
def test_adapters_inside_torchs_own_encoder_are_not_skipped_in_evaluation(site, padded):
    """Its fast path reads the weights of its parts without calling them."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mask = torch.tensor([[False] * 5, [False, False, False, True, True]]) if padded else None
            return self.encoder(x, src_key_padding_mask=mask)[:, :3]

    target = site if "\\" in site else [site]
    model = grafted(Encoder(), target_modules=target)
    spread_gates(model)
    gw.discretise_(model)
    x = torch.randn(2, 5, 8)
    with torch.no_grad(), gw.route(model, ["cats", "birds"]):
        training = model.train()(x)
        evaluated = model.eval()(x)
        with model.disable_adapter():
            bare = model(x)
    torch.testing.assert_close(evaluated, training)
    assert not torch.allclose(evaluated, bare, atol=1e-3)
    with pytest.raises(SiteError, match="reads that weight without calling the layer"):
        grafted(Encoder(), target_modules=["out_proj"])
    everywhere = graft_layers(grafted(Encoder(), target_modules="all-linear"))
    assert len(everywhere) == 4


def test_opt_flattens_the_positions_of_its_feed_forward_part():
    model = grafted(tiny("opt"))
    spread_gates(model)
    inputs = tokens(4)
    mixed = outputs(model, inputs, graft_rows=torch.tensor([0, 2, 1, 2]))
    for row, task in enumerate([0, 2, 1, 2]):
        alone = outputs(model, inputs[row : row + 1], graft_rows=torch.tensor([task]))
        torch.testing.assert_close(mixed[row], alone[0], atol=1e-5, rtol=1e-4)
    with pytest.raises(RoutingError, match="the tasks of 2 rows, but the batch has 4"):
        outputs(model, inputs, graft_rows=torch.tensor([0, 2]))
