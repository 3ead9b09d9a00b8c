"""One way to the rows that a model is trained on, and to what its tasks reach without any training."""

from __future__ import annotations

import pytest

import graftwork as gw
from graftwork.data.splits import load_task
from graftwork.kinds.scores import majority_score
from graftwork.models.backbone import load_backbone
from graftwork.models.multitask import MultiTaskModel
from graftwork.noise import Noise
from graftwork.recipe.loading import load_recipe
from graftwork.recipe.recipe import Recipe
from graftwork.training.preparation import Prepared, baselines, prepare
from toyrun import write_run
from toys import grafted

DAMAGE = Noise("word_drop", 0.5)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return load_recipe(write_run(tmp_path_factory.mktemp("prepared")))


@pytest.fixture(scope="module")
def prepared(recipe: Recipe) -> Prepared:
    return prepare(recipe.model, recipe.tasks, [DAMAGE], max_length=16)


def test_the_rows_of_all_tasks_are_there_with_and_without_noise(recipe: Recipe, prepared: Prepared) -> None:
    assert prepared.name == recipe.model
    assert prepared.names == ["colour", "same", "length"]
    assert prepared.rows == 3 * 96
    assert set(prepared.tokens) == {"train", "validation", "test"}
    for task, clean, noisy in zip(recipe.tasks, prepared.clean, prepared.datas, strict=True):
        assert clean.sha256 == load_task(task).sha256
        assert clean.sha256["test"] != noisy.sha256["test"]
    assert [(report["task"], report["kind"]) for report in prepared.noise] == [
        (name, "word_drop") for name in prepared.names
    ]


def test_noise_in_the_model_leaves_the_rows_as_they_are(recipe: Recipe) -> None:
    found = prepare(recipe.model, recipe.tasks, [Noise("embeddings", 0.5)], max_length=16)
    assert [data.sha256 for data in found.datas] == [data.sha256 for data in found.clean]
    assert found.noise == []


def test_no_row_is_longer_than_the_backbone_allows(recipe: Recipe) -> None:
    found = prepare(recipe.model, recipe.tasks[:1], max_length=100)
    assert found.max_length == 32
    (note,) = found.notes
    assert note.startswith("max_length is 100, but the backbone (BertModel) has positions for 32 tokens")


def test_a_backbone_that_is_loaded_already_is_used(recipe: Recipe) -> None:
    loaded = load_backbone(recipe.model)
    found = prepare("of another name", recipe.tasks, max_length=16, loaded=loaded)
    assert (found.backbone, found.tokenizer) == loaded
    assert found.name == "of another name"


def test_a_model_that_can_learn_passes_the_preflight(recipe: Recipe) -> None:
    found = prepare(recipe.model, recipe.tasks, max_length=16)
    adapted = grafted(found.backbone, tasks=found.names)
    assert found.preflight(MultiTaskModel(adapted, [data.head for data in found.datas])) == []


def test_baselines_are_those_of_the_bare_backbone(recipe: Recipe, prepared: Prepared) -> None:
    seen: list[None] = []
    bare = baselines(prepared, "mean", lambda: seen.append(None))
    assert len(seen) == 3
    assert list(bare) == prepared.names
    assert bare["colour"]["linear_probe"] > bare["colour"]["majority"]
    for data in prepared.datas:
        targets = data.splits["train"].targets, data.splits["test"].targets
        assert bare[data.head.name]["majority"] == majority_score(data.head, *targets)
    own = prepare(recipe.model, recipe.tasks, [DAMAGE], max_length=16)
    adapted = grafted(own.backbone, tasks=own.names)
    gw.set_structure_(adapted, gw.structure_of(adapted))
    with adapted.disable_adapter():
        assert baselines(own, "mean") == bare
