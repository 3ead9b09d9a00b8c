"""Retrieval tasks beside all other kinds, from a recipe to a model and what is done with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

import graftwork as gw
from graftwork.cli import main
from graftwork.data.tokens import collate, encode, pad
from graftwork.errors import ConfigError, Interrupted, RecipeError
from graftwork.experiments.grid.file import load_grid
from graftwork.experiments.running.compare import compare
from graftwork.export.folder import export_folder
from graftwork.finished.evaluate import rescore
from graftwork.finished.extract import extract
from graftwork.finished.remove_task import remove_task
from graftwork.fitting.fit import fit
from graftwork.models.outputs import forward_rows
from graftwork.recipe.loading import load_recipe
from graftwork.recipe.recipe import Recipe
from graftwork.training.interrupt import InterruptCallback
from toy_kinds import spans_task
from toy_retrieval import found, found_rows, write_retrieval_run
from toyrun import run_parts, write_lines, write_recipe

QUIET = Console(quiet=True)
FILES = ("heads.safetensors", "adapter_model.safetensors", "tasks.json")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("retrieval")
    return folder, fit(load_recipe(write_retrieval_run(folder)), console=QUIET)


def pairs(count: int = 12) -> list[dict[str, Any]]:
    return found_rows(count, 7)


def alone(folder: Path, **changes: Any) -> dict[str, Any]:
    """The recipe of the first retrieval task alone."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["tasks"] = [task for task in recipe["tasks"] if task["name"] == "found"]
    return {**recipe, **changes}


def test_a_report_has_the_score_and_honest_floors(run: tuple[Path, dict[str, Any]]) -> None:
    folder, report = run
    task = report["tasks"]["found"]
    assert {"validation", "test", "chance", "frozen_cosine"} <= task.keys()
    assert not {"majority", "linear_probe"} & task.keys()
    assert task["chance"] == pytest.approx(sum(1 / rank for rank in range(1, 25)) / 24)
    assert report["tasks"]["again"]["chance"] == pytest.approx(1 / 24)
    assert report["tasks"]["colour"].keys() >= {"majority", "linear_probe"}
    card = (folder / "out/README.md").read_text()
    assert "| `found` | retrieval | `query`, `passage`, each alone | the cosine of their vectors" in card
    assert f"| `found` | mrr | {task['test']:.3f} | {task['frozen_cosine']:.3f} | 0.157 |" in card
    page = (folder / "out/index.html").read_text()
    assert "frozen cosine" in page
    assert "chance" in page


def test_the_frozen_cosine_is_that_of_the_backbone(run: tuple[Path, dict[str, Any]]) -> None:
    folder, report = run
    model = gw.load(folder / "out").model
    rows = [json.loads(line) for line in (folder / "data/found/test.jsonl").read_text().splitlines()]
    predictor = gw.load(folder / "out")
    with predictor.model.backbone.disable_adapter():
        u, v = (predictor.embed([row[side] for row in rows], "found") for side in ("query", "passage"))
    assert model.heads.compares
    assert report["tasks"]["found"]["frozen_cosine"] == pytest.approx(_mrr(u, v))


def _mrr(u: Any, v: Any) -> float:
    near = torch.nn.functional.cosine_similarity(torch.tensor(u)[:, None], torch.tensor(v)[None], dim=-1)
    ranks = (near >= near.diag()[:, None]).sum(1)
    return float((1 / ranks).mean())


def test_vectors_of_a_corpus_are_searched(run: tuple[Path, dict[str, Any]]) -> None:
    folder, report = run
    predictor = gw.load(folder / "out")
    rows = [json.loads(line) for line in (folder / "data/found/test.jsonl").read_text().splitlines()]
    u, v = (predictor.embed([row[side] for row in rows], "found") for side in ("query", "passage"))
    assert report["tasks"]["found"]["test"] == pytest.approx(_mrr(u, v))
    told = [answer["score"] for answer in predictor.predict(rows, task="found")]
    u, v = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (u, v))
    assert np.allclose(told, (u * v).sum(axis=1), atol=1e-5)
    (rounded,) = predictor.predict(rows[:1], task="found", digits=2)
    assert rounded == {"task": "found", "score": round(told[0], 2)}


