"""The command line as a user meets it: output, exit codes, one clear line for bad input."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import fails
from graftwork.cli import main
from graftwork.diagnosis.floor import floor_notes
from toyrun import recipe_dict, write_backbone, write_lines, write_recipe, write_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    main(["fit", str(write_run(folder))])
    return folder


def test_fit_prints_scores_structure_and_times(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", str(trained / "recipe.yaml"), "--overwrite", "--set", "training.epochs=1", "--seed", "3"])
    out = capsys.readouterr().out
    for expected in (
        "colour",
        "linear probe",
        "majority",
        "stored adapter parameters",
        "time:",
        "written to",
    ):
        assert expected in out
    assert json.loads((trained / "out/report.json").read_text())["seed"] == 3


def test_evaluate(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads((trained / "out/report.json").read_text())
    capsys.readouterr()
    main(["evaluate", str(trained / "out"), "--json"])
    scores = json.loads(capsys.readouterr().out)["tasks"]
    assert scores["colour"]["score"] == pytest.approx(report["tasks"]["colour"]["test"], abs=1e-6)
    main(["evaluate", str(trained / "out"), "--split", "validation"])
    assert "validation scores" in capsys.readouterr().out


def test_predict_mixed_rows_from_stdin(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"task": "same", "first": "stone road", "second": "stone lamp"},
        {"task": "colour", "text": "river tree red"},
        {"task": "length", "text": "river tree bird"},
        {"task": "colour", "text": "bird blue"},
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(json.dumps(row) + "\n" for row in rows)))
    capsys.readouterr()
    main(["predict", str(trained / "out")])
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result["task"] for result in results] == ["same", "colour", "length", "colour"]
    assert set(results[0]["probabilities"]) == {"different", "same"}
    assert sum(results[1]["probabilities"].values()) == pytest.approx(1)
    assert isinstance(results[2]["score"], float)


def test_predict_file_to_file(trained: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "rows.jsonl", [{"text": "river red"}, {"text": "tree bird blue"}])
    target = tmp_path / "predictions.jsonl"
    main(
        ["predict", str(trained / "out"), "--task", "colour", "--input", str(source), "--output", str(target)]
    )
    assert [json.loads(line)["task"] for line in target.read_text().splitlines()] == ["colour", "colour"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.jsonl", "rows.jsonl"]


def test_show(trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    capsys.readouterr()
    main(["show", str(trained / "out"), "--png", str(tmp_path / "map.png")])
    assert "colour" in capsys.readouterr().out
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    main(["show", str(trained / "out"), "--json"])
    assert json.loads(capsys.readouterr().out)["tasks"] == ["colour", "same", "length"]


def test_extract(trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["extract", str(trained / "out"), "colour", str(tmp_path / "colour")])
    main(["show", str(tmp_path / "colour"), "--json"])
    assert '"tasks": [\n  "colour"\n ]' in capsys.readouterr().out
    assert "unknown task 'color'" in fails(
        capsys, "extract", str(trained / "out"), "color", str(tmp_path / "x")
    )
    assert not (tmp_path / "x").exists()


def test_show_several(trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(trained / "out")
    capsys.readouterr()
    main(["show", out, out])
    assert capsys.readouterr().out.count("open adapters per task") == 2
    main(["show", out, out, "--json"])
    assert [found["tasks"] for found in json.loads(capsys.readouterr().out)] == [
        ["colour", "same", "length"]
    ] * 2
    assert "--png draws the map of one model" in fails(capsys, "show", out, out, "--png", str(tmp_path / "x"))


def test_show_diagnose(trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(trained / "out")
    report = json.loads((trained / "out/report.json").read_text())
    capsys.readouterr()
    main(["show", out, "--diagnose"])
    printed = capsys.readouterr().out
    for expected in (
        "soft vs hard gates",
        "stored parameters",
        "closing one adapter",
        "open adapters per task",
    ):
        assert expected in printed
    main(["show", out, "--diagnose", "--json"])
    found = json.loads(capsys.readouterr().out)
    search = {**report["diagnosis"]}
    search["findings"] = [*floor_notes(report["tasks"]), *search["findings"]]
    assert found == {"runs": {out: {"search": search}}, "stability": None}
    main(["fit", str(trained / "recipe.yaml"), "--output", str(tmp_path / "seed1"), "--seed", "1"])
    capsys.readouterr()
    main(["show", out, str(tmp_path / "seed1"), "--diagnose"])
    assert "structures of 2 runs" in capsys.readouterr().out
    main(["extract", out, "colour", str(tmp_path / "colour")])
    assert "has no diagnosis" in fails(capsys, "show", str(tmp_path / "colour"), "--diagnose")


def test_add_and_remove_a_task(trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = tmp_path / "add.yaml"
    recipe.write_text(json.dumps({"tasks": [{"name": "hue", "train": str(trained / "data/colour")}]}))
    settings = ["--set", "training.epochs=1", "--set", "extend.private=1", "--seed", "2"]
    more, out = str(tmp_path / "more"), str(trained / "out")
    capsys.readouterr()
    main(["add-task", out, str(recipe), "-o", more, *settings])
    printed = capsys.readouterr().out
    assert "outputs of the older tasks: unchanged to the bit" in printed
    assert "hue: test accuracy" in printed
    report = json.loads((tmp_path / "more/report.json").read_text())
    assert report["additions"][0]["seed"] == 2
    main(["evaluate", more, "--json"])
    scores = json.loads(capsys.readouterr().out)["tasks"]
    assert scores["hue"]["score"] == pytest.approx(report["tasks"]["hue"]["test"], abs=1e-6)
    main(["show", more, "--diagnose"])
    assert "addition of hue" in " ".join(capsys.readouterr().out.split())
    main(["remove-task", more, "hue", "-o", str(tmp_path / "less")])
    printed = " ".join(capsys.readouterr().out.split())
    reclaimed = 2 * 2 * (4 * (32 + 32) + 2 * (32 + 64))
    assert f"without task 'hue'; {reclaimed:,} adapter parameters reclaimed" in printed
    assert "the same up to rounding" in printed
    assert "exists" in fails(capsys, "add-task", out, str(recipe), "-o", more)
    assert "has a task 'hue' already" in fails(
        capsys, "add-task", more, str(recipe), "-o", str(tmp_path / "x")
    )
    bad = ["add-task", out, str(recipe), "-o", str(tmp_path / "x"), "--set", "graft.r=4"]
    assert "graft is that of the trained model" in fails(capsys, *bad)
    assert "unknown task" in fails(capsys, "remove-task", more, "hues", "-o", str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def change(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(recipe: dict[str, Any]) -> None:
        *sections, last = key.split(".")
        target: Any = recipe
        for section in sections:
            target = target[int(section) if section.isdigit() else section]
        target[last] = value

    return apply


BAD_RECIPES = {
    "missing file": (change("tasks.0.train", "{folder}/data/nowhere"), "nowhere does not exist"),
    "repeated name": (change("tasks.1.name", "colour"), "task name 'colour' is given 2 times"),
    "unknown key": (change("graft.bugdet", 0.1), "did you mean 'budget'"),
    "zero budget": (change("graft.budget", 0), "budget"),
    "tiny budget": (change("graft.budget", 0.0001), "less than one adapter"),
    "unknown model": (change("model", "{folder}/no-model"), "no-model"),
    "missing field": (change("tasks.0.text", "txt"), "'txt'"),
    "nan rate": (change("training.learning_rate", float("nan")), "learning_rate"),
}


@pytest.mark.parametrize("case", BAD_RECIPES)
def test_bad_recipe_is_one_line_and_leaves_nothing(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path)
    recipe = recipe_dict(tmp_path)
    apply, message = BAD_RECIPES[case]
    apply(recipe)
    text = write_recipe(tmp_path, recipe)
    text.write_text(text.read_text().replace("{folder}", str(tmp_path)))
    before = sorted(tmp_path.iterdir())
    assert message in fails(capsys, "fit", str(text))
    assert sorted(tmp_path.iterdir()) == before


BAD_DATA = {
    "empty file": ("train", "", "no rows|empty"),
    "broken line": ("train", '{"text": "red", "label": "red"}\n{"text": oops\n', "line 2"),
    "unknown label": ("test", '{"text": "red", "label": "purple"}\n', "purple"),
    "one class": ("train", '{"text": "red", "label": "red"}\n' * 3, "class"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_one_line_and_leaves_nothing(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_run(tmp_path)
    split, content, message = BAD_DATA[case]
    (tmp_path / f"data/colour/{split}.jsonl").write_text(content)
    before = sorted(tmp_path.iterdir())
    error = fails(capsys, "fit", str(recipe))
    assert any(word in error for word in message.split("|")), error
    assert "colour" in error
    assert sorted(tmp_path.iterdir()) == before


def test_no_recipe_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such file" in fails(capsys, "fit", str(tmp_path / "no.yaml"))


def test_output_exists(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--overwrite" in fails(capsys, "fit", str(trained / "recipe.yaml"))


def test_a_run_that_diverges_is_one_line(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--output", str(trained / "high"), "--set", "training.learning_rate=1e30"]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", str(trained / "recipe.yaml"), *changes])
    last = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert stopped.value.code == 2
    assert last.startswith("graftwork: training diverged at step ")
    assert last.endswith("--resume --set training.learning_rate=3.3e+29")


def test_two_writers_of_one_output(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fcntl

    out, task = str(tmp_path / "x"), tmp_path / "add.yaml"
    task.write_text(json.dumps({"tasks": [{"name": "hue", "train": str(trained / "data/colour")}]}))
    model, recipe = str(trained / "out"), str(trained / "recipe.yaml")
    with (tmp_path / ".x.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # what another process would hold
        for command in (
            ["fit", recipe, "--output", out],
            ["fit", recipe, "--output", out, "--overwrite"],
            ["fit", recipe, "--output", out, "--resume"],
            ["fit", recipe, "--output", out, "--budgets", "0.05,0.02"],
            ["extract", model, "colour", out],
            ["add-task", model, str(task), "-o", out],
            ["remove-task", model, "colour", "-o", out],
        ):
            assert "another process is writing" in fails(capsys, *command)
    main(["extract", model, "colour", out])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["add.yaml", "x"]


def test_nothing_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing to resume" in fails(capsys, "fit", str(write_run(tmp_path)), "--resume")


def test_another_backbone(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_backbone(tmp_path / "wide", hidden=48)
    error = fails(capsys, "evaluate", str(trained / "out"), "--backbone", str(other))
    assert "trained on a backbone" in error


def test_truncated_weights(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    shutil.copytree(trained / "out", tmp_path / "cut")
    weights = tmp_path / "cut/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "truncated" in fails(capsys, "evaluate", str(tmp_path / "cut"))


def test_predict_faults(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(trained / "out")
    source = write_lines(tmp_path / "rows.jsonl", [{"txt": "red"}])
    target = tmp_path / "p.jsonl"
    with_files = ("--input", str(source), "--output", str(target))
    assert "no field 'text'" in fails(capsys, "predict", out, "--task", "colour", *with_files)
    assert "names no task" in fails(capsys, "predict", out, *with_files)
    assert "unknown task 'color'" in fails(capsys, "predict", out, "--task", "color", *with_files)
    assert not target.exists()
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"text": "red"}\n{"text"\n'))
    assert "standard input line 2" in fails(capsys, "predict", out, "--task", "colour")
    assert "not a model" in fails(capsys, "predict", str(tmp_path), "--task", "colour")


@pytest.mark.slow
def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_resume(tmp_path: Path) -> None:
    recipe = write_run(tmp_path)
    command = [sys.executable, "-m", "graftwork", "fit", str(recipe), "--set", "training.epochs=2000"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    ) as process:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "out.partial").glob("checkpoint-*")) and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in error.splitlines()[-1]
    assert "Traceback" not in error
    assert list((tmp_path / "out.partial").glob("checkpoint-*"))
    assert not (tmp_path / "out").exists()


def test_several_budgets_from_one_search(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = trained / "family"
    options = ["--output", str(out), "--budgets", "0.05,2e-2", "--set", "training.epochs=1"]
    main(["fit", str(trained / "recipe.yaml"), *options])
    shown = capsys.readouterr().out
    assert "test scores of the models of one search" in shown
    assert sorted(path.name for path in out.iterdir()) == ["0.02", "0.05"]
    main(["evaluate", str(out / "0.02"), "--json"])
    report = json.loads((out / "0.02/report.json").read_text())
    scores = json.loads(capsys.readouterr().out)["tasks"]
    assert scores["colour"]["score"] == pytest.approx(report["tasks"]["colour"]["test"], abs=1e-6)
    error = fails(capsys, "fit", str(trained / "recipe.yaml"), *options)
    assert "the output folder" in error
    error = fails(capsys, "fit", str(trained / "recipe.yaml"), "--overwrite", "--budgets", "0.05,much")
    assert "budgets=['0.05', 'much'] must be a list of numbers" in error


def test_a_control_from_the_command_line(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(trained / "recipe.yaml")
    assert "graft.structure='unifrom' is not known; did you mean 'uniform'" in fails(
        capsys, "fit", recipe, "--overwrite", "--set", "graft.structure=unifrom"
    )
    assert "needs an adapter at each of the 12 sites (1,792), but the budget allows 197" in fails(
        capsys, "fit", recipe, "--overwrite", "--set", "graft.structure=uniform", "--set", "graft.budget=0.01"
    )
