"""Gradient affinity: sketches are those of each task's own gradient, and groups follow from them."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model
from torch import nn

import graftwork as gw
from graftwork.affinity import SKETCH, affinities, dealt_to, group_tasks, projection
from graftwork.errors import ConfigError
from graftwork.search import StructureSearch
from toys import graft_layers, grafted, tokens

ROWS = torch.tensor([0, 1, 2, 1])


def searched(**settings) -> tuple[nn.Module, StructureSearch]:
    model = grafted(gates="importance", gate_start="grouped", budget=300, **settings)
    for layer in graft_layers(model):
        nn.init.normal_(layer.graft_up["default"], std=0.1)
    search = StructureSearch(model, 100, gw.Schedule(0.2, 0.6, 0.8))
    search.begin(1.0)
    return model.train(), search


def losses(model: nn.Module, **route) -> torch.Tensor:
    output = model(input_ids=tokens(), **route)[0]
    target = torch.randn(output.shape, generator=torch.Generator().manual_seed(5)).to(output)
    return (output - target).square().mean(dim=(1, 2))


@pytest.mark.parametrize("settings", [{}, {"r": 1}, {"position": "parallel"}, {"activation": "identity"}])
def test_a_sketch_is_the_projection_of_the_tasks_own_gradient(settings):
    model, _ = searched(**settings)
    layers = graft_layers(model)
    each = losses(model, graft_rows=ROWS)
    downs = [layer.graft_down["default"] for layer in layers]
    alone = [torch.autograd.grad((each * (ROWS == t)).sum(), downs, retain_graph=True) for t in range(3)]
    for layer in layers:
        layer.task_gradients["default"].zero_()
    each.sum().backward()
    for index, layer in enumerate(layers):
        pool = layer.pools["default"]
        gradients = torch.stack([found[index] for found in alone]).view(3, pool.size, pool.rank, -1)
        units, features = projection(pool.rank, gradients.shape[-1], gradients.device)
        expected = torch.einsum("tkrd,dm,rm->tkm", gradients, features, units)
        assert float(expected.abs().max()) > 1e-4
        torch.testing.assert_close(layer.task_gradients["default"], expected, rtol=1e-3, atol=1e-7)


def test_noting_changes_no_output_and_no_gradient_and_a_route_to_one_task_is_noted():
    model, _ = searched()
    layers = graft_layers(model)
    found = []
    for noting in (True, False):
        if not noting:
            for layer in layers:
                layer.task_gradients.clear()
        model.zero_grad()
        loss = losses(model, graft_rows=ROWS).sum()
        loss.backward()
        found.append([loss.detach(), *(layer.graft_down["default"].grad.clone() for layer in layers)])
    assert all(map(torch.equal, *found))
    model, _ = searched()
    with gw.route(model, "dogs"):
        losses(model).sum().backward()
    noted = [layer.task_gradients["default"].abs().sum(dim=(1, 2)) > 0 for layer in graft_layers(model)]
    assert all(flags.tolist() == [False, True, False] for flags in noted)


def test_gradients_are_noted_under_autocast():
    found = []
    for enabled in (False, True):
        model, _ = searched()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = losses(model, graft_rows=ROWS).sum()
        loss.backward()
        noted = [layer.task_gradients["default"].flatten(1) for layer in graft_layers(model)]
        found.append(torch.cat(noted, dim=1))
    for whole, short in zip(*found, strict=True):
        assert float(nn.functional.cosine_similarity(whole, short, dim=0)) > 0.95


def test_evaluation_is_not_noted():
    model, _ = searched()
    model.eval()
    losses(model, graft_rows=ROWS).sum().backward()
    assert not any(layer.task_gradients["default"].any() for layer in graft_layers(model))


def test_inner_products_of_sketches_are_unbiased():
    """Over many adapters the cosine of sketches is that of the gradients, to their number's accuracy."""
    draw = torch.Generator().manual_seed(0)
    first = torch.randn(400, 2, 96, generator=draw)
    second = 0.6 * first + 0.8 * torch.randn(400, 2, 96, generator=draw)
    units, features = projection(2, 96, first.device)
    sketches = [torch.einsum("krd,dm,rm->km", x, features, units) for x in (first, second)]
    cosine = affinities(torch.stack([sketch.flatten() for sketch in sketches]))
    assert sketches[0].shape == (400, SKETCH)
    assert float(cosine[0, 1]) == pytest.approx(0.6, abs=0.05)
    assert float(cosine[0, 0]) == pytest.approx(1.0)
    assert not affinities(torch.zeros(2, 5)).any()


