"""A whole run of a language model: two written tasks and one with a head, from recipe to scores."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

import graftwork as gw
from commands import fails
from graftwork.cli import main
from graftwork.errors import Interrupted
from graftwork.finished.evaluate import rescore
from graftwork.fitting.fit import fit
from graftwork.models.causal.model import CausalMultiTaskModel
from graftwork.models.folder import load_model
from graftwork.recipe.loading import load_recipe
from graftwork.training.interrupt import InterruptCallback
from toy_writer import colour_rows, write_writing
from toyrun import write_backbone, write_lines, write_run

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("writing")
    recipe = load_recipe(write_writing(folder))
    said = io.StringIO()
    report = fit(recipe, console=Console(file=said, width=200))
    return folder, report, said.getvalue()


def test_the_tasks_are_learned(run: tuple[Path, dict[str, Any], str]) -> None:
    _, report, said = run
    for name in ("colour", "first"):
        task = report["tasks"][name]
        assert task["test"] > max(task["zero_shot"], task["majority"]), (name, task)
        assert "linear_probe" not in task
    assert report["tasks"]["label"]["test"] == 1
    assert "zero-shot" in said
    assert "asked: which colour : stone red Answer :" in said


def test_the_report_has_losses_figures_and_examples(run: tuple[Path, dict[str, Any], str]) -> None:
    _, report, _ = run
    for split in ("validation", "test"):
        found = report["texts"]["colour"][split]
        assert found["exact_match"] == report["tasks"]["colour"][split]
        assert found["written_rows"] == 12
        assert 0 < found["loss"]
        assert found["perplexity"] >= 1
        assert set(found["examples"][0]) == {"prompt", "answer", "right"}
    assert report["parameters"]["heads"] == 3 * 33
    assert "label" not in report["texts"]


def test_the_folder_holds_what_was_learned(run: tuple[Path, dict[str, Any], str]) -> None:
    folder, report, _ = run
    model, tokenizer = load_model(folder / "out")
    assert isinstance(model, CausalMultiTaskModel)
    assert tokenizer.chat_template
    assert json.loads((folder / "out/tasks.json").read_text())["causal"] is True
    assert report["parameters"]["stored"] <= report["parameters"]["budget"]


def test_a_run_that_goes_on_ends_with_the_same_bits(run: tuple[Path, dict[str, Any], str]) -> None:
    folder, _, _ = run
    recipe = load_recipe(folder / "recipe.yaml", {"output": str(folder / "stopped")})
    original = InterruptCallback.on_step_end

    def on_step_end(self: InterruptCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.requested = self.requested or state.global_step == 50
        original(self, args, state, control, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterruptCallback, "on_step_end", on_step_end)
        with pytest.raises(Interrupted):
            fit(recipe, console=QUIET, diagnosis=False, probe=False)
    fit(recipe, resume=True, console=QUIET, diagnosis=False, probe=False)
    for name in ("adapter_model.safetensors", "heads.safetensors", "structure.json"):
        assert (folder / "stopped" / name).read_bytes() == (folder / "out" / name).read_bytes(), name


def refused(folder: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    """The line that `graftwork fit` ends in with other settings of the first task; nothing is written."""
    path = folder / "bad.yaml"
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["model"] = changes.pop("model", recipe["model"])
    recipe["tasks"] = [{**recipe["tasks"][0], **changes}]
    recipe["output"] = str(folder / "bad")
    path.write_text(yaml.safe_dump(recipe))
    line = fails(capsys, "fit", str(path))
    assert not (folder / "bad").exists()
    return line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "{question}"}, "has no field 'question'; its fields: text, target"),
        ({"prompt": "{}"}, "is no field of a row; name one, such as {text}"),
        ({"prompt": "question"}, "names no field of a row"),
        ({"target": "answer"}, "has no field 'answer'; its fields: text, target"),
        ({"references": "target"}, "'target' is 'colour red', not a list of texts"),
        ({"system": "be brief"}, "system is a message of a chat; set chat: true"),
        ({"metric": "accuracy"}, "metric is 'accuracy'; allowed for generation: token_f1, exact_match"),
        ({"labels": ["a", "b"]}, "a generation task has no labels; remove them, or set kind to choice"),
        ({"text": ["text", "target"]}, "write a prompt: with both, such as '{text} {target}'"),
        ({"max_length": 5}, "48 of 48 rows have no token of an answer left"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0, not a whole number of at least 1"),
        ({"kind": "classification"}, "prompt is for kind: generation; remove it, or set the kind"),
    ],
)
def test_bad_input_is_one_line(
    run: tuple[Path, dict[str, Any], str],
    changes: dict[str, Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in refused(run[0], capsys, **changes)


def test_targets_that_are_lists(
    run: tuple[Path, dict[str, Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "target": [row["target"]]} for row in colour_rows(12)]
    path = write_lines(run[0] / "lists.jsonl", rows)
    line = refused(run[0], capsys, train=str(path))
    assert "the target in 'target' is a list of 1; give the one that is learned there, and name" in line


def test_an_encoder(run: tuple[Path, dict[str, Any], str], capsys: pytest.CaptureFixture[str]) -> None:
    bert = write_backbone(run[0] / "bert")
    assert "is an encoder (bert), and kind: generation needs a decoder" in refused(
        run[0], capsys, model=str(bert)
    )


def test_free_text_is_not_a_class(
    run: tuple[Path, dict[str, Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"a {i}", "label": f"this is the long sentence {i}"} for i in range(40)]
    path = write_lines(run[0] / "free.jsonl", rows)
    changes = dict.fromkeys(("prompt", "max_new_tokens", "metric"))
    line = refused(run[0], capsys, train=str(path), kind="classification", **changes)
    assert "set kind: generation to write texts, with a language model" in line


def test_odd_rows_without_an_answer_are_left_out_and_told(run: tuple[Path, dict[str, Any], str]) -> None:
    rows = colour_rows(60)
    rows[7]["target"] = " "
    path = write_lines(run[0] / "odd.jsonl", rows)
    changes = {"output": str(run[0] / "odd"), "tasks.colour.train": str(path), "training.epochs": 0.1}
    recipe = load_recipe(run[0] / "recipe.yaml", changes)
    said = io.StringIO()
    report = fit(recipe, console=Console(file=said, width=300), diagnosis=False, probe=False)
    lost = "of task 'colour': 1 of "
    assert lost in said.getvalue()
    assert "they are left out" in said.getvalue()
    assert sum(report["tasks"]["colour"]["rows"].values()) == 60
    assert torch.isfinite(torch.tensor(report["texts"]["colour"]["test"]["loss"]))


def test_a_finished_model_is_trained_further(run: tuple[Path, dict[str, Any], str]) -> None:
    folder, first, _ = run
    changes = {"output": str(folder / "further"), "start": str(folder / "out"), "training.epochs": 0.2}
    report = fit(load_recipe(folder / "recipe.yaml", changes), console=QUIET, diagnosis=False, probe=False)
    before = report["start"]["tasks"]
    for name, task in first["tasks"].items():
        assert before[name]["test"] == pytest.approx(task["test"], abs=1e-6)
    assert isinstance(load_model(folder / "further")[0], CausalMultiTaskModel)


def test_the_loss_per_token_is_a_setting(run: tuple[Path, dict[str, Any], str]) -> None:
    folder, first, _ = run
    # Batches large enough for answers of different length.
    changes = {"output": str(folder / "token"), "training.epochs": 1, "training.batch_size": 72}
    losses = {}
    for per in ("row", "token"):
        recipe = load_recipe(folder / "recipe.yaml", {**changes, "training.loss": per})
        losses[per] = fit(recipe, console=QUIET, diagnosis=False, probe=False, overwrite=True)["train_loss"]
    assert losses["row"] != losses["token"]
    assert "loss" not in first["recipe"]["training"]


def test_tasks_are_added(run: tuple[Path, dict[str, Any], str]) -> None:
    folder, first, _ = run
    written, _, headed = yaml.safe_load((folder / "recipe.yaml").read_text())["tasks"]
    rows = [
        {"text": f"{row['text']}", "label": row["target"].split()[-1], "options": ["red", "green", "blue"]}
        for row in colour_rows(48)
    ]
    for split, size in (("train", 48), ("validation", 12), ("test", 12)):
        write_lines(folder / "data/options" / f"{split}.jsonl", rows[:size])
    chosen = {
        "name": "options",
        "kind": "choice",
        "train": str(folder / "data/options"),
        "prompt": "which colour : {text} Answer :",
        "choices": "options",
    }
    origin, scored = folder / "out", {}
    for task in ({**written, "name": "again"}, chosen, {**headed, "name": "class"}):
        recipe = folder / f"{task['name']}.yaml"
        training = {"epochs": 12, "batch_size": 8, "learning_rate": 0.01}
        recipe.write_text(yaml.safe_dump({"tasks": [task], "training": training}))
        said = io.StringIO()
        report = gw.add_task(origin, recipe, folder / task["name"], console=Console(file=said, width=200))
        assert report["additions"][-1]["older_tasks_change"] == 0.0
        origin = folder / task["name"]
        scored[task["name"]] = report["tasks"][task["name"]]
        assert ("zero-shot" in said.getvalue()) == (task["name"] != "class")
    assert scored["again"]["test"] > max(scored["again"]["zero_shot"], scored["again"]["majority"])
    assert scored["options"]["test"] > scored["options"]["majority"]
    assert scored["class"]["test"] > 0.5
    assert report["texts"]["again"]["test"]["exact_match"] == scored["again"]["test"]
    assert report["texts"]["options"]["test"]["accuracy"] == scored["options"]["test"]
    model, _ = load_model(origin)
    assert isinstance(model, CausalMultiTaskModel)
    assert [head.name for head in model.heads.heads] == [
        "colour",
        "first",
        "label",
        "again",
        "options",
        "class",
    ]
    # What it writes is what the report says, and older tasks answer as before.
    again = rescore(origin)["tasks"]
    for name in ("colour", "label", "again", "options", "class"):
        assert again[name]["score"] == pytest.approx(report["tasks"][name]["test"], abs=1e-6), name
    assert report["tasks"]["colour"]["test"] == first["tasks"]["colour"]["test"]


def test_what_written_tasks_cannot_is_said(
    run: tuple[Path, dict[str, Any], str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = run[0]
    tasks = yaml.safe_load((folder / "recipe.yaml").read_text())["tasks"]
    added, grid = folder / "added.yaml", folder / "grid.yaml"
    added.write_text(yaml.safe_dump({"tasks": [{**tasks[0], "name": "new"}]}))
    grid.write_text(yaml.safe_dump({"model": "x", "tasks": tasks, "methods": ["poly"]}))
    write_run(tmp_path)
    fit(
        load_recipe(tmp_path / "recipe.yaml", {"training.epochs": 0.1}),
        console=QUIET,
        diagnosis=False,
        probe=False,
    )
    out = str(tmp_path / "new")
    assert "task 'new' of kind: generation is answered by a language model, and the model of colour" in _last(
        capsys, "add-task", str(tmp_path / "out"), str(added), "-o", out
    )
    assert "method 'poly' cannot do task 'colour' of kind: generation" in fails(capsys, "compare", str(grid))
    assert not Path(out).exists()


def _last(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The line on standard error in which a command ends that has said something before."""
    with pytest.raises(SystemExit):
        main(list(words))
    return capsys.readouterr().err.strip().splitlines()[-1]
