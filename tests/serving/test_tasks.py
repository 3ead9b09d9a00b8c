"""One backbone for many folders, and their tasks as one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import graftwork as gw
from graftwork.errors import ConfigError, ServingError
from graftwork.fitting.fit import fit
from graftwork.recipe.loading import load_recipe
from graftwork.serving.backbones import Backbones
from graftwork.serving.tasks import TaskSet, load_part
from toy_served import MOOD, PAIR, rows_of, write_folders, write_served
from toy_writer import write_writing
from toyrun import write_backbone, write_recipe


def close(found: Any, expected: Any) -> None:
    """Equal answers, numbers up to 1e-5."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            close(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            close(one, other)
    else:
        assert found == (pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else expected)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_folders(tmp_path_factory.mktemp("served"))


def served(folders: list[Path]) -> tuple[TaskSet, Backbones]:
    backbones = Backbones()
    return TaskSet([load_part(folder, backbones) for folder in folders], backbones), backbones


def fused_predictor(group: Any) -> gw.Predictor:
    return gw.Predictor(group.model, group.tokenizer)


def test_folders_of_one_form_are_one_model_and_answer_as_each_alone(folders: list[Path]) -> None:
    tasks, _ = served(folders)
    assert list(tasks.tasks) == ["mood", "pair", "size", "things", "places", "true", "level"]
    assert [len(group.index_of) for group in tasks.groups] == [5, 2]
    for folder in folders:
        alone = gw.load(folder)
        for name, head in alone.heads.items():
            group = tasks.tasks[name].group
            asked = rows_of(head, 12)
            close(fused_predictor(group).predict(asked, name), alone.predict(asked, name))


def test_a_mixed_batch_of_a_fused_model_is_what_each_model_says(folders: list[Path]) -> None:
    tasks, _ = served(folders)
    group = tasks.groups[0]
    mixed = [
        {"text": "stone river", "first": "a bird", "second": "road", "task": name} for name in group.index_of
    ] * 3
    found = fused_predictor(group).predict(mixed)
    for row, answer in zip(mixed, found, strict=True):
        folder = folders[0] if row["task"] in ("mood", "pair") else folders[1]
        close(answer, gw.load(folder).predict([row])[0])
    (all_tasks,) = fused_predictor(group).predict_all([mixed[0]])
    for name, answer in all_tasks["answers"].items():
        close(answer, next(one for one in found if one["task"] == name))


def test_the_weights_of_the_backbone_are_there_once(folders: list[Path]) -> None:
    tasks, backbones = served(folders)
    words = {part.model.backbone.get_input_embeddings().weight.data_ptr() for part in tasks.parts} | {
        group.model.backbone.get_input_embeddings().weight.data_ptr() for group in tasks.groups
    }
    assert len(words) == 1
    assert len(backbones._loaded) == 1
    # Adapters are each model's own.
    layers = {id(module) for group in tasks.groups for module in group.model.modules()}
    parts = {id(module) for module in tasks.parts[0].model.modules()}
    assert not layers & parts


def test_a_set_is_replaced_and_the_old_one_still_answers(folders: list[Path]) -> None:
    backbones = Backbones()
    first = TaskSet([load_part(folders[0], backbones)], backbones)
    old = fused_predictor(first.groups[0])
    before = old.predict(["stone river"], "mood")
    second = first.with_part(load_part(folders[1], backbones))
    assert list(first.tasks) == ["mood", "pair"]
    assert old.predict(["stone river"], "mood") == before
    close(fused_predictor(second.groups[0]).predict(["stone river"], "mood"), before)
    third = second.without("mood").without("pair")
    assert list(third.tasks) == ["size", "things", "places"]
    assert [part.name for part in third.parts] == [str(folders[1])]
    assert old.predict(["stone river"], "mood") == before
    alone = gw.load(folders[1])
    asked = rows_of(alone.heads["size"], 5)
    close(fused_predictor(third.groups[0]).predict(asked, "size"), alone.predict(asked, "size"))
    with pytest.raises(ConfigError, match="no task 'mood' is served; there are size"):
        third.without("mood")
    assert not third.without("size").without("things").without("places").groups
    assert not backbones._loaded


def test_a_name_stands_for_one_task(folders: list[Path], tmp_path: Path) -> None:
    tasks, backbones = served(folders[:1])
    other = write_served(tmp_path / "other", folders[0].parent / "backbone", [MOOD, PAIR], 7)
    part = load_part(other, backbones)
    with pytest.raises(ConfigError, match=r"both have a task 'mood'"):
        tasks.with_part(part)
    # What is no longer served leaves its name to others, and answers no request for it.
    renewed = tasks.without("mood").without("pair").with_part(part)
    close(
        fused_predictor(renewed.tasks["mood"].group).predict(["stone"], "mood"),
        gw.load(other).predict(["stone"], "mood"),
    )


def test_a_hidden_task_does_not_answer_for_one_of_its_name(folders: list[Path], tmp_path: Path) -> None:
    tasks, backbones = served(folders[:1])
    other = write_served(tmp_path / "mood", folders[0].parent / "backbone", [MOOD], 7)
    both = tasks.without("mood").with_part(load_part(other, backbones))
    assert list(both.tasks) == ["pair", "mood"]
    assert len(both.groups) == 2
    expected = gw.load(other).predict(["stone"], "mood")
    close(fused_predictor(both.tasks["mood"].group).predict(["stone"], "mood"), expected)


def test_other_lengths_and_other_backbones_stay_apart(folders: list[Path], tmp_path: Path) -> None:
    other = write_backbone(tmp_path / "other", seed=5)
    short = write_served(tmp_path / "short", folders[0].parent / "backbone", [MOOD], 7, max_length=4)
    far = write_served(tmp_path / "far", other, [PAIR], 8)
    tasks, backbones = served([folders[1], short, far])
    assert len(tasks.groups) == 3
    assert len(backbones._loaded) == 2
    for folder, name in ((short, "mood"), (far, "pair")):
        alone = gw.load(folder)
        asked = rows_of(alone.heads[name], 6)
        close(fused_predictor(tasks.tasks[name].group).predict(asked, name), alone.predict(asked, name))
    tensors = {torch.Tensor.data_ptr(p) for p in tasks.tasks["pair"].group.model.backbone.parameters()}
    assert not tensors & {p.data_ptr() for p in tasks.tasks["mood"].group.model.backbone.parameters()}


def test_a_model_that_writes_is_refused(tmp_path: Path) -> None:
    path = write_writing(tmp_path)
    recipe = yaml.safe_load(path.read_text())
    recipe["training"]["epochs"] = 1
    recipe["tasks"] = recipe["tasks"][:1]
    fit(load_recipe(write_recipe(tmp_path, recipe)))
    with pytest.raises(ServingError, match="is a language model that writes"):
        load_part(tmp_path / "out", Backbones())
