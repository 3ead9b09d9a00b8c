"""One toy run, looked at from all sides: report, files, equality of what is saved with what was scored."""

from __future__ import annotations

import io
import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from transformers import AutoModel

import graftwork as gw
from graftwork.errors import DataError, DivergenceError, Interrupted, StructureError, TrainingError
from graftwork.finished.evaluate import rescore
from graftwork.finished.extract import extract
from graftwork.fitting.fit import fit
from graftwork.fitting.work_folder import WorkFolder
from graftwork.models.folder import load_model
from graftwork.recipe.loading import load_recipe
from graftwork.recipe.recipe import Recipe
from graftwork.structure.structure import Structure
from graftwork.training.interrupt import InterruptCallback
from toyrun import recipe_dict, write_recipe, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    report = fit(load_recipe(write_run(folder)), console=Console(quiet=True))
    return folder, report


def test_report_names_everything_the_issue_asks_for(run: tuple[Path, dict[str, Any]]) -> None:
    folder, report = run
    assert json.loads((folder / "out/report.json").read_text()) == report
    assert list(report["tasks"]) == ["colour", "same", "length"]
    for task in report["tasks"].values():
        assert {"metric", "test", "validation", "majority", "linear_probe", "rows"} <= set(task)
        assert task["rows"] == {"train": 96, "validation": 48, "test": 48}
    assert report["tasks"]["same"]["metric"] == "macro_f1"
    assert report["tasks"]["length"]["metric"] == "spearman"
    assert set(report["phases"]) >= {"warm-up", "search", "tune", "prepare", "baselines", "test"}
    assert all(phase["seconds"] > 0 for phase in report["phases"].values())
    assert sum(phase.get("steps", 0) for phase in report["phases"].values()) == 3 * 96 * 3 // 16
    assert report["seed"] == 0
    assert report["versions"]["torch"] == torch.__version__
    assert len(report["tasks"]["colour"]["sha256"]["train"]) == 64


def test_budget_is_met_exactly(run: tuple[Path, dict[str, Any]]) -> None:
    _, report = run
    parameters = report["parameters"]
    adapter = 2 * (32 + 32 + 1)
    assert parameters["budget"] == int(0.05 * parameters["backbone"])
    assert 0 <= parameters["budget"] - parameters["stored"] < adapter
    assert parameters["stored"] == Structure.from_dict(report["structure"]).parameters()
    assert parameters["heads"] == (2 + 2 + 1) * 33


def test_learns_the_easy_task(run: tuple[Path, dict[str, Any]]) -> None:
    assert run[1]["tasks"]["colour"]["test"] > 0.9


