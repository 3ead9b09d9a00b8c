from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import graftwork as gw
from graftwork.errors import CheckpointError, DataError, RecipeError
from graftwork.files.writing import check_target
from graftwork.models.backbone import load_backbone
from graftwork.models.files import FILES, read_structure
from graftwork.models.folder import load_model, load_weights, save_model, write_model
from graftwork.models.manifest import read_tasks_file
from graftwork.models.multitask import MultiTaskModel
from toy_heads import HEADS, save_backbone
from toys import grafted, random_structure, tokens

ROWS = torch.tensor([0, 1, 2, 0])


@pytest.fixture
def backbone(tmp_path):
    return save_backbone(tmp_path / "backbone")


def make_model(stage: str = "compact") -> MultiTaskModel:
    adapted = grafted()
    if stage != "learning":
        gw.set_structure_(
            adapted,
            gw.Structure(tuple(h.name for h in HEADS), {}) if stage == "empty" else random_structure(adapted),
        )
        if stage != "discretised":
            gw.compact_(adapted)
    torch.manual_seed(5)
    return MultiTaskModel(adapted, HEADS, pooling="cls").eval()


@torch.no_grad()
def logits(model: MultiTaskModel) -> torch.Tensor:
    return model(input_ids=tokens(), graft_rows=ROWS).logits


@pytest.fixture
def saved(tmp_path, backbone):
    folder = tmp_path / "model"
    folder.mkdir()
    save_model(make_model(), folder, backbone_name=str(backbone))
    return folder


@pytest.mark.parametrize("stage", ["learning", "discretised", "compact", "empty"])
def test_round_trip_is_bit_equal(tmp_path, backbone, stage):
    model = make_model(stage)
    folder = tmp_path / "model"
    folder.mkdir()
    save_model(model, folder, backbone_name=str(backbone))
    loaded, tokenizer = load_model(folder)
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.pooling == "cls"
    assert loaded.heads.heads == HEADS
    assert not loaded.training
    assert tokenizer("w3 w4")["input_ids"] == [3, 4]
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".md"}


def test_the_backbone_may_have_moved(saved, backbone, tmp_path):
    expected = logits(load_model(saved)[0])
    moved = backbone.rename(tmp_path / "moved")
    with pytest.raises(RecipeError, match="backbone"):
        load_model(saved)
    assert torch.equal(logits(load_model(saved, backbone=str(moved))[0]), expected)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_tensor(path: Path) -> None:
    tensors = load_file(path)
    del tensors[next(iter(tensors))]
    save_file(tensors, path, metadata={"format": "pt"})


