"""Labels that are equal as integers: what is trained, saved and scored must not depend on hashing."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graftwork.errors import CheckpointError
from graftwork.models.backbone import load_backbone
from graftwork.models.folder import load_weights
from graftwork.models.manifest import read_tasks_file
from graftwork.models.multitask import MultiTaskModel
from toyrun import WORDS, recipe_dict, write_backbone, write_lines, write_recipe

SEEDS = ("0", "1")
"""Of Python's hashing: a set of `7` and `07` comes in one order and the other."""
VOLATILE = ("phases", "memory_peak_bytes", "started", "git", "recipe")


def write_labels(folder: Path) -> dict[str, Any]:
    """One task of 140 rows in one file, so that its validation and test rows are split off."""
    draw = random.Random(0)
    rows = [
        {"text": " ".join([*draw.choices(WORDS[3:], k=3), WORDS[i % 3 > 0]]), "label": ("07", "7")[i % 3 > 0]}
        for i in range(140)
    ]
    write_lines(folder / "rows.jsonl", rows)
    write_backbone(folder / "backbone")
    recipe = recipe_dict(folder)
    recipe["tasks"] = [{"name": "number", "train": str(folder / "rows.jsonl")}]
    recipe["training"]["epochs"] = 2
    return recipe


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {key: value for key, value in report.items() if key not in VOLATILE}


def test_nothing_depends_on_hashing(tmp_path: Path) -> None:
    recipe = write_labels(tmp_path)
    runs = []
    for seed in SEEDS:
        file = write_recipe(tmp_path, {**recipe, "output": str(tmp_path / seed)}, f"{seed}.yaml")
        command = [sys.executable, "-m", "graftwork", "fit", str(file)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        runs.append(subprocess.Popen(command, env=environment, stdout=-3, stderr=subprocess.PIPE, text=True))
    for run in runs:
        _, said = run.communicate(timeout=300)
        assert run.returncode == 0, said
    first, second = (tmp_path / seed for seed in SEEDS)
    names = sorted(path.name for path in first.iterdir() if path.suffix in (".json", ".safetensors"))
    assert {"adapter_config.json", "heads.safetensors", "tasks.json"} <= set(names)
    for name in names:
        if name == "report.json":
            assert report_of(first) == report_of(second)
        else:
            assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert read_tasks_file(first)["tasks"][0].labels == ("07", "7")


def test_a_run_cannot_go_on_with_classes_in_another_order(tmp_path: Path, fitted: Path) -> None:
    """A checkpoint of a version that ordered `7` and `07` by chance."""
    heads = read_tasks_file(fitted / "out")["tasks"]
    tasks = json.loads((fitted / "out/tasks.json").read_text(encoding="utf-8"))
    tasks["tasks"][0]["labels"].reverse()
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    (checkpoint / "tasks.json").write_text(json.dumps(tasks), encoding="utf-8")
    model = MultiTaskModel(load_backbone(str(fitted / "backbone"))[0], heads)
    with pytest.raises(CheckpointError, match="has the classes red, blue for task 'colour', but its data"):
        load_weights(model, checkpoint)
