"""The toy run that is disturbed, and what its end is compared by."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import child

import toyrun

STEPS, SAVED_EVERY = 54, 7
WARM_UP, DECIDED = 8, 32
"""Steps after which the search begins, and the structure is decided."""
SAME = ("adapter_model.safetensors", "heads.safetensors", "structure.json", "tasks.json")
"""Files that must be equal to the byte; of the report, what `outcome` takes."""


def write_toy(folder: Path) -> None:
    """Three tasks, uneven sampling, accumulated gradients, dropout, noise, and checkpoints within epochs."""
    folder.mkdir(parents=True, exist_ok=True)
    toyrun.write_run(folder)
    recipe = toyrun.recipe_dict(Path())
    recipe["training"] |= {
        "eval_steps": SAVED_EVERY,
        "batch_size": 8,
        "gradient_accumulation": 2,
        "temperature": 2.0,
    }
    recipe["noise"] = [
        {"kind": "embeddings", "ratio": 0.1, "when": "both"},
        {"kind": "path_drop", "ratio": 0.2, "when": "train"},
    ]
    toyrun.write_recipe(folder, recipe)


def copy_toy(source: Path, target: Path) -> Path:
    """The same inputs in another folder, without any output."""
    target.mkdir(parents=True)
    for name in ("backbone", "data"):
        shutil.copytree(source / name, target / name)
    shutil.copy(source / "recipe.yaml", target / "recipe.yaml")
    return target


def fit(folder: Path, *options: str, fault: str = "") -> child.Ended:
    """Run `graftwork fit` to its end."""
    return child.run(folder, "fit", "recipe.yaml", *options, fault=fault)


def outcome(folder: Path) -> dict[str, Any]:
    """All that a disturbed run must have in common with an undisturbed one."""
    report = json.loads((folder / "report.json").read_text())
    kept = ("tasks", "parameters", "structure", "soft_size_at_discretise", "noise", "seed")
    gap = report["diagnosis"].get("gap")
    files = {name: (folder / name).read_bytes() for name in SAME}
    return {**files, **{name: report[name] for name in kept}, "gap": gap}


def difference(folder: Path, wanted: dict[str, Any]) -> str:
    """In what an output is not as it should be."""
    found = outcome(folder)
    return ", ".join(name for name in wanted if found[name] != wanted[name])


def left_over(folder: Path, allowed: tuple[str, ...] = ()) -> str:
    """What lies about beside inputs and output."""
    known = {"backbone", "data", "recipe.yaml", "out", *allowed}
    found = sorted(path.name for path in folder.iterdir() if path.name not in known)
    return f"left behind: {', '.join(found)}" if found else ""


def resumed_at(report: Path) -> str:
    """From where the run went on, by its own report."""
    resumed = json.loads(report.read_text())["resumed"]
    return f"step {resumed[-1]['step']}" if resumed else "nothing: it was done"