def edit(**changes):
    def change(path: Path) -> None:
        data = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({name: value for name, value in data.items() if value != "gone"}))

    return change


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (FILES.adapter_weights, truncate, "damaged or truncated safetensors"),
        (
            FILES.adapter_weights,
            Path.unlink,
            r"adapter_model.safetensors is missing; the folder is not a complete",
        ),
        (FILES.adapter_weights, lambda path: path.write_bytes(b""), "damaged or truncated safetensors"),
        (FILES.adapter_weights, drop_tensor, "lacks 1 tensor"),
        (FILES.heads, truncate, "damaged or truncated safetensors"),
        (FILES.heads, Path.unlink, "heads.safetensors"),
        (FILES.heads, drop_tensor, "heads.safetensors does not fit the heads: it lacks 1 tensor"),
        (FILES.adapter_config, Path.unlink, "adapter_config.json"),
        (FILES.adapter_config, lambda path: path.write_text("{"), "cannot be read"),
        (FILES.adapter_config, edit(tasks=["cats"]), "do not belong together"),
        (FILES.adapter_config, edit(tasks=["dogs", "cats", "birds"]), "the heads are for cats, dogs, birds"),
        (FILES.adapter_config, edit(activation="gelo"), "did you mean 'gelu'"),
        (FILES.tasks, Path.unlink, "is not a model saved by `graftwork fit`: it has no tasks.json"),
        (FILES.tasks, truncate, "tasks.json is damaged: JSONDecodeError"),
        (
            FILES.tasks,
            lambda path: path.write_bytes(b"\xff\xfe"),
            "tasks.json is damaged: UnicodeDecodeError",
        ),
        (FILES.tasks, lambda path: path.write_text("[]"), "tasks.json is damaged"),
        (FILES.tasks, edit(format=9), "has format 9; this version reads 1"),
        (FILES.tasks, edit(model="gone"), "tasks.json is damaged"),
        (FILES.tasks, edit(backbone="gone"), "tasks.json is damaged"),
        (FILES.tasks, edit(pooling="gone"), "tasks.json is damaged"),
        (FILES.tasks, edit(pooling="max"), "tasks.json is damaged"),
        (FILES.tasks, edit(tasks=[]), "tasks.json is damaged"),
        (FILES.tasks, edit(tasks=[{"name": "cats"}]), "the saved head of task 'cats' does not fit"),
        (FILES.tasks, edit(tasks=["cats"]), "tasks.json is damaged"),
    ],
)
def test_damage_is_one_clear_line(saved, file, damage, message):
    damage(saved / file)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 32}, "was trained on a backbone with .*16.*32"),
        ({"kind": "roberta"}, "was trained on a backbone with .*bert.*roberta"),
        ({"num_hidden_layers": 1}, "does not fit the backbone: the structure names .* sites"),
    ],
)
def test_another_backbone_is_refused(saved, tmp_path, changes, message):
    other = save_backbone(tmp_path / "other", **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(saved, backbone=str(other))
    assert "\n" not in str(caught.value)


def test_another_width_inside_the_backbone_is_refused(tmp_path):
    adapted = grafted(target_modules=["intermediate.dense"])
    folder = tmp_path / "model"
    folder.mkdir()
    save_model(MultiTaskModel(adapted, HEADS), folder, backbone_name="x")
    other = save_backbone(tmp_path / "other", intermediate_size=48)
    with pytest.raises(
        CheckpointError, match=r"graft_up\S* has shape \(24, 6\); \(48, 6\) is needed"
    ) as caught:
        load_model(folder, backbone=str(other))
    assert "\n" not in str(caught.value)


def test_weights_of_a_checkpoint_go_into_a_model_of_the_same_shape(tmp_path, saved):
    first = make_model("discretised")
    save_model(first, tmp_path, backbone_name="x")
    second = make_model("learning")
    load_weights(second, tmp_path)
    assert torch.equal(logits(second), logits(first))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_weights(make_model("learning"), saved)
    truncate(saved / FILES.heads)
    with pytest.raises(CheckpointError, match="truncated"):
        load_weights(make_model(), saved)


def test_structures_and_tasks_are_read_alone(saved):
    assert read_tasks_file(saved)["tasks"] == list(HEADS)
    with pytest.raises(CheckpointError, match=r"it has no structure.json"):
        read_structure(saved)
    structure = random_structure(grafted())
    (saved / FILES.structure).write_text(structure.to_json())
    assert read_structure(saved) == structure
    truncate(saved / FILES.structure)
    with pytest.raises(CheckpointError, match=r"structure.json is damaged: a structure must be JSON"):
        read_structure(saved)


def test_backbones_that_cannot_be_read(tmp_path, backbone):
    with pytest.raises(RecipeError, match="model"):
        load_backbone(str(tmp_path / "nowhere"))
    truncate(backbone / "model.safetensors")
    with pytest.raises(RecipeError, match="cannot be loaded") as caught:
        load_backbone(str(backbone))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", [".", "..", "/"])
def test_overwrite_does_not_replace_the_folder_one_stands_in(target, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(DataError, match="holds the current or the home folder"):
        check_target(Path(target), overwrite=True)
    with pytest.raises(DataError, match="is no path"):
        check_target(Path("a\0b"), overwrite=False)


def test_gates_of_another_structure_are_refused(saved):
    path = saved / FILES.adapter_config
    config = json.loads(path.read_text())
    site = next(iter(config["structure"]["sites"].values()))
    site["open"][0] = [1 - cell for cell in site["open"][0]]
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"the gates in .* task 'cats' takes another path"):
        load_model(saved)


def test_a_folder_without_a_configuration_is_not_looked_for_on_the_hub(saved, monkeypatch):
    (saved / FILES.adapter_config).unlink()
    monkeypatch.setattr("peft.config.hf_hub_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(CheckpointError, match=r"adapter_config.json is missing"):
        load_model(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name=''"),
        ({"text": ["a", "a"]}, r"text=\['a', 'a'\]"),
        ({"kind": ["x"]}, r"kind=\['x'\]"),
        ({"metric": "pearson"}, "metric='pearson'"),
        ({"labels": ["x", 3]}, r"labels=\['x', 3\]"),
        ({"std": 0.0}, "std=0.0"),
        ({"mean": 10**400}, "mean=1000"),
    ],
)
def test_a_saved_head_is_checked_field_by_field(saved, changes, message):
    path = saved / FILES.tasks
    found = json.loads(path.read_text())
    found["tasks"][0] |= changes
    path.write_text(json.dumps(found))
    with pytest.raises(
        CheckpointError, match=rf"tasks.json is damaged: the saved head of task .* has {message}"
    ):
        load_model(saved)


def test_absurd_heads_are_refused_before_they_are_made(saved):
    path = saved / FILES.tasks
    found = json.loads(path.read_text())
    head = found["tasks"][0]
    found["tasks"] = [{**head, "name": f"t{i}"} for i in range(2000)]
    found["tasks"][0]["labels"] = [str(i) for i in range(20_000)]
    path.write_text(json.dumps(found))
    with pytest.raises(
        CheckpointError, match=r"2000 heads of up to 20,000 outputs ask for 640,000,000 numbers"
    ):
        load_model(saved)


@pytest.mark.parametrize("where", ["backbone", "heads"])
def test_weights_that_are_not_finite_are_not_served(saved, backbone, where):
    path = backbone / "model.safetensors" if where == "backbone" else saved / FILES.heads
    tensors = load_file(path)
    name = "encoder.layer.1.output.dense.weight" if where == "backbone" else "dogs.weight"
    tensors[name][0, 0] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{where}.*{name} holds NaN"):
        load_model(saved)


def test_a_whole_folder_has_all_files_and_their_sizes(tmp_path, backbone):
    model, folder = make_model(), tmp_path / "model"
    _, tokenizer = load_backbone(str(backbone))
    structure = gw.structure_of(model)
    given = {"seed": 0, "bytes_on_disk": {}, "versions": {}}
    about = {"backbone_name": str(backbone), "place": folder, "structure": structure}
    folder.mkdir()
    report = write_model(model, tokenizer, folder, **about, recipe="model: x\n", report=given, picture=True)
    assert json.loads((folder / FILES.report).read_text()) == report
    assert list(report) == list(given)
    assert report["bytes_on_disk"] == {
        name: (folder / name).stat().st_size for name in (FILES.adapter_weights, FILES.heads)
    }
    assert read_structure(folder) == structure
    assert (folder / FILES.recipe).read_text() == "model: x\n"
    assert (folder / FILES.picture).is_file()
    again, _ = load_model(folder)
    assert torch.equal(logits(again), logits(model))


def test_a_whole_folder_may_lack_recipe_report_and_picture(tmp_path, backbone):
    _, tokenizer = load_backbone(str(backbone))
    model = make_model()
    about = {"backbone_name": str(backbone), "place": tmp_path, "structure": gw.structure_of(model)}
    assert write_model(model, tokenizer, tmp_path, **about, recipe=None, report={}) == {}
    assert not any((tmp_path / name).exists() for name in (FILES.report, FILES.recipe, FILES.picture))
    assert load_model(tmp_path)[1].get_vocab() == tokenizer.get_vocab()