def test_groups():
    def table(pairs: dict[tuple[int, int], float], tasks: int) -> torch.Tensor:
        found = torch.eye(tasks)
        for (a, b), value in pairs.items():
            found[a, b] = found[b, a] = value
        return found

    assert group_tasks(table({(0, 2): 0.5, (1, 3): 0.4}, 5)) == [[0, 2], [1, 3], [4]]
    # A third task joins by its mean to both, not by its best.
    assert group_tasks(table({(0, 1): 0.9, (1, 2): 0.6}, 3)) == [[0, 1, 2]]
    assert group_tasks(table({(0, 1): 0.9, (1, 2): 0.6, (0, 2): -0.3}, 3)) == [[0, 1], [2]]
    assert group_tasks(table({}, 3)) == [[0], [1], [2]]
    assert group_tasks(torch.ones(4, 4)) == [[0, 1, 2, 3]]
    assert group_tasks(torch.ones(1, 1)) == [[0]]


def test_adapters_are_dealt_evenly():
    dealt = torch.cat([dealt_to(4, place, 3) for place in range(6)])
    assert torch.bincount(dealt).tolist() == [8, 8, 8]
    assert dealt_to(4, 1, 3).tolist() == [1, 2, 0, 1]


class Directions(nn.Module):
    """Sites side by side, of one width."""

    def __init__(self) -> None:
        super().__init__()
        self.sites = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor, graft_rows: torch.Tensor | None = None) -> torch.Tensor:
        return torch.stack([site(x) for site in self.sites]).mean(dim=0)


def test_tasks_that_want_the_same_are_found_and_share():
    """Tasks a and b have one target, c the opposite one: a and b share, c gets adapters of its own."""
    torch.manual_seed(0)
    names = ["a", "b", "c"]
    config = gw.GraftConfig(
        tasks=names,
        pool_size=6,
        r=1,
        target_modules=r"sites\.\d",
        gates="importance",
        gate_start="grouped",
        budget=8 * 17,
    )
    model = get_peft_model(Directions(), config).train()
    search = StructureSearch(model, 120, gw.Schedule(0.3, 0.6, 0.7))
    search.begin(1.0)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    shift, signs = torch.randn(8), torch.tensor([1.0, 1.0, -1.0])
    for step in range(120):
        x, rows = torch.randn(48, 8), torch.arange(48) % 3
        with torch.no_grad():
            target = model.base_model.model.sites[0].base_layer(x) + signs[rows, None] * shift * x.abs()
        optimizer.zero_grad()
        (model(x, graft_rows=rows) - target).square().mean().backward()
        search.before_step(step)
        if step == 40:
            assert search.control.groups == [[0, 1], [2]]
            assert search.control.affinity[0][1] > 0.5 > 0 > search.control.affinity[0][2]
            assert not any(layer.task_gradients for layer in graft_layers(model))
        optimizer.step()
        search.after_step(step + 1)
    paths = {name: search.structure.paths(name) for name in names}
    assert paths["a"] == paths["b"]
    assert paths["c"]
    assert not paths["a"] & paths["c"]
    assert search.structure.parameters() == 8 * 17
    assert search.control_state["groups"] == [[0, 1], [2]]


def test_a_search_goes_on_from_its_state_with_its_groups_or_noting():
    for steps in (10, 30):
        model, search = searched()
        for step in range(steps):
            losses(model, graft_rows=ROWS).mean().backward()
            search.before_step(step)
            search.after_step(step + 1)
        again, other = searched()
        again.load_state_dict(model.state_dict())
        other.load(search.state())
        assert other.control.groups == search.control.groups
        assert (search.control.groups is None) == (steps == 10)
        for one, two in zip(graft_layers(model), graft_layers(again), strict=True):
            assert torch.equal(one.graft_state["default"], two.graft_state["default"])
            assert ("default" in two.task_gradients) == (steps == 10)
    with pytest.raises(ValueError, match="no partition"):
        other.control.load({"groups": [[0], [0, 1]], "affinity": [[1.0]] * 3})


def test_grouped_needs_importance():
    with pytest.raises(ConfigError, match="gate_start='grouped' works with gates='importance'"):
        gw.GraftConfig(gates="hard_concrete", gate_start="grouped")
