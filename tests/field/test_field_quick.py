"""Commands as real processes: quick where nothing is trained, and no word of a library on any of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from commands import Command, Ended

HEAVY = ("torch", "peft", "transformers", "datasets", "pandas", "sklearn", "numpy")
LOADED = f"""
import sys
from graftwork.cli import main
code = 0
try:
    main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print("loaded:", *(name for name in {HEAVY} if name in sys.modules))
sys.exit(code)
"""


def process(*arguments: object, stdin: str = "", script: str | None = None) -> Ended:
    start = ["-c", script] if script else ["-m", "graftwork"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        env=environment,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["fit", "--help"], 0),
        (["add-task", "--help"], 0),
        (["fit", "faulty.yaml"], 2),
        (["fit", "tracker.yaml"], 2),
        (["fit", "recipe.yaml", "--set", "graft.gates=hard"], 2),
        (["add-task", "out", "faulty.yaml", "-o", "new"], 2),
        (["show", "out"], 0),
        (["show", "out", "--diagnose"], 0),
        (["show", "nothing"], 2),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else str(given),
)
def test_no_torch_where_nothing_is_trained(
    arguments: list[str], code: int, fitted: Path, tmp_path: Path
) -> None:
    recipe = yaml.safe_load((fitted / "recipe.yaml").read_text())
    (tmp_path / "faulty.yaml").write_text(yaml.safe_dump({**recipe, "graft": {"pool_sise": 3}}))
    (tmp_path / "tracker.yaml").write_text(yaml.safe_dump({**recipe, "training": {"report_to": "wand"}}))
    places = {"recipe.yaml": fitted / "recipe.yaml", "out": fitted / "out"}
    words = [places.get(word, tmp_path / word if word.endswith(".yaml") else word) for word in arguments]
    ended = process(*words, script=LOADED)
    assert ended.code == code, ended.err
    assert ended.out.splitlines()[-1] == "loaded:"
    if code:
        assert ended.message


def test_the_version(command: Command) -> None:
    ended = command("--version")
    assert (ended.code, ended.out.split()[0]) == (0, "graftwork")


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "recipe.yaml", "--output", "NEW", "--set", "training.epochs=1"],
        ["predict", "out", "--task", "colour"],
        *(
            pytest.param(arguments, marks=pytest.mark.slow)
            for arguments in (
                ["evaluate", "out"],
                ["extract", "out", "colour", "NEW"],
                ["export", "out", "NEW"],
                ["remove-task", "out", "colour", "-o", "NEW"],
                ["add-task", "out", "task.yaml", "-o", "NEW"],
                ["compare", "grid.yaml"],
            )
        ),
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_library_says_a_word(arguments: list[str], fitted: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((fitted / "recipe.yaml").read_text())
    task = {"name": "again", "train": str(fitted / "data/colour")}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump({"tasks": [task], "training": {"epochs": 1}}))
    grid = {name: value for name, value in recipe.items() if name != "output"}
    grid |= {"methods": ["lora"], "seeds": [0], "tune": None, "results": str(tmp_path / "new")}
    grid["training"] = {**grid["training"], "epochs": 1}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    places = {"recipe.yaml": fitted / "recipe.yaml", "out": fitted / "out", "NEW": tmp_path / "new"}
    words = [places.get(word, tmp_path / word if word.endswith(".yaml") else word) for word in arguments]
    ended = process(*words, stdin=json.dumps({"text": "river red"}) + "\n")
    assert ended.code == 0, ended.err
    assert ended.err == ""
