"""Noise in a model: there inside the context, gone after it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers import BertConfig, BertModel, T5Config, T5Model

import graftwork as gw
from graftwork.errors import ConfigError, StructureError
from graftwork.noise.applying import model_noise
from graftwork.noise.kinds import KINDS, Noise
from graftwork.noise.model import embedding_noise, path_noise, weight_noise
from graftwork.structure.structure import SiteStructure

TASKS = ("a", "b", "c")


def graft_model(*, gates: str = "hard_concrete", tasks: tuple[str, ...] = TASKS) -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=50,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    graft = gw.GraftConfig(
        tasks=list(tasks),
        r=2,
        pool_size=4,
        init_weights=False,
        gates=gates,
        budget=None if gates == "fixed" else 0.9,
    )
    model = get_peft_model(BertModel(config), graft)
    for name, parameter in model.named_parameters():
        if "graft_up" in name:
            nn.init.normal_(parameter, std=0.5)
    return model.eval()


IDS = torch.randint(0, 50, (6, 7), generator=torch.Generator().manual_seed(0))
ROWS = torch.tensor([0, 1, 2, 0, 1, 2])


def outputs(model: nn.Module, rows: Tensor | None = ROWS) -> Tensor:
    with torch.no_grad():
        result = model(IDS, graft_rows=rows) if rows is not None else model(IDS)
    return result.last_hidden_state  # type: ignore[no-any-return]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def untouched() -> Iterator[Callable[[nn.Module], None]]:
    """Check at the end of the test that a model is what it was."""
    watched: list[tuple[nn.Module, dict[str, Tensor], Tensor, list[str]]] = []

    def attributes(model: nn.Module) -> list[str]:
        return [
            f"{name}: {sorted(map(str, module.__dict__))} {len(module._forward_hooks)} "
            f"{module.__dict__.get('_all_open')}"
            for name, module in model.named_modules()
        ]

    def watch(model: nn.Module) -> None:
        result = outputs(model)
        watched.append((model, state(model), result, attributes(model)))

    yield watch
    assert watched
    for model, before, result, names in watched:
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert torch.equal(outputs(model), result)
        assert attributes(model) == names


CONTEXTS: dict[str, Callable[..., AbstractContextManager[Any]]] = {
    "embeddings": embedding_noise,
    "path_drop": path_noise,
    "path_redraw": lambda *arguments, **more: path_noise(*arguments, redraw=True, **more),
    "weights": weight_noise,
}


@pytest.mark.parametrize("gates", ["hard_concrete", "sigmoid", "fixed"])
@pytest.mark.parametrize("kind", CONTEXTS)
def test_noise_in_a_model_is_there_and_gone(
    kind: Any, gates: str, untouched: Callable[[nn.Module], None]
) -> None:
    model = graft_model(gates=gates)
    untouched(model)
    clean = outputs(model)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with model_noise(model, Noise(kind, 0.25, seed=1), "test") as report:
        noisy = outputs(model)
    with model_noise(model, Noise(kind, 0.25, seed=1), "test"):
        again = outputs(model)
    with model_noise(model, Noise(kind, 0.25, seed=2), "test"):
        other = outputs(model)
    assert torch.equal(torch.rand(3), expected), "the global random state is not used"
    assert not torch.allclose(noisy, clean, atol=1e-3)
    assert torch.equal(noisy, again)
    assert not torch.equal(noisy, other)
    assert report().realised["test"] == pytest.approx(0.25, rel=0.1)
    assert report().items["test"] > 0
    assert report().unit == KINDS[kind].unit


@pytest.mark.parametrize("kind", CONTEXTS)
def test_noise_in_a_model_is_gone_after_an_error_too(
    kind: str, untouched: Callable[[nn.Module], None]
) -> None:
    model = graft_model()
    untouched(model)

    def fail() -> None:
        with CONTEXTS[kind](model, 0.5):
            outputs(model)
            raise KeyError

    with pytest.raises(KeyError):
        fail()


@pytest.mark.parametrize("kind", CONTEXTS)
def test_model_noise_of_zero_is_the_identity(kind: str) -> None:
    model = graft_model()
    clean = outputs(model)
    with CONTEXTS[kind](model, 0.0) as realised:
        assert torch.equal(outputs(model), clean)
    assert realised.ratio == 0


def test_all_paths_closed_is_the_frozen_backbone(untouched: Callable[[nn.Module], None]) -> None:
    model = graft_model(gates="fixed")
    untouched(model)
    with model.disable_adapter():  # type: ignore[operator]
        bare = outputs(model)
    with path_noise(model, 1.0) as realised:
        torch.testing.assert_close(outputs(model), bare)
    assert realised.ratio == 1


def test_damaged_paths_are_a_fraction_of_each_tasks_open_ones(untouched: Callable[[nn.Module], None]) -> None:
    model = graft_model()
    full = gw.structure_of(model)
    rng = np.random.default_rng(0)
    sites = {
        name: SiteStructure(
            site.pool_size,
            site.r,
            site.cost,
            tuple(tuple(bool(x) for x in row) for row in rng.random((3, 4)) < 0.6),
        )
        for name, site in full.sites.items()
    }
    structure = gw.Structure(TASKS, sites)
    gw.set_structure_(model, structure)
    untouched(model)

    def damaged(ratio: float) -> dict[str, set[tuple[str, int]]]:
        with path_noise(model, ratio, seed=3) as realised:
            assert gw.structure_of(model) == structure, "the structure itself is not touched"
            found: dict[str, set[tuple[str, int]]] = {task: set() for task in TASKS}
            for name, layer in model.named_modules():
                if isinstance(layer, gw.GraftLayer):
                    lost = (layer.graft_mask["default"] > 0) & (layer.gates("default") == 0)
                    for t, k in lost.nonzero().tolist():
                        found[TASKS[t]].add((name.removeprefix("base_model.model."), k))
        opened = structure.counts()
        assert realised.items == sum(opened.values())
        assert realised.changed == sum(map(len, found.values()))
        for task in TASKS:
            assert found[task] <= structure.paths(task)
            assert abs(len(found[task]) - ratio * opened[task]) < 1
        return found

    little, much = damaged(0.2), damaged(0.5)
    assert all(little[task] < much[task] for task in TASKS)
    assert little["a"] != little["b"]


def test_damage_to_one_task_leaves_the_rows_of_others_alone() -> None:
    model = graft_model(gates="fixed")
    clean = outputs(model)
    structure = gw.structure_of(model)
    closed = tuple(
        SiteStructure(s.pool_size, s.r, s.cost, ((False,) * 4, (True,) * 4, (False,) * 4))
        for s in structure.sites.values()
    )
    gw.set_structure_(model, gw.Structure(TASKS, dict(zip(structure.sites, closed, strict=True))))
    before = outputs(model)
    with path_noise(model, 0.5):
        noisy = outputs(model)
    others = ROWS != 1
    assert torch.equal(noisy[others], before[others])
    assert not torch.allclose(noisy[~others], clean[~others], atol=1e-3)


def test_contexts_nest_and_come_apart(untouched: Callable[[nn.Module], None]) -> None:
    model = graft_model(gates="fixed")
    untouched(model)
    with path_noise(model, 0.3, seed=1):
        once = outputs(model)
        with path_noise(model, 0.3, seed=2), embedding_noise(model, 0.1), weight_noise(model, 0.1):
            assert not torch.equal(outputs(model), once)
        assert torch.equal(outputs(model), once)


def test_a_compact_model_of_one_task_can_be_damaged() -> None:
    model = graft_model(gates="fixed", tasks=("only",))
    gw.compact_(model)
    ids = torch.zeros(6, dtype=torch.long)
    clean = outputs(model, ids)
    with path_noise(model, 0.5) as realised:
        assert not torch.allclose(outputs(model, ids), clean, atol=1e-3)
    assert realised.ratio == 0.5
    assert torch.equal(outputs(model, ids), clean)


def test_paths_decided_inside_stay_damaged() -> None:
    everything = gw.structure_of(graft_model(gates="fixed"))
    inside, before = graft_model(), graft_model()
    gw.set_structure_(before, everything)
    clean = outputs(before)
    with path_noise(inside, 0.5), path_noise(before, 0.5):
        gw.set_structure_(inside, everything)
        assert torch.equal(outputs(inside), outputs(before))
        assert not torch.allclose(outputs(inside), clean, atol=1e-3)
    assert torch.equal(outputs(inside), clean)


def test_compacting_inside_is_refused() -> None:
    model = graft_model(gates="fixed")
    sites = {
        name: SiteStructure(4, s.r, s.cost, ((True, True, False, False),) * 3)
        for name, s in gw.structure_of(model).sites.items()
    }
    gw.set_structure_(model, gw.Structure(TASKS, sites))
    twin = copy.deepcopy(model)
    with path_noise(model, 1.0):
        gw.compact_(model)
        with pytest.raises(StructureError, match="compacted inside a context of path noise"):
            outputs(model)
    outputs(model)
    with (
        pytest.raises(StructureError, match="compacted inside a context of weight noise"),
        weight_noise(twin, 0.1),
    ):
        gw.compact_(twin)


def test_training_under_damaged_paths(untouched: Callable[[nn.Module], None]) -> None:
    model = graft_model(gates="fixed")
    untouched(model)
    clean = outputs(model)
    with model_noise(model, Noise("path_drop", 0.5, "train"), "train") as report:
        assert torch.equal(outputs(model), clean), "validation stays clean"
        model.train()
        assert not torch.allclose(outputs(model), clean, atol=1e-3)
        model(IDS, graft_rows=ROWS).last_hidden_state.square().mean().backward()
        model.eval()
    assert report().realised["train"] == pytest.approx(0.5, abs=0.02)
    gradients = [p.grad for n, p in model.named_parameters() if "graft_up" in n]
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("when", "stage", "training", "noisy"),
    [
        ("train", "train", True, True),
        ("train", "train", False, False),
        ("train", "test", False, False),
        ("test", "train", True, False),
        ("test", "test", False, True),
        ("both", "train", True, True),
        ("both", "train", False, True),
        ("both", "test", False, True),
    ],
)
@pytest.mark.parametrize("kind", ["embeddings", "path_drop", "path_redraw"])
def test_noise_is_there_when_it_was_asked_for(
    kind: Any, when: Any, stage: Any, training: bool, noisy: bool
) -> None:
    model = graft_model(gates="fixed")
    clean = outputs(model)
    with model_noise(model, Noise(kind, 0.5, when), stage) as report:
        model.train(training)
        assert torch.equal(outputs(model), clean) != noisy
    assert set(report().realised) == ({stage} if when in (stage, "both") else set())


def test_embedding_noise_is_relative_to_each_vector() -> None:
    model = graft_model()
    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    with torch.no_grad():
        embeddings.weight[1:25] *= 10
    seen: list[Tensor] = []
    ids = torch.arange(1, 49).repeat(400, 1)
    clean = embeddings(ids).detach()
    with embedding_noise(model, 0.2) as realised:
        seen.append(embeddings(ids).detach())
    ratio = (seen[0] - clean).square().mean(dim=(0, 2)).sqrt() / clean.square().mean(dim=(0, 2)).sqrt()
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.2), rtol=0.05, atol=0.0)
    assert realised.ratio == pytest.approx(0.2, rel=0.01)
    assert realised.items == ids.numel()


def test_embedding_noise_differs_from_pass_to_pass_and_lets_gradients_through() -> None:
    model = graft_model(gates="fixed")
    with embedding_noise(model, 0.2):
        first, second = outputs(model), outputs(model)
    assert not torch.equal(first, second)
    model.get_input_embeddings().weight.requires_grad_(True)  # type: ignore[operator]
    with embedding_noise(model, 0.2, training_only=True):
        model.train()
        model(IDS, graft_rows=ROWS).last_hidden_state[..., 0].sum().backward()
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0  # type: ignore[operator]


def test_embedding_noise_reaches_both_halves_of_an_encoder_decoder() -> None:
    config = T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    torch.manual_seed(0)
    model = T5Model(config).eval()
    with torch.no_grad(), embedding_noise(model, 0.5) as realised:
        model(input_ids=IDS % 40, decoder_input_ids=IDS[:, :3] % 40)
    assert realised.items == IDS.numel() + IDS[:, :3].numel()
    assert realised.ratio == pytest.approx(0.5, rel=0.1)


def test_weight_noise_touches_adapters_only_and_each_relative_to_its_size(
    untouched: Callable[[nn.Module], None],
) -> None:
    model = graft_model()
    untouched(model)
    before = state(model)
    with weight_noise(model, 0.1) as realised:
        after = state(model)
    for name, value in after.items():
        if "graft_down" in name or "graft_up" in name:
            noise, signal = (value - before[name]).square().mean().sqrt(), before[name].square().mean().sqrt()
            assert noise / signal == pytest.approx(0.1, rel=0.35)
        else:
            assert torch.equal(value, before[name])
    assert realised.ratio == pytest.approx(0.1, rel=0.1)


def test_models_that_cannot_be_damaged_are_named() -> None:
    plain = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9))
    for kind in ("path_drop", "path_redraw", "weights"):
        with (
            pytest.raises(ConfigError, match="BertModel has no graft adapter"),
            model_noise(plain, Noise(kind, 0.1), "test"),  # type: ignore[arg-type]
        ):
            pass
    with (
        pytest.raises(ConfigError, match="Linear names no input embeddings"),
        embedding_noise(nn.Linear(2, 2), 0.1),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="stage='now' must be 'train' or 'test'"),
        model_noise(plain, Noise("embeddings", 0.1), "now"),  # type: ignore[arg-type]
    ):
        pass