def test_only_safetensors_and_text_on_disk(run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = run
    suffixes = {path.suffix for path in (folder / "out").rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".yaml", ".png", ".md", ".html"}
    assert not (folder / "out.partial").exists()
    assert not list(folder.glob(".out*"))


def test_scores_can_be_reproduced_from_disk(run: tuple[Path, dict[str, Any]]) -> None:
    folder, report = run
    again = rescore(folder / "out")["tasks"]
    for name, task in report["tasks"].items():
        assert again[name]["score"] == pytest.approx(task["test"], abs=1e-6)


def test_adapter_folder_loads_with_plain_peft(run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = run
    ours, _ = load_model(folder / "out")
    plain = PeftModel.from_pretrained(AutoModel.from_pretrained(folder / "backbone"), folder / "out").eval()
    ids = torch.tensor([[2, 5, 6, 3], [2, 7, 8, 3]])
    with torch.no_grad(), gw.route(plain, ["same", "colour"]):
        expected = plain(ids).last_hidden_state
    with torch.no_grad(), gw.route(ours, ["same", "colour"]):
        assert torch.equal(ours.backbone(ids).last_hidden_state, expected)


def test_extract_keeps_the_outputs_of_one_task(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, report = run
    stored = extract(folder / "out", "same", tmp_path / "same")
    assert stored == report["parameters"]["active"]["same"]
    small, _ = load_model(tmp_path / "same")
    whole, _ = load_model(folder / "out")
    ids = torch.tensor([[2, 5, 6, 3, 7, 3], [2, 7, 8, 3, 7, 3]])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        expected = whole(input_ids=ids, attention_mask=mask, graft_rows=torch.tensor([1, 1])).logits
        found = small(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert rescore(tmp_path / "same")["tasks"].keys() == {"same"}


def test_same_seed_same_result(run: tuple[Path, dict[str, Any]]) -> None:
    folder, report = run
    recipe = load_recipe(folder / "recipe.yaml", {"output": str(folder / "again")})
    again = fit(recipe, console=Console(quiet=True))
    assert again["structure"] == report["structure"]
    assert (folder / "again/adapter_model.safetensors").read_bytes() == (
        folder / "out/adapter_model.safetensors"
    ).read_bytes()


def stop(recipe: Recipe, step: int) -> None:
    """Begin a run that is interrupted after a step."""
    original = InterruptCallback.on_step_end

    def on_step_end(self: InterruptCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.requested = self.requested or state.global_step == step
        original(self, args, state, control, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterruptCallback, "on_step_end", on_step_end)
        with pytest.raises(
            Interrupted, match=rf"step {step} of \d+; .*Go on with: fit\(recipe, resume=True\)$"
        ):
            fit(recipe, console=Console(quiet=True))


def same_model(one: Path, other: Path) -> bool:
    return all(
        (one / name).read_bytes() == (other / name).read_bytes()
        for name in ("adapter_model.safetensors", "heads.safetensors", "structure.json")
    )


@pytest.mark.parametrize("stop_at", [7, 40])
def test_interrupted_run_resumes_to_the_same_model(run: tuple[Path, dict[str, Any]], stop_at: int) -> None:
    folder, _ = run
    recipe = load_recipe(folder / "recipe.yaml", {"output": str(folder / f"stopped{stop_at}")})
    stop(recipe, stop_at)
    assert not Path(recipe.output).exists()
    with pytest.raises(TrainingError, match="unfinished run"):
        fit(recipe, console=Console(quiet=True))
    changed = load_recipe(folder / "recipe.yaml", {"output": recipe.output, "training.epochs": 4})
    with pytest.raises(TrainingError, match="another recipe"):
        fit(changed, resume=True, console=Console(quiet=True))
    report = fit(recipe, resume=True, console=Console(quiet=True))
    assert same_model(Path(recipe.output), folder / "out")
    assert report["resumed"] == [{"step": stop_at, "changes": {}}]
    assert report["started"] < datetime.now(UTC).isoformat()


def test_noise_goes_on_where_the_checkpoint_left_it(run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = run
    changes = {"noise": [{"kind": "embeddings", "ratio": 0.2, "when": "both"}], "training.epochs": 1}
    whole, stopped = (
        load_recipe(folder / "recipe.yaml", {**changes, "output": str(folder / name)})
        for name in ("embeddings", "embeddings-stopped")
    )
    report = fit(whole, console=Console(quiet=True))
    stop(stopped, 5)
    again = fit(stopped, resume=True, console=Console(quiet=True))
    assert same_model(Path(stopped.output), Path(whole.output))
    assert again["noise"] == report["noise"]


def test_a_damaged_checkpoint_is_passed_over(
    run: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = run
    recipe = load_recipe(folder / "recipe.yaml", {"output": str(folder / "damaged")})
    stop(recipe, 40)
    work = folder / "damaged.partial"
    assert sorted(path.name for path in work.glob("checkpoint-*")) == ["checkpoint-36", "checkpoint-40"]
    state = work / "checkpoint-40/optimizer.pt"
    state.write_bytes(state.read_bytes()[:1000])
    copy = shutil.copytree(work, folder / "damaged-too.partial")
    (copy / "checkpoint-36/adapter_model.safetensors").unlink()
    report = fit(recipe, resume=True)
    printed = " ".join(capsys.readouterr().out.split())
    assert "note: checkpoint-40 is passed over: its optimizer.pt is not as it was written" in printed
    assert report["resumed"] == [{"step": 36, "changes": {}}]
    assert same_model(Path(recipe.output), folder / "out")
    (copy / "recipe.yaml").unlink()  # it names the other output
    recipe = load_recipe(folder / "recipe.yaml", {"output": str(folder / "damaged-too")})
    with pytest.raises(
        TrainingError, match=r"no checkpoint in .* is whole \(checkpoint-40 .*; checkpoint-36 "
    ):
        fit(recipe, resume=True, console=Console(quiet=True))


def test_a_run_without_a_checkpoint_is_resumed_at_its_first_step(run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = run
    recipe = load_recipe(folder / "recipe.yaml", {"output": str(folder / "early")})
    stop(recipe, 3)
    shutil.rmtree(folder / "early.partial/checkpoint-3")
    report = fit(recipe, resume=True, console=Console(quiet=True))
    assert report["resumed"] == [{"step": 0, "changes": {}}]
    assert same_model(folder / "early", folder / "out")


def test_a_run_does_not_go_on_with_other_data(tmp_path: Path) -> None:
    recipe = load_recipe(write_run(tmp_path), {"training.epochs": 1})
    stop(recipe, 3)
    data = tmp_path / "data/same/train.jsonl"
    before = data.read_text()
    data.write_text("".join(before.splitlines(keepends=True)[::-1]))
    with pytest.raises(TrainingError, match=r"the data of same are not those the run in .* was started with"):
        fit(recipe, resume=True, console=Console(quiet=True))
    data.write_text(before)
    file = tmp_path / "out.partial/run.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps({**state, "versions": {**state["versions"], "torch": "1.0"}}))
    console = Console(record=True, width=500, file=io.StringIO())
    fit(recipe, resume=True, console=console)
    assert "note: the run was started with torch 1.0 and goes on with 2." in console.export_text()


def test_a_run_that_was_killed_when_all_was_written_is_done(run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = run
    recipe = load_recipe(folder / "recipe.yaml", {"output": str(folder / "done"), "training.epochs": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorkFolder, "remove", lambda self: None)
        report = fit(recipe, console=Console(quiet=True))
    assert (folder / "done.partial").is_dir()
    before = (folder / "done/report.json").stat().st_mtime_ns
    assert fit(recipe, resume=True, console=Console(quiet=True)) == report
    assert (folder / "done/report.json").stat().st_mtime_ns == before
    assert not (folder / "done.partial").exists()
    stop(load_recipe(folder / "recipe.yaml", {"output": str(folder / "done2"), "training.epochs": 1}), 2)
    shutil.copytree(folder / "done", folder / "done2")  # of an earlier run
    recipe = load_recipe(folder / "recipe.yaml", {"output": str(folder / "done2"), "training.epochs": 1})
    with pytest.raises(DataError, match="exists; choose another"):
        fit(recipe, resume=True, console=Console(quiet=True))


def test_a_run_that_diverged_goes_on_with_a_lower_rate(run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = run
    changes = {"output": str(folder / "high"), "training.epochs": 1, "training.learning_rate": 1e30}
    high = load_recipe(folder / "recipe.yaml", changes)
    with pytest.raises(DivergenceError) as caught:
        fit(high, console=Console(quiet=True))
    assert re.fullmatch(
        r"training diverged at step \d: .*There is no checkpoint yet. Go on with: fit\(recipe, "
        r"resume=True\) with training.learning_rate: 3.3e\+29 in the recipe",
        str(caught.value),
    )
    low = load_recipe(folder / "recipe.yaml", {**changes, "training.learning_rate": 0.01})
    report = fit(low, resume=True, console=Console(quiet=True))
    assert report["resumed"] == [{"step": 0, "changes": {"training.learning_rate": [1e30, 0.01]}}]
    assert report["recipe"]["training"]["learning_rate"] == 0.01
    assert not (folder / "high.partial").exists()


def test_the_report_says_which_code_made_it(run: tuple[Path, dict[str, Any]]) -> None:
    _, report = run
    assert set(report["git"]) == {"graftwork", "working_directory"}
    for state in report["git"].values():
        assert state is None or set(state) == {"commit", "dirty"}
    assert report["resumed"] == []


def test_noise_of_a_recipe_is_applied_and_reported(run: tuple[Path, dict[str, Any]]) -> None:
    folder, report = run
    noise = [
        {"kind": "word_drop", "ratio": 0.5},
        {"kind": "labels", "ratio": 0.25},
        {"kind": "path_drop", "ratio": 1.0},
    ]
    recipe = load_recipe(folder / "recipe.yaml", {"output": str(folder / "noisy"), "noise": noise})
    noisy = fit(recipe, console=Console(quiet=True))
    kinds = [entry["kind"] for entry in noisy["noise"]]
    assert kinds == ["word_drop", "labels"] * 3 + ["path_drop"]
    assert noisy["noise"][1]["realised"]["train"] == pytest.approx(0.25, abs=0.02)
    assert noisy["noise"][-1]["realised"]["test"] == 1.0
    colour = noisy["tasks"]["colour"]
    assert colour["test"] < report["tasks"]["colour"]["test"]
    assert rescore(folder / "noisy")["tasks"]["colour"]["score"] == pytest.approx(colour["test"], abs=1e-6)


def test_mixed_precision(run: tuple[Path, dict[str, Any]]) -> None:
    folder, report = run
    changes = {"output": str(folder / "bf16"), "training.bf16": True, "training.epochs": 1}
    mixed = fit(load_recipe(folder / "recipe.yaml", changes), console=Console(quiet=True))
    # Another structure, of sites that differ in price, at the same budget.
    chosen = {name: mixed["parameters"][name] for name in ("active", "stored", "stored_fraction")}
    assert mixed["parameters"] == report["parameters"] | chosen
    assert 0 <= mixed["parameters"]["budget"] - chosen["stored"] < 96
    assert chosen["stored"] == Structure.from_dict(mixed["structure"]).parameters()


def test_single_task_and_penalty(tmp_path: Path) -> None:
    write_run(tmp_path)
    recipe = recipe_dict(tmp_path)
    recipe["tasks"] = recipe["tasks"][:1]
    recipe["graft"] = {"penalty": 1.0, "gates": "sigmoid", "penalty_reduction": "sum", "r": 2}
    report = fit(load_recipe(write_recipe(tmp_path, recipe)), console=Console(quiet=True))
    assert report["parameters"]["budget"] is None
    again = rescore(tmp_path / "out")["tasks"]["colour"]["score"]
    assert again == pytest.approx(report["tasks"]["colour"]["test"], abs=1e-6)


@pytest.mark.parametrize("name", ["uniform", "random", "private_paths"])
def test_a_structure_in_place_of_a_search(
    run: tuple[Path, dict[str, Any]], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = run
    changes = {
        "output": str(folder / name),
        "graft.structure": name,
        "graft.pool_size": 12,
        "graft.r": 1,
        "training.epochs": 1,
    }
    report = fit(load_recipe(folder / "recipe.yaml", changes))
    parameters = report["parameters"]
    assert {phase for phase, spent in report["phases"].items() if "steps" in spent} == {"tune"}
    assert 0 <= parameters["budget"] - parameters["stored"] < 96
    structure = Structure.from_dict(report["structure"])
    assert structure.parameters() == parameters["stored"]
    assert {site.pool_size for site in structure.sites.values()} == {12}
    assert parameters["peak_trainable"] == 12 * (8 * 64 + 4 * 96) + 3 * 2 * 33  # no gates
    if name == "private_paths":
        assert sum(parameters["active"].values()) == parameters["stored"]
    else:
        assert set(parameters["active"].values()) == {parameters["stored"]}
    again = rescore(folder / name)["tasks"]
    for task, scores in report["tasks"].items():
        assert again[task]["score"] == pytest.approx(scores["test"], abs=1e-6)
    assert "stored adapter parameters" in capsys.readouterr().out


@pytest.mark.parametrize("setting", [{"gate_start": "grouped"}, {"structure": "grouped_paths"}])
def test_tasks_are_grouped_by_their_inputs(
    run: tuple[Path, dict[str, Any]], setting: dict[str, str], tmp_path: Path
) -> None:
    folder, _ = run
    changes = {f"graft.{name}": value for name, value in setting.items()}
    changes |= {"output": str(tmp_path / "out"), "training.epochs": 1}
    report = fit(load_recipe(folder / "recipe.yaml", changes), console=Console(quiet=True))
    found = report["grouping"]
    assert sorted(name for group in found["groups"] for name in group) == ["colour", "length", "same"]
    assert [row[index] for index, row in enumerate(found["distances"])] == [0, 0, 0]
    structure = Structure.from_dict(report["structure"])
    paths = {frozenset(structure.paths(group[0])) for group in found["groups"]}
    assert {frozenset(structure.paths(name)) for name in structure.tasks} == paths
    assert sum(map(len, paths)) == len(frozenset().union(*paths))


def test_a_learned_structure_trained_from_scratch(run: tuple[Path, dict[str, Any]]) -> None:
    folder, learned = run
    changes = {"output": str(folder / "scratch"), "graft.structure": "file:out/report.json"}
    report = fit(load_recipe(folder / "recipe.yaml", changes), console=Console(quiet=True))
    assert report["structure"] == learned["structure"]
    assert report["phases"]["tune"]["steps"] == 54
    changes = {"output": str(folder / "one"), "graft.structure": "task:same:out", "training.epochs": 1}
    one = fit(load_recipe(folder / "recipe.yaml", changes), console=Console(quiet=True))
    path = Structure.from_dict(learned["structure"]).paths("same")
    found = Structure.from_dict(one["structure"])
    assert all(found.paths(task) == path for task in found.tasks)


def test_a_structure_that_does_not_fit_is_found_before_the_tasks_are_read(
    run: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = run
    monkeypatch.setattr("graftwork.training.preparation.load_task", lambda *_: pytest.fail("read"))
    changes = {"output": str(folder / "none"), "graft.structure": "file:missing.json"}
    with pytest.raises(StructureError, match=r"there is no structure file missing\.json; give"):
        fit(load_recipe(folder / "recipe.yaml", changes), console=Console(quiet=True))
    assert not (folder / "none.partial").exists()
