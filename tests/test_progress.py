"""Every phase of a run says what it does and finds, a quiet one nothing; parts can be left out."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from graftwork.cli import main
from graftwork.finished.add_task import add_task
from graftwork.fitting.fit import fit
from graftwork.progress import phase
from graftwork.recipe.loading import load_recipe
from toyrun import recipe_dict, write_lines, write_recipe, write_run

PHASES = ("prepare", "build", "baselines", "training", "warm-up", "search", "decision", "tune", "test")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run without probes and diagnosis, and what it said."""
    folder = tmp_path_factory.mktemp("bare")
    log = io.StringIO()
    recipe = load_recipe(write_run(folder))
    fit(recipe, probe=False, diagnosis=False, console=Console(file=log, width=60))
    return folder, log.getvalue()


def test_a_log_has_one_line_for_every_phase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", str(write_run(tmp_path))])
    # A machine that is busy has lines of phases that last, too.
    ends = re.compile(r"; [\d.]+ (s|min|h)$|^(training|decision): ")
    lines = [line for line in capsys.readouterr().out.splitlines() if ends.search(line)]
    for name in (*PHASES, "diagnosis"):
        assert sum(line.startswith(f"{name}: ") for line in lines) == 1, name
    told = {line.split(":")[0]: line for line in lines if ": " in line}
    assert re.search(r"[\d,]+ of [\d,]+ adapter parameters are kept; mean validation", told["decision"])
    assert re.search(r"best mean validation score \d\.\d{3}", told["tune"])
    assert "3 tasks, 288 training rows" in told["prepare"]
    assert "adapters closed one by one on" in told["diagnosis"]
    stored = json.loads((tmp_path / "out/report.json").read_text())["parameters"]["stored"]
    assert f"decision: {stored:,} of " in told["decision"]


def test_what_is_left_out_is_in_no_report(bare: tuple[Path, str]) -> None:
    folder, log = bare
    report = json.loads((folder / "out/report.json").read_text())
    assert "diagnosis" not in report
    assert all("linear_probe" not in task and "majority" in task for task in report["tasks"].values())
    assert "diagnosis: " not in log
    assert "linear probe" not in log
    assert "majority" in log


def test_the_weights_do_not_depend_on_it(bare: tuple[Path, str], tmp_path: Path) -> None:
    recipe = load_recipe(bare[0] / "recipe.yaml", {"output": str(tmp_path / "whole")})
    fit(recipe, console=Console(quiet=True))
    for name in ("adapter_model.safetensors", "structure.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (bare[0] / "out" / name).read_bytes()


def test_a_quiet_run_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe(write_run(tmp_path))
    capsys.readouterr()
    fit(recipe, console=Console(quiet=True))
    assert capsys.readouterr() == ("", "")


def test_all_commands_read_a_report_without_them(
    bare: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(bare[0] / "out")
    main(["show", out])
    main(["evaluate", out])
    main(["extract", out, "colour", str(tmp_path / "colour")])
    main(["remove-task", out, "same", "-o", str(tmp_path / "two")])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["show", out, "--diagnose"])
    assert "--no-diagnosis" in capsys.readouterr().err


def test_a_task_is_added_without_them(
    bare: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"{word} stone", "label": word} for word in ("red", "blue")] * 24
    for split in ("train", "validation", "test"):
        write_lines(tmp_path / f"data/{split}.jsonl", rows)
    recipe = {
        "tasks": [{"name": "words", "train": str(tmp_path / "data")}],
        "training": recipe_dict(tmp_path)["training"],
    }
    recipe["training"].pop("max_length")
    path = write_recipe(tmp_path, recipe, "task.yaml")
    main(
        [
            "add-task",
            str(bare[0] / "out"),
            str(path),
            "-o",
            str(tmp_path / "four"),
            "--no-probe",
            "--no-diagnosis",
        ]
    )
    told = capsys.readouterr().out
    assert "words: test accuracy" in told
    assert "linear probe" not in told
    report = json.loads((tmp_path / "four/report.json").read_text())
    assert report["additions"][0]["diagnosis"] is None
    assert "linear_probe" not in report["tasks"]["words"]
    add_task(bare[0] / "out", path, tmp_path / "whole", console=Console(quiet=True))
    assert capsys.readouterr() == ("", "")
    main(["show", str(tmp_path / "whole"), "--diagnose"])
    assert "addition of words" in " ".join(capsys.readouterr().out.split())


def test_long_silent_work_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftwork.progress.AFTER", 0.05)
    monkeypatch.setattr("graftwork.progress.EVERY", 0.05)
    log = io.StringIO()
    with phase(Console(file=log), "probes", "embedding texts", 9) as now:
        now.advance(3)
        time.sleep(0.3)
        now.found_out("2 of 3")
    first, *_, last = log.getvalue().splitlines()
    assert first == "probes: embedding texts (3 of 9)"
    assert last == "probes: 2 of 3; 0 s"


def test_a_phase_that_fails_says_nothing_of_its_end() -> None:
    log = io.StringIO()

    def fail() -> None:
        with phase(Console(file=log), "probes", "embedding") as now:
            now.found_out("all")
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        fail()
    assert log.getvalue() == ""


def test_a_terminal_has_a_bar_that_goes() -> None:
    screen = io.StringIO()
    with phase(Console(file=screen, force_terminal=True, width=80), "probes", "embedding", 4) as now:
        now.advance(2)
        time.sleep(0.3)
        now.found_out("done")
    text = screen.getvalue()
    assert "probes: embedding" in text
    assert "2/4" in text
    assert text.endswith("probes: done; 0 s\n")