def test_scores_can_be_reproduced_from_disk(
    run: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, report = run
    told = rescore(folder / "out", details=True)
    for name, again in told["tasks"].items():
        assert again["score"] == pytest.approx(report["tasks"][name]["test"], abs=1e-6)
    details = told["tasks"]["again"]["details"]
    assert details["recall@1"] == pytest.approx(report["tasks"]["again"]["test"])
    assert details["passages"] == 24
    assert details["recall@1"] <= details["mrr"] <= 1
    data = write_lines(folder / "few.jsonl", pairs(5))
    main(["evaluate", str(folder / "out"), "--data", str(data), "--task", "found", "--per-class"])
    assert "median_rank" in capsys.readouterr().out


def test_outputs_do_not_depend_on_the_rows_beside_them(run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = run
    predictor = gw.load(folder / "out")
    tokens = run_parts(folder)[0]["test"]
    owner = np.asarray(tokens["graft_rows"])
    rows = [tokens[int(np.flatnonzero(owner == task)[i])] for i in range(3) for task in range(7)]
    mixed = forward_rows(predictor.model, rows, collate(predictor.tokenizer)).logits
    for row, together in zip(rows, mixed, strict=True):
        own = forward_rows(predictor.model, [row], collate(predictor.tokenizer)).logits[0]
        if predictor.model.heads.heads[row["graft_rows"]].compared:  # the vectors of both texts
            length, one, other = 65, own.flatten(), together.flatten()
        else:  # the row, and its tokens
            length, one, other = 1 + len(row["input_ids"]), own, together
        torch.testing.assert_close(other[:length], one[:length], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [64, 2])
def test_all_tasks_in_one_pass_say_what_each_says_alone(
    run: tuple[Path, dict[str, Any]], batch_size: int
) -> None:
    predictor = gw.load(run[0] / "out", batch_size=batch_size)
    asked = [{**row, "first": row["query"], "second": "stone", "text": row["passage"]} for row in pairs()]
    for row, answer in zip(asked, predictor.predict_all(asked), strict=True):
        assert list(answer["answers"]) == list(predictor.heads)
        for name in ("found", "again", "same", "length"):
            (own,) = predictor.predict([row], task=name)
            for key, value in own.items():
                assert answer["answers"][name][key] == (
                    pytest.approx(value, abs=1e-5) if key in ("score", "probabilities") else value
                )


def test_a_run_that_was_stopped_ends_with_the_same_bits(run: tuple[Path, dict[str, Any]]) -> None:
    folder, report = run
    recipe = load_recipe(folder / "recipe.yaml", {"output": str(folder / "stopped")})
    original = InterruptCallback.on_step_end

    def on_step_end(self: InterruptCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.requested = state.global_step == 25
        original(self, args, state, control, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterruptCallback, "on_step_end", on_step_end)
        with pytest.raises(Interrupted):
            fit(recipe, console=QUIET)
    again = fit(recipe, resume=True, console=QUIET)
    for name in FILES:
        assert (folder / "stopped" / name).read_bytes() == (folder / "out" / name).read_bytes()
    assert again["tasks"] == report["tasks"]


def test_tasks_are_taken_out_and_added(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, report = run
    whole = gw.load(folder / "out")
    extract(folder / "out", "found", tmp_path / "one")
    small = gw.load(tmp_path / "one")
    assert _close(small.predict(pairs()), whole.predict(pairs(), task="found"))
    assert small.model.heads.count() == 0
    score = rescore(tmp_path / "one")["tasks"]["found"]["score"]
    assert score == pytest.approx(report["tasks"]["found"]["test"], abs=1e-6)
    remove_task(folder / "out", "spans", tmp_path / "untagged")
    assert _close(
        gw.load(tmp_path / "untagged").predict(pairs(), task="found"), whole.predict(pairs(), task="found")
    )
    settings = {"epochs": 1, "batch_size": 16, "learning_rate": 0.01}
    for model, new in (
        ("out", found(folder, name="new")),
        ("untagged", {**spans_task(folder), "name": "new"}),
        ("one", found(folder, name="new", metric="recall@10")),
    ):
        place = (folder if model == "out" else tmp_path) / model
        added = write_recipe(tmp_path, {"tasks": [new], "training": settings}, f"{model}.yaml")
        told = gw.add_task(place, added, tmp_path / f"{model}-new", console=QUIET)
        assert told["additions"][0]["older_tasks_change"] == 0.0
        larger = gw.load(tmp_path / f"{model}-new")
        assert _close(larger.predict(pairs(), task="found"), whole.predict(pairs(), task="found"))
        score = rescore(tmp_path / f"{model}-new")["tasks"]["new"]["score"]
        assert score == pytest.approx(told["tasks"]["new"]["test"], abs=1e-6)


def _close(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    scores = [[answer["score"] for answer in answers] for answers in (one, other)]
    return np.allclose(*scores, atol=1e-5)


def test_training_brings_queries_to_their_passages(run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = run
    recipe = alone(folder, output=str(folder / "learned"))
    recipe["training"] |= {"epochs": 25, "batch_size": 32, "learning_rate": 0.02}
    recipe["graft"] = {"budget": "30%", "pool_size": 8, "r": 4}
    path = write_recipe(folder, recipe, "learned.yaml")
    task = fit(load_recipe(path), diagnosis=False, console=QUIET)["tasks"]["found"]
    assert task["frozen_cosine"] < 0.4
    assert task["test"] > task["frozen_cosine"] + 0.2


def test_a_model_is_trained_further(run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = run
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe |= {"start": str(folder / "out"), "output": str(folder / "further"), "graft": {}}
    report = fit(load_recipe(write_recipe(folder, recipe, "further.yaml")), console=QUIET)
    assert report["start"]["tasks"]["found"]["test"] == pytest.approx(
        json.loads((folder / "out/report.json").read_text())["tasks"]["found"]["test"], abs=1e-6
    )


def test_texts_may_be_templates(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = run
    recipe = alone(folder, output=str(tmp_path / "out"))
    recipe["tasks"][0]["text"] = ["red {query}", "blue {passage}"]
    report = fit(load_recipe(write_recipe(folder, recipe, "templates.yaml")), console=QUIET)
    predictor = gw.load(tmp_path / "out")
    sides = (("red", "query"), ("blue", "passage"))
    u, v = (predictor.embed([f"{word} {row[side]}" for row in pairs()], "found") for word, side in sides)
    told = [answer["score"] for answer in predictor.predict(pairs())]
    assert np.allclose(torch.cosine_similarity(torch.tensor(u), torch.tensor(v)), told, atol=1e-5)
    score = rescore(tmp_path / "out")["tasks"]["found"]["score"]
    assert score == pytest.approx(report["tasks"]["found"]["test"], abs=1e-6)


def test_other_tasks_may_read_windows(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = run
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    tasks = {task["name"]: task for task in recipe["tasks"]}
    long = {**tasks["colour"], "stride": 1}
    recipe |= {
        "tasks": [long, tasks["found"], {**tasks["spans"], "stride": 1}],
        "output": str(tmp_path / "out"),
    }
    recipe["training"] |= {"max_length": 6}
    report = fit(load_recipe(write_recipe(folder, recipe, "long.yaml")), console=QUIET)
    predictor = gw.load(tmp_path / "out")
    assert _windowed(folder, predictor)
    for name, again in rescore(tmp_path / "out")["tasks"].items():
        assert again["score"] == pytest.approx(report["tasks"][name]["test"], abs=1e-6)


def _windowed(folder: Path, predictor: Any) -> bool:
    """Whether rows of several windows beside them change nothing for pairs."""
    asked = [
        *({"task": "found", **row} for row in pairs(4)),
        *({"task": "colour", "text": "red stone tree river cloud road lamp"} for _ in range(3)),
    ]
    told = predictor.predict(asked)[:4]
    return _close(told, predictor.predict(pairs(4), task="found"))


def test_other_methods_train_it_too(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = run
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    del recipe["output"]
    tasks = [task for task in recipe["tasks"] if task["name"] in ("colour", "found")]
    grid = {**recipe, "tasks": tasks, "results": str(tmp_path / "results"), "seeds": [0], "tune": None}
    grid |= {"methods": ["lora", "graft", "linear_probe", "heads"]}
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(grid, sort_keys=False))
    compare(load_grid(path), console=QUIET)
    results = [json.loads(file.read_text()) for file in (tmp_path / "results").rglob("*.json")]
    scores = {one["method"]: one["tasks"]["found"]["test"] for one in results if "tasks" in one}
    assert scores.keys() == {"lora", "graft", "linear_probe", "heads"}
    frozen = json.loads((folder / "out/report.json").read_text())["tasks"]["found"]["frozen_cosine"]
    assert scores["linear_probe"] == pytest.approx(frozen)
    assert scores["heads"] == pytest.approx(frozen)  # no head to train
    path.write_text(yaml.safe_dump({**grid, "tasks": tasks[1:]}, sort_keys=False))
    with pytest.raises(RecipeError, match=r"method 'heads' trains heads alone, and those of kind: retrieval"):
        load_grid(path)


@pytest.mark.slow
def test_exports_give_the_vectors(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    folder = run[0] / "out"
    predictor = gw.load(folder)
    export_folder(folder, tmp_path / "all")
    extract(folder, "found", tmp_path / "one")
    export_folder(tmp_path / "one", tmp_path / "one-onnx")
    described = export_folder(tmp_path / "one", tmp_path / "one-all", all_tasks=True)
    assert described["outputs"] == ["logits.found"]
    export_folder(folder, tmp_path / "pt2", format="pt2", task="found")
    columns = encode(
        predictor.tokenizer,
        [[row[side] for row in pairs(5)] for side in ("query", "passage")],
        16,
        separate=True,
    )
    batch = pad(predictor.tokenizer, [{name: columns[name][i] for name in columns} for i in range(5)])
    given = {name: value.numpy() for name, value in batch.items()}
    expected = [answer["score"] for answer in predictor.predict(pairs(5), task="found")]
    vectors = predictor.embed([row["passage"] for row in pairs(5)], "found")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for name, more in (("all", {"graft_rows": np.full(5, 3)}), ("one-onnx", {}), ("one-all", {})):
        session = runtime.InferenceSession(tmp_path / name / "model.onnx")
        (outputs,) = session.run(None, {**given, **more})
        flat = outputs.reshape(5, -1)
        assert np.allclose(flat[:, 0], expected, atol=1e-4)
        assert np.allclose(flat[:, 33:65], vectors, atol=1e-4)


def test_what_cannot_be_is_refused(run: tuple[Path, dict[str, Any]], capsys: Any) -> None:
    folder, _ = run
    recipe = alone(folder, output=str(folder / "noisy"), noise=[{"kind": "labels", "ratio": 0.2}])
    with pytest.raises(
        ConfigError, match=r"labels noise changes targets, and a row of task 'found' has none"
    ):
        fit(load_recipe(write_recipe(folder, recipe, "noisy.yaml")), console=QUIET)
    pair = gw.Task("found", "data", text=("query", "passage"), kind="retrieval")
    with pytest.raises(RecipeError, match=r"task 'found' has kind: retrieval, but a language model that wr"):
        Recipe("model", (pair, gw.Task("said", "data", kind="generation")), "out")
    write_lines(folder / "broken.jsonl", [*pairs(30), {"query": "red", "passage": " "}])
    recipe = alone(folder, output=str(folder / "broken"))
    recipe["tasks"][0]["train"] = str(folder / "broken.jsonl")
    path = write_recipe(folder, recipe, "broken.yaml")
    with pytest.raises(SystemExit, match="2"):
        main(["fit", str(path)])
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "line 31: the text in 'passage' is empty" in told
    assert not (folder / "broken").exists()
