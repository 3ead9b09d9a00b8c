"""Pairs of two texts that are read separately, from a recipe to a model and what is done with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

import graftwork as gw
from graftwork.cli import main
from graftwork.data.tokens import encode, pad
from graftwork.errors import DataError, ExportError, Interrupted, RecipeError
from graftwork.finished.evaluate import rescore
from graftwork.finished.extract import extract
from graftwork.finished.remove_task import remove_task
from graftwork.fitting.fit import fit
from graftwork.models.pooling import pool
from graftwork.recipe.loading import load_recipe, recipe_to_yaml
from graftwork.recipe.recipe import Recipe
from graftwork.training.interrupt import InterruptCallback
from graftwork.training.pairs.choosing import Pilot
from toy_pairs import write_pairs_run
from toyrun import WORDS, write_recipe

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("pairs")
    return folder, fit(load_recipe(write_pairs_run(folder)), console=QUIET)


def rows() -> list[tuple[str, str]]:
    """Pairs of different length, the second text longer or shorter than the first."""
    return [
        (" ".join(WORDS[i : i + 1 + i % 4]), " ".join(WORDS[(2 * i) % 5 : (2 * i) % 5 + 1 + (3 * i) % 5]))
        for i in range(7)
    ]


def test_heads_are_as_wide_as_what_they_see(run: tuple[Path, dict[str, Any]]) -> None:
    folder, report = run
    saved = json.loads((folder / "out/tasks.json").read_text())["tasks"]
    assert [head.get("pairs") for head in saved] == [None, "separate", "separate", None]
    model = gw.load(folder / "out").model
    shapes = {name: tuple(tensor.shape) for name, tensor in model.heads.export().items()}
    assert shapes["same.weight"] == (2, 4 * 32)
    assert shapes["near.weight"] == (1, 4 * 32 + 1)
    assert shapes["apart.weight"] == (2, 32)
    assert report["parameters"]["heads"] == model.heads.count()
    assert report["recipe"]["tasks"][1]["pairs"] == "separate"
    assert "pairs" not in report["recipe"]["tasks"][3]
    assert report["tasks"]["near"]["test"] > 0.3


def test_a_model_says_which_tasks_read_their_texts_alone(
    run: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["show", str(run[0] / "out")])
    assert "two texts, each read alone: same, near" in capsys.readouterr().out
    card = (run[0] / "out/README.md").read_text()
    assert "`first`, `second`, each alone" in card


def test_scores_can_be_reproduced_from_disk(run: tuple[Path, dict[str, Any]]) -> None:
    folder, report = run
    for name, found in rescore(folder / "out")["tasks"].items():
        assert found["score"] == pytest.approx(report["tasks"][name]["test"], abs=1e-6)


def test_an_answer_is_the_head_on_the_vectors_of_both_texts(run: tuple[Path, dict[str, Any]]) -> None:
    predictor = gw.load(run[0] / "out")
    model, tokenizer = predictor.model, predictor.tokenizer
    first, second = zip(*rows(), strict=True)
    tensors = model.heads.export()
    u, v = (_vectors(model, tokenizer, texts, 1) for texts in (first, second))
    features = torch.cat([u, v, (u - v).abs(), u * v], dim=1)
    expected = (features @ tensors["same.weight"].T + tensors["same.bias"]).softmax(1)
    answers = predictor.predict(rows(), task="same")
    found = torch.tensor([list(answer["probabilities"].values()) for answer in answers])
    assert torch.allclose(found, expected, atol=1e-5)
    u, v = (_vectors(model, tokenizer, texts, 2) for texts in (first, second))
    cosine = 12**0.5 * (torch.cosine_similarity(u, v) - 0.5)
    features = torch.cat([u, v, (u - v).abs(), u * v, cosine[:, None]], dim=1)
    head = predictor.heads["near"]
    expected = (features @ tensors["near.weight"].T + tensors["near.bias"])[:, 0] * head.std + head.mean
    found = torch.tensor([answer["score"] for answer in predictor.predict(rows(), task="near")])
    assert torch.allclose(found, expected, atol=1e-5)


@torch.no_grad()
def _vectors(model: Any, tokenizer: Any, texts: Any, task: int) -> torch.Tensor:
    columns = encode(tokenizer, [list(texts)], 16)
    batch = pad(tokenizer, [{name: columns[name][i] for name in columns} for i in range(len(texts))])
    routes = torch.full((len(texts),), task)
    hidden = model.backbone(**batch, graft_rows=routes).last_hidden_state
    return pool(hidden, batch["attention_mask"], model.pooling)


def test_an_answer_does_not_depend_on_the_rows_beside_it(run: tuple[Path, dict[str, Any]]) -> None:
    predictor = gw.load(run[0] / "out")
    fields = ("first", "second")
    asked = [
        {"task": task, **dict(zip(fields, pair, strict=True)), "text": pair[0]}
        for pair in rows()
        for task in predictor.heads
    ]
    together = predictor.predict(asked)
    for row, answer in zip(asked, together, strict=True):
        (alone,) = predictor.predict([row])
        _close(answer, alone)
    order = sorted(range(len(asked)), key=lambda index: asked[index]["task"])
    for index, answer in zip(order, predictor.predict([asked[i] for i in order]), strict=True):
        _close(answer, together[index])


@pytest.mark.parametrize("batch_size", [64, 2])
def test_all_tasks_in_one_pass_say_what_each_says_alone(
    run: tuple[Path, dict[str, Any]], batch_size: int
) -> None:
    predictor = gw.load(run[0] / "out", batch_size=batch_size)
    asked = [{"first": first, "second": second, "text": first} for first, second in rows()]
    for row, answer in zip(asked, predictor.predict_all(asked), strict=True):
        assert list(answer["answers"]) == list(predictor.heads)
        for name, found in answer["answers"].items():
            _close(found, predictor.predict([row], task=name)[0])
    assert predictor.predict_all(rows())[0]["skipped"].keys() == {"colour"}


def _close(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            _close(found[key], value)
        else:
            assert found[key] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value)


def test_a_run_that_was_stopped_ends_with_the_same_bits(run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = run
    recipe = load_recipe(folder / "recipe.yaml", {"output": str(folder / "stopped")})
    _stop(recipe, 40)
    fit(recipe, resume=True, console=QUIET)
    for name in ("heads.safetensors", "adapter_model.safetensors", "tasks.json"):
        assert (folder / "stopped" / name).read_bytes() == (folder / "out" / name).read_bytes()


def test_tasks_are_taken_out_and_added(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = run
    extract(folder / "out", "same", tmp_path / "same")
    whole, small = gw.load(folder / "out"), gw.load(tmp_path / "same")
    for one, other in zip(small.predict(rows()), whole.predict(rows(), task="same"), strict=True):
        _close(one, other)
    remove_task(folder / "out", "colour", tmp_path / "fewer")
    fewer = gw.load(tmp_path / "fewer")
    for one, other in zip(fewer.predict_all(rows()), whole.predict_all(rows()), strict=True):
        _close(one["answers"], other["answers"])
    recipe = load_recipe(folder / "recipe.yaml")
    settings = {"epochs": 1, "batch_size": 16, "learning_rate": 0.01}
    for index, task in enumerate(({"pairs": "separate"}, {"pairs": "joint"}, {})):
        new = {"name": "new", "train": str(recipe.tasks[3].train), "text": ["first", "second"], **task}
        added = write_recipe(tmp_path, {"tasks": [new], "training": settings}, f"new-{index}.yaml")
        output = tmp_path / f"added-{index}"
        report = gw.add_task(folder / "out", added, output, console=QUIET)
        assert report["additions"][0]["older_tasks_change"] == 0.0
        way = task.get("pairs") or report["additions"][0]["pairs"]["new"]["pairs"]
        assert ("pairs" in report["additions"][0]) is (not task)
        assert gw.load(output).heads["new"].pairs == way
        score = rescore(output)["tasks"]["new"]["score"]
        assert score == pytest.approx(report["tasks"]["new"]["test"], abs=1e-6)


def test_an_added_task_finds_out_with_the_pooling_of_its_model(
    run: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = yaml.safe_load((run[0] / "recipe.yaml").read_text())
    new = {**recipe["tasks"][3], "pairs": "auto"}
    recipe |= {"tasks": recipe["tasks"][:1], "output": str(tmp_path / "out")}
    recipe["training"] |= {"epochs": 1, "pooling": "cls"}
    fit(load_recipe(write_recipe(tmp_path, recipe)), probe=False, diagnosis=False, console=QUIET)
    seen = []

    def settle(prepared: Any, tasks: Any, pilot: Pilot, **options: Any) -> tuple[Any, dict[str, Any]]:
        seen.append(pilot.training)
        return prepared, {}

    monkeypatch.setattr("graftwork.finished.pairs.settle_pairs", settle)
    added = write_recipe(tmp_path, {"tasks": [new]}, "new.yaml")
    quiet = {"probe": False, "diagnosis": False, "console": QUIET}
    gw.add_task(tmp_path / "out", added, tmp_path / "added", **quiet)
    ((pooling, steps),) = [(training.pooling, training.min_steps) for training in seen]
    assert (pooling, steps) == ("cls", 100)


@pytest.mark.slow
def test_exports_take_two_sequences(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    import onnxruntime

    from graftwork.export.folder import export_folder

    folder = run[0] / "out"
    predictor = gw.load(folder)
    described = export_folder(folder, tmp_path / "onnx")
    assert described["inputs"]["second_input_ids"]["axes"] == ["batch", "sequence"]
    session = onnxruntime.InferenceSession(tmp_path / "onnx/model.onnx")
    columns = encode(predictor.tokenizer, list(zip(*rows(), strict=True)), 16, separate=True)
    batch = pad(predictor.tokenizer, [{name: columns[name][i] for name in columns} for i in range(7)])
    for task in (1, 2):
        given = {**batch, "graft_rows": torch.full((7,), task)}
        (found,) = session.run(None, {name: value.numpy() for name, value in given.items()})
        with torch.no_grad():
            expected = predictor.model(**given).logits
        assert torch.allclose(torch.from_numpy(found), expected, atol=1e-4)
    with pytest.raises(ExportError, match=r"'near' reads its two texts separately and task 'apart' one"):
        export_folder(folder, tmp_path / "all", all_tasks=True)
    export_folder(folder, tmp_path / "one", format="pt2", task="same")
    extract(folder, "same", tmp_path / "same")
    described = export_folder(tmp_path / "same", tmp_path / "same-all", all_tasks=True)
    assert described["outputs"] == ["logits.same"]


def test_what_cannot_be_read_so_is_refused(run: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(RecipeError, match=r"pairs: separate is for tasks that read two texts; name both"):
        gw.Task("one", "data", pairs="separate")
    with pytest.raises(RecipeError, match=r"pairs is 'both'; allowed: joint, separate, auto"):
        gw.Task("two", "data", text=("a", "b"), pairs="both")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"a task of kind tokens reads one text, not a pair"):
        gw.Task("tags", "data", text=("a", "b"), kind="tokens", pairs="separate")
    pair = gw.Task("two", "data", text=("a", "b"), pairs="separate")
    with pytest.raises(
        RecipeError, match=r"task 'two' has pairs: separate, but a language model that writes"
    ):
        Recipe("model", (pair, gw.Task("said", "data", kind="generation")), "out")
    predictor = gw.load(run[0] / "out")
    columns = encode(predictor.tokenizer, [["red stone"]], 16)
    batch = pad(predictor.tokenizer, [{name: columns[name][0] for name in columns}])
    with pytest.raises(
        DataError, match=r"'same' reads its two texts separately; pass the tokens of the second"
    ):
        predictor.model(**batch, graft_rows=torch.tensor([1]))


def test_auto_takes_the_better_way_and_trains_as_if_it_had_been_given(
    run: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = run
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    for task in recipe["tasks"][1:]:
        task["pairs"] = "auto"
    recipe |= {"output": str(folder / "auto")}
    recipe["training"] |= {"epochs": 2}
    auto = load_recipe(write_recipe(folder, recipe, "auto.yaml"))
    report = fit(auto, probe=False, diagnosis=False)
    printed = " ".join(capsys.readouterr().out.split())
    assert list(report["pairs"]) == ["same", "near", "apart"]
    for name, choice in report["pairs"].items():
        scores = choice["scores"]
        assert choice["pairs"] == ("separate" if scores["separate"] > scores["joint"] else "joint")
        assert (choice["steps"], choice["rows"]) == (30, 48)
        told = f"joint {scores['joint']:.3f}, separate {scores['separate']:.3f}"
        assert f"{name} {choice['pairs']} ({choice['metric']} on 48 validation rows: {told})" in printed
    assert report["phases"]["pairs"]["seconds"] > 0
    ways = {name: choice["pairs"] for name, choice in report["pairs"].items()}
    assert {name: head.pairs for name, head in gw.load(folder / "auto").heads.items()} == {
        "colour": "joint",
        **ways,
    }
    for task in recipe["tasks"][1:]:
        task["pairs"] = ways[task["name"]]
    recipe |= {"output": str(folder / "given")}
    fit(load_recipe(write_recipe(folder, recipe, "given.yaml")), probe=False, diagnosis=False)
    for name in ("heads.safetensors", "adapter_model.safetensors", "tasks.json"):
        assert (folder / "auto" / name).read_bytes() == (folder / "given" / name).read_bytes()


def test_the_way_is_found_out_where_a_head_compares_two_texts() -> None:
    pair = gw.Task("two", "data", text=("a", "b"))
    assert pair.pairs == gw.Task("two", "data", text=("a", "b"), kind="regression").pairs == "auto"
    for kind in ("classification", "tokens", "generation"):
        assert gw.Task("one", "data", kind=kind).pairs == "joint"
    assert Recipe("model", (pair,), "out").tasks[0].pairs == "auto"
    written = Recipe("model", (pair, gw.Task("said", "data", kind="generation")), "out")
    assert written.tasks[0].pairs == "joint"


def test_files_from_before_there_were_ways_mean_one_sequence(tmp_path: Path) -> None:
    pair = gw.Task("two", "data", text=("a", "b"), pairs="joint")
    text = recipe_to_yaml(Recipe("model", (pair,), "out"), tmp_path)
    assert "pairs" not in text
    (tmp_path / "recipe.yaml").write_text(text)
    for saved in (True, False):
        assert load_recipe(tmp_path / "recipe.yaml", saved=saved).tasks[0].pairs == "joint"
    auto = recipe_to_yaml(Recipe("model", (replace(pair, pairs="auto"),), "out"), tmp_path)
    (tmp_path / "recipe.yaml").write_text(auto)
    assert load_recipe(tmp_path / "recipe.yaml", saved=True).tasks[0].pairs == "auto"


def test_a_recipe_that_says_nothing_finds_out_at_the_command_line(
    run: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = yaml.safe_load((run[0] / "recipe.yaml").read_text())
    colour, same = recipe["tasks"][:2]
    del same["pairs"]
    recipe |= {"tasks": [colour, same], "output": str(tmp_path / "out")}
    recipe["training"] |= {"epochs": 1}
    path = write_recipe(tmp_path, recipe)
    main(["fit", str(path), "--no-probe", "--no-diagnosis"])
    choice = json.loads((tmp_path / "out/report.json").read_text())["pairs"]["same"]
    assert f"pairs: same {choice['pairs']} (macro_f1 on 48 validation rows" in " ".join(
        capsys.readouterr().out.split()
    )
    assert gw.load(tmp_path / "out").heads["same"].pairs == choice["pairs"]


def test_a_run_that_goes_on_keeps_the_way(
    run: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = run
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["tasks"][1]["pairs"] = "auto"
    recipe |= {"output": str(folder / "kept")}
    recipe["training"] |= {"epochs": 1}
    auto = load_recipe(write_recipe(folder, recipe, "kept.yaml"))
    _stop(auto, 5)
    known = json.loads((folder / "kept.partial/run.json").read_text())["pairs"]

    def again(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the way is chosen a second time")

    monkeypatch.setattr("graftwork.training.pairs.choosing.choose_pairs", again)
    report = fit(auto, resume=True, console=QUIET)
    assert report["pairs"] == known
    assert gw.load(folder / "kept").heads["same"].pairs == known["same"]["pairs"]
    further = {"start": str(folder / "kept"), "output": str(folder / "further"), "graft": {}}
    further = {**recipe, **further}
    fit(load_recipe(write_recipe(folder, further, "further.yaml")), console=QUIET)
    assert gw.load(folder / "further").heads["same"].pairs == known["same"]["pairs"]
    other = "joint" if known["same"]["pairs"] == "separate" else "separate"
    further["tasks"][1]["pairs"] = other
    with pytest.raises(RecipeError, match=rf"'same' has pairs: {other}, but in the model "):
        fit(load_recipe(write_recipe(folder, further, "further.yaml")), overwrite=True, console=QUIET)


def _stop(recipe: Recipe, step: int) -> None:
    """Train until a step, as if Ctrl-C came then."""
    original = InterruptCallback.on_step_end

    def on_step_end(self: InterruptCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.requested = state.global_step == step
        original(self, args, state, control, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterruptCallback, "on_step_end", on_step_end)
        with pytest.raises(Interrupted):
            fit(recipe, console=QUIET)
