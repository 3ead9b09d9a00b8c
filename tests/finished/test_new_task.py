"""A new task on a frozen pool: the older tasks must not notice, to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import graftwork as gw
from graftwork.errors import CheckpointError, ConfigError, RecipeError, StructureError
from graftwork.finished.new_task import PRIVATE, NewTask
from graftwork.models.folder import load_model, save_model
from graftwork.models.multitask import MultiTaskModel
from graftwork.recipe.extension import Extension
from toy_heads import HEADS, save_backbone
from toy_new_task import FISH, FROGS, train, trained
from toys import graft_layers, grafted, tokens

ADAPTER = 66
EXTENSIONS = {
    "gates alone": Extension(),
    "limited": Extension(limit=0.03),
    "private": Extension(private=2),
    "private within a budget": Extension(private=2, private_budget=0.04),
}


@torch.no_grad()
def logits(model: MultiTaskModel, tasks: int) -> list[torch.Tensor]:
    """Outputs for a batch of every single task, and for a mixed one."""
    routes = [[task] * 6 for task in range(tasks)]
    routes.append([row % tasks for row in range(6)])
    return [model(input_ids=tokens(6, 9), graft_rows=torch.tensor(rows)).logits for rows in routes]


def equal_to_the_bit(before: list[torch.Tensor], model: MultiTaskModel, tasks: int) -> bool:
    after = logits(model, tasks)
    return all(torch.equal(old, new[:, : old.shape[1]]) for old, new in zip(before, after, strict=True))


def round_trip(model: MultiTaskModel, folder: Path) -> MultiTaskModel:
    backbone = save_backbone(folder / "backbone")
    (folder / "model").mkdir()
    save_model(model, folder / "model", backbone_name=str(backbone))
    return load_model(folder / "model")[0]


@pytest.mark.parametrize("position", ["sequential", "parallel"])
@pytest.mark.parametrize("kind", EXTENSIONS)
def test_older_tasks_are_equal_to_the_bit(kind, position, tmp_path):
    model = trained(position=position)
    before = logits(model, 3)
    new = NewTask(model, FISH, EXTENSIONS[kind])
    train(new)
    extended = new.finish_()
    assert equal_to_the_bit(before, extended, 3)
    loaded = round_trip(extended, tmp_path)
    assert equal_to_the_bit(before, loaded, 3)
    assert equal_to_the_bit(logits(extended, 4), loaded, 4)
    assert gw.structure_of(loaded) == gw.structure_of(extended)
    assert gw.structure_of(loaded).tasks == ("cats", "dogs", "birds", "fish")


@pytest.mark.parametrize("activation", ["identity", "gelu"])
def test_a_model_of_one_task_gets_a_second(activation):
    model = trained(HEADS[:1], activation=activation)
    with torch.no_grad():
        before = model(input_ids=tokens(6, 9)).logits
    extended = NewTask(model, FISH, Extension(private=1)).finish_()
    assert equal_to_the_bit([before, before], extended, 1)


def test_sites_without_an_open_adapter_may_get_private_ones(tmp_path):
    everywhere = list(gw.structure_of(grafted()).sites)
    model = trained(share=0.0)
    assert not graft_layers(model)
    with pytest.raises(StructureError, match="no site left for private adapters"):
        NewTask(model, FISH, Extension(private=1))
    before = logits(model, 3)
    extended = NewTask(model, FISH, Extension(private=1), sites=everywhere).finish_()
    assert equal_to_the_bit(before, extended, 3)
    assert gw.structure_of(extended).counts() == {"cats": 0, "dogs": 0, "birds": 0, "fish": 12}
    assert equal_to_the_bit(logits(extended, 4), round_trip(extended, tmp_path), 4)


def test_a_task_without_any_adapter():
    model = trained(share=0.0)
    before = logits(model, 3)
    new = NewTask(model, FISH, Extension(private=0))
    train(new)
    assert equal_to_the_bit(before, new.finish_(), 3)


def test_a_second_addition_leaves_the_first_alone(tmp_path):
    first = NewTask(trained(), FISH, Extension(private=1)).finish_()
    before = logits(first, 4)
    new = NewTask(first, FROGS, Extension(private=2))
    train(new)
    second = new.finish_()
    assert equal_to_the_bit(before, second, 4)
    assert equal_to_the_bit(before, round_trip(second, tmp_path), 4)
    assert {layer.pools["default"].added for layer in graft_layers(second)} == {(1, 2)}


def test_broken_private_adapters_reach_no_other_task():
    model = trained()
    before = logits(model, 3)
    extended = NewTask(model, FISH, Extension(private=1)).finish_()
    for layer in graft_layers(extended):
        layer.graft_up["default"].data[:, -2:] = float("nan")
    assert equal_to_the_bit(before, extended, 3)
    assert logits(extended, 4)[3].isnan().all()


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_only_gates_head_and_private_adapters_learn(kind):
    model = trained()
    kept = {name: value.clone() for name, value in model.state_dict().items() if "mask" not in name}
    new = NewTask(model, FISH, EXTENSIONS[kind])
    allowed = ("graft_gate_bias", f".{PRIVATE}", "heads.")
    with new.learner.backbone.disable_adapter():
        pass  # PEFT makes active adapters trainable again when the context ends
    learned = [name for name, p in new.learner.named_parameters() if p.requires_grad]
    assert all(any(part in name for part in allowed) for name in learned), learned
    assert any("gate_bias" in name for name in learned)
    train(new)
    for name, value in new.learner.state_dict().items():
        if name in kept and not name.startswith("heads."):
            assert torch.equal(value, kept[name]), name


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_the_new_task_is_what_was_learned(kind):
    new = NewTask(trained(), FISH, EXTENSIONS[kind])
    train(new)
    new.learner.eval()
    with torch.no_grad():
        expected = new.learner(input_ids=tokens(6, 9)).logits
    extended = new.finish_()
    torch.testing.assert_close(logits(extended, 4)[3], expected, atol=1e-5, rtol=0)
    assert not any(p.requires_grad for p in extended.backbone.parameters())


def test_limits_are_met():
    new = NewTask(trained(share=0.9), FISH, Extension(limit=0.06, private=3, private_budget=0.03))
    size = 5400
    pool = {site: pool.size for site, pool in new.pools.items()}
    train(new)
    structure = gw.structure_of(new.finish_())
    open_in_pool = sum(sum(structure.sites[site].open[3][:count]) for site, count in pool.items())
    private = sum(sum(structure.sites[site].open[3][count:]) for site, count in pool.items())
    assert 0 < open_in_pool * ADAPTER <= 0.06 * size
    assert private * ADAPTER == int(0.03 * size / ADAPTER) * ADAPTER
    assert not any(any(row[pool[site] :]) for site, s in structure.sites.items() for row in s.open[:3])


def test_cutting_an_older_task_out_does_not_depend_on_the_addition():
    plain, extended = trained(), NewTask(trained(), FISH, Extension(private=2)).finish_()
    for model in (plain, extended):
        gw.compact_(model, ["dogs"])
    ids = tokens(6, 9)
    with torch.no_grad():
        expected = plain.backbone(input_ids=ids).last_hidden_state
        assert torch.equal(extended.backbone(input_ids=ids).last_hidden_state, expected)
    assert gw.structure_of(extended) == gw.structure_of(plain)


@pytest.mark.parametrize("added", [[0], [9], [1, -1]])
def test_damaged_additions_are_noticed(tmp_path, added):
    round_trip(NewTask(trained(), FISH, Extension(private=1)).finish_(), tmp_path)
    file = tmp_path / "model/adapter_config.json"
    config = json.loads(file.read_text())
    next(iter(config["structure"]["sites"].values()))["added"] = added
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"additions of .*; the file is damaged"):
        load_model(tmp_path / "model")


@torch.no_grad()
@pytest.mark.parametrize("position", ["sequential", "parallel"])
def test_adapters_that_are_active_together_all_read_the_same(position):
    new = NewTask(trained(position=position), FISH, Extension(private=1))
    layer = graft_layers(new.learner)[0].eval()
    layer.graft_up[PRIVATE].normal_()
    x = torch.randn(2, 5, layer.base_layer.in_features)
    parts = []
    for active in ([], ["default"], [PRIVATE], ["default", PRIVATE]):
        layer.set_adapter(active)
        parts.append(layer(x))
    base, pool, private, both = parts
    torch.testing.assert_close(both - base, (pool - base) + (private - base), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"private": -1}, "private=-1 must be a whole number of at least 0"),
        ({"limit": 1.5}, "limit=1.5 must be above 0 and below 1"),
        ({"private": 0, "private_budget": 0.01}, "private_budget=0.01 needs private adapters to choose from"),
        ({"gates": "fixed"}, "gates='fixed' learns nothing"),
        ({"gates": "hard_concret"}, "did you mean 'hard_concrete'"),
        ({"gates": "shifted_sigmoid"}, "gates='shifted_sigmoid' needs a limit"),
    ],
)
def test_faults_of_an_extension(settings, message):
    with pytest.raises(RecipeError, match=message):
        Extension(**settings)


def test_models_that_cannot_take_the_task():
    model = trained()
    before = logits(model, 3)
    with pytest.raises(ConfigError, match="has a task 'cats' already"):
        NewTask(model, HEADS[0])
    with pytest.raises(
        StructureError, match=r"limit=0.001 allows 5 parameters, less than one adapter \(64\)"
    ):
        NewTask(model, FISH, Extension(limit=0.001))
    with pytest.raises(StructureError, match=r"private_budget=0.001 allows 5 parameters"):
        NewTask(model, FISH, Extension(private=1, private_budget=0.001))
    assert equal_to_the_bit(before, model, 3)
    with pytest.raises(StructureError, match="still being learned"):
        NewTask(MultiTaskModel(grafted(), HEADS), FISH)


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_a_new_task_takes_the_path_of_the_trunk(kind: str, tmp_path: Path):
    adapted = grafted(tasks=[head.name for head in HEADS], trunk=1)
    data = gw.structure_of(adapted).to_dict()
    for site, table in data["sites"].items():
        low = ".0." in site
        table["open"] = [[1, 1, 0] if low else [int(task == k) for k in range(3)] for task in range(3)]
    gw.set_structure_(adapted, gw.Structure.from_dict(data))
    gw.compact_(adapted)
    model = MultiTaskModel(adapted, HEADS).eval()
    before = logits(model, 3)
    assert gw.trunk_price(model) > 1.9
    limit = {"limit": 0.2} if kind == "limited" else {}
    extended_by = Extension(**{**vars(EXTENSIONS[kind]), **limit})
    new = NewTask(model, FISH, extended_by)
    train(new)
    loaded = round_trip(new.finish_(), tmp_path)
    assert equal_to_the_bit(before, loaded, 3)
    structure = gw.structure_of(loaded)
    low = [site for name, site in structure.sites.items() if ".0." in name]
    assert all(site.open == ((True, True),) * 4 for site in low)
    assert 1 < gw.trunk_price(loaded) <= 1 + 4 / 2


def test_a_limit_below_the_trunk_is_refused():
    adapted = grafted(tasks=[head.name for head in HEADS], trunk=2)
    gw.compact_(adapted)
    model = MultiTaskModel(adapted, HEADS).eval()
    with pytest.raises(StructureError, match=r"less than the trunk that all tasks share \(\d"):
        NewTask(model, FISH, Extension(limit=0.02, private=0))
