"""`compare` on tasks that a language model answers: adapters, LoRA, and the frozen model as the floor."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from graftwork.errors import ConfigError, RecipeError
from graftwork.experiments.grid.file import load_grid
from graftwork.experiments.grid.grid import Grid
from graftwork.experiments.report.below import below_probe
from graftwork.experiments.report.report import report as write_report
from graftwork.experiments.results import collect
from graftwork.experiments.results.store import Store
from graftwork.experiments.running.compare import compare
from graftwork.fitting.fit import fit
from graftwork.models import identity
from graftwork.models.causal import frozen
from graftwork.recipe.loading import load_recipe
from graftwork.training import preparation
from toy_writer import colour_rows, write_writing
from toyrun import write_lines

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]}
METHODS = [
    {"name": "graft", "label": "search"},
    {"name": "fixed_structure", "label": "random paths", "method": {"structure": "random_paths"}},
    {"name": "fixed_structure", "label": "uniform", "method": {"structure": "uniform"}},
    {"name": "lora", "method": LORA},
    {"name": "frozen", "label": "zero-shot"},
    {"name": "frozen", "label": "3-shot", "method": {"shots": 3}},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of a task that is written and one that is chosen, with their rows and a toy decoder."""
    folder = tmp_path_factory.mktemp("compare")
    path = write_writing(folder)
    for split, size in (("train", 48), ("validation", 12), ("test", 12)):
        rows = [{"text": row["text"], "label": row["target"].split()[-1]} for row in colour_rows(size)]
        write_lines(folder / "data/label" / f"{split}.jsonl", rows)
    recipe = yaml.safe_load(path.read_text())
    chosen = {**recipe["tasks"][2], "kind": "choice", "prompt": "which colour : {text} Answer :"}
    recipe["tasks"] = [recipe["tasks"][0], chosen]
    recipe["training"] |= {"epochs": 8}
    path.write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture
def make(folder: Path, tmp_path: Path) -> Callable[..., Grid]:
    def make(**changes: Any) -> Grid:
        grid = {"base": "recipe.yaml", "results": str(tmp_path / "results"), "seeds": [0], "tune": None}
        path = folder / f"{tmp_path.name}.yaml"
        path.write_text(yaml.safe_dump({**grid, "methods": METHODS, **changes}))
        return load_grid(path)

    return make


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, so that nothing is known from other tests."""
    monkeypatch.setattr(identity, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(preparation, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def done(grid: Grid) -> dict[str, dict[str, Any]]:
    """The results by label; every run has succeeded."""
    summary = compare(grid, console=Console(quiet=True))
    assert summary.failed == ()
    return {run["label"]: run for run in Store(grid.results).results()}


def test_all_methods_have_the_scores_of_what_they_answer(make: Callable[..., Grid], tmp_path: Path) -> None:
    grid = make()
    found = done(grid)
    for label, run in found.items():
        assert set(run["tasks"]) == set(run["texts"]) == {"colour", "label"}
        for split in ("validation", "test"):
            written, chosen = (run["texts"][name][split] for name in ("colour", "label"))
            assert written["exact_match"] == run["tasks"]["colour"][split], label
            assert chosen["accuracy"] == run["tasks"]["label"][split], label
            assert (written["written_rows"], chosen["scored_rows"]) == (12, 12)
    for label in ("search", "random paths", "uniform", "LoRA"):
        assert found[label]["suite"]["test"] > found["zero-shot"]["suite"]["test"], label
    size = found["search"]["parameters"]["backbone"]
    for label in ("search", "random paths", "uniform"):
        assert 0 < found[label]["parameters"]["stored"] <= 0.3 * size
    # Ranks of three maps in two layers: query 32 to 32, value 32 to 16, down 48 to 32.
    assert found["LoRA"]["parameters"]["stored"] == 2 * 4 * ((32 + 32) + (32 + 16) + (48 + 32))
    assert found["zero-shot"]["parameters"]["stored"] == 0
    assert found["zero-shot"]["forgetting"] == 0 < found["search"]["forgetting"]
    write_report(grid.results, tmp_path / "report")
    assert "zero-shot" in next((tmp_path / "report").glob("*.md")).read_text()
    (comparison,) = collect.compare(collect.read_results(grid.results))
    assert below_probe(comparison) == ()
    for file in grid.results.glob("*.json"):  # as if the search had learned nothing
        run = json.loads(file.read_text())
        if run["label"] in ("search", "zero-shot", "3-shot"):
            run["tasks"]["colour"]["test"] = 0.5 * (run["label"] == "zero-shot")
        file.write_text(json.dumps(run))
    (comparison,) = collect.compare(collect.read_results(grid.results))
    *sentences, advice = below_probe(comparison)
    assert "search is below zero-shot on colour (0.0 against 50.0)." in sentences
    assert advice.startswith("Where the frozen model answers better than a method")


def test_a_search_scores_as_fit_does(make: Callable[..., Grid], folder: Path, tmp_path: Path) -> None:
    run = done(make(methods=METHODS[:1]))["search"]
    recipe = load_recipe(folder / "recipe.yaml", {"output": str(tmp_path / "fit")})
    report = fit(recipe, console=Console(quiet=True), diagnosis=False, probe=False)
    assert report["parameters"]["stored"] == run["parameters"]["stored"]
    for name in ("colour", "label"):
        assert report["tasks"][name]["test"] == run["tasks"][name]["test"]
        own, theirs = report["texts"][name]["test"], run["texts"][name]["test"]
        assert [each["answer"] for each in own["examples"]] == [each["answer"] for each in theirs["examples"]]


def test_one_lora_per_task(make: Callable[..., Grid]) -> None:
    grid = make(methods=[{"name": "lora", "method": LORA}], arrangements=["single"])
    compare(grid, console=Console(quiet=True))
    runs = list(Store(grid.results).results())
    assert sorted(next(iter(run["tasks"])) for run in runs) == ["colour", "label"]
    assert {run["status"] for run in runs} == {"done"}


def test_the_frozen_model_is_asked_once(
    make: Callable[..., Grid], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    first = done(make(methods=METHODS[4:]))
    kept = sorted(cache.glob("answers-*.json"))
    assert len(kept) == 4  # two tasks, whose rows of both splits are the same, shown alone and behind others

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(frozen, "write_answers", refuse)
    monkeypatch.setattr(frozen, "log_likelihoods", refuse)
    again = done(make(methods=METHODS[4:], seeds=[1]))
    assert {label: run["texts"] for label, run in again.items()} == {
        label: run["texts"] for label, run in first.items()
    }
    # `fit` has the same floors from the same answers.
    recipe = load_recipe(folder / "recipe.yaml", {"output": str(tmp_path / "fit"), "training.epochs": 0.1})
    report = fit(recipe, console=Console(quiet=True), diagnosis=False)
    for name in ("colour", "label"):
        assert report["tasks"][name]["zero_shot"] == first["zero-shot"]["tasks"][name]["test"]
        assert report["tasks"][name]["few_shot"] == first["3-shot"]["tasks"][name]["test"]
    # What cannot be read is asked again, and so is another prompt.
    kept[0].write_text("{")
    broken = compare(make(methods=METHODS[4:], seeds=[2]), console=Console(quiet=True))
    assert "asked again" in broken.failed[0]


def test_a_score_of_fewer_rows_is_another_run(make: Callable[..., Grid], folder: Path) -> None:
    def key(most: int | None) -> str:
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        if most is not None:
            recipe["tasks"][0]["max_generate"] = most
        said = io.StringIO()
        grid = make(methods=METHODS[4:5], tasks=recipe["tasks"])
        compare(grid, dry_run=True, console=Console(file=said, width=200))
        return said.getvalue().split("\n")[1].split()[0]

    assert len({key(None), key(3), key(4)}) == 3
    assert key(3) == key(3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"methods": ["graft", "poly", "linear_probe"]},
            "method 'poly' cannot do task 'colour' of kind: generation; allowed are fixed_structure, frozen, "
            "graft, lora, random_structure; method 'linear_probe' cannot do",
        ),
        ({"methods": [{"name": "frozen", "method": {"shots": -1}}]}, "shots=-1 must be at least 0"),
    ],
)
def test_what_cannot_answer_is_refused_by_name(
    make: Callable[..., Grid], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((RecipeError, ConfigError), match=r"^[^\n]+$") as caught:
        make(**changes)
    assert message in str(caught.value)


def test_a_task_with_a_head_and_one_scored_by_likelihood_beside_it(
    make: Callable[..., Grid], folder: Path
) -> None:
    tasks = yaml.safe_load((folder / "recipe.yaml").read_text())["tasks"]
    headed = {"name": "head", "train": tasks[1]["train"]}
    likely = {**tasks[0], "name": "likely", "metric": "likelihood"}
    run = done(make(methods=METHODS[:1], tasks=[headed, tasks[0], likely]))["search"]
    assert run["tasks"]["head"]["test"] > 0.5
    assert 0 < run["tasks"]["likely"]["test"] < 1
    assert run["tasks"]["colour"]["test"] == run["texts"]["colour"]["test"]["exact_match"]
    assert set(run["texts"]) == {"colour", "likely"}


def test_the_frozen_model_has_no_heads(make: Callable[..., Grid], folder: Path) -> None:
    tasks = yaml.safe_load((folder / "recipe.yaml").read_text())["tasks"]
    headed = {"name": "label", "train": tasks[1]["train"]}
    with pytest.raises(RecipeError, match="'frozen' has no answer to task 'label' of kind: classification"):
        make(methods=["frozen"], tasks=[tasks[0], headed])
    with pytest.raises(RecipeError, match="metric: likelihood of task 'colour' scores none"):
        make(methods=["frozen"], tasks=[{**tasks[0], "metric": "likelihood"}])
