"""Recipes, recipes of added tasks, and grids: whatever stands in the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from guard import case, share
from hypothesis import given
from hypothesis import strategies as st
from strategies import SPECIAL, broken_bytes, broken_trees, scalars, special_files, values

from graftwork.experiments.grid.file import load_grid
from graftwork.recipe.loading import load_recipe, recipe_to_yaml
from graftwork.recipe.recipe import Recipe
from graftwork.recipe.task_recipe import load_task_recipe
from graftwork.tuner.config import GraftConfig

RECIPE: dict[str, Any] = {
    "model": "bert",
    "output": "out",
    "tasks": [
        {"name": "a", "train": "a.jsonl", "labels": ["x", "y"], "max_train": 5, "minimum": {"score": 0.5}},
        {
            "name": "b",
            "train": "package:json/x",
            "text": ["one", "two"],
            "kind": "regression",
            "test": "hub:a/b",
        },
    ],
    "graft": {
        "pool_size": 4,
        "r": 8,
        "budget": 0.01,
        "cost": {"layer.0": 1.5},
        "target_modules": ["dense"],
        "exclude_modules": ".*head",
        "layers_to_transform": [0, 1],
        "task_budget": 0.005,
    },
    "schedule": {"warmup": 0.1, "ramp": 0.4, "discretise": 0.6},
    "training": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "report_to": ["tensorboard"]},
    "budgets": [0.01, 0.003],
    "noise": [{"kind": "keyboard", "ratio": 0.1, "when": "test", "seed": 3}],
    "seed": 1,
}
TASK_RECIPE: dict[str, Any] = {
    "tasks": [{"name": "c", "train": "c.csv"}],
    "extend": {"gates": "sigmoid", "limit": 0.1, "private": 1, "private_budget": 0.01},
    "training": {"epochs": 1},
    "seed": 2,
}
GRID: dict[str, Any] = {
    "model": "bert",
    "tasks": RECIPE["tasks"],
    "methods": ["lora", {"name": "graft", "label": "ours", "graft": {"r": 4}, "vary": {"graft.r": [2, 4]}}],
    "vary": {"budget": [0.01, 0.03], "noise.ratio": [0, 0.1]},
    "noise": [{"kind": "keyboard", "ratio": 0.1}],
    "training": {"epochs": 1},
    "seeds": [0, 1],
    "tune": {"learning_rates": [1e-3, 3e-3], "seeds": [0]},
    "arrangements": ["multi"],
}
LOADERS = {
    "recipe": (load_recipe, RECIPE),
    "task": (load_task_recipe, TASK_RECIPE),
    "grid": (load_grid, GRID),
}
kinds = st.sampled_from(sorted(LOADERS))


def bomb(depth: int = 40, wide: int = 9, merge: bool = False) -> str:
    lines = ["a0: &a0 {x: y}" if merge else "a0: &a0 [x, x]"]
    for i in range(1, depth):
        inner = ", ".join([f"*a{i - 1}"] * wide)
        lines.append(f"a{i}: &a{i} " + (f"{{<<: [{inner}], k{i}: 1}}" if merge else f"[{inner}]"))
    return "\n".join([*lines, f"graft: *a{depth - 1}", f"tasks: *a{depth - 1}", "model: m", "output: o"])


def load(kind: str, path: Path) -> None:
    found = LOADERS[kind][0](path)
    if isinstance(found, Recipe):
        GraftConfig(**found.graft_values())
        recipe_to_yaml(found)


@share(0.35)
@given(data=st.data(), kind=kinds)
def test_a_recipe_with_broken_values(data: st.DataObject, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    tree = data.draw(broken_trees(LOADERS[kind][1]))
    try:
        text = yaml.safe_dump(tree, allow_unicode=True)
    except RecursionError:
        text = json.dumps(tree)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with case("recipes", str(path)):
        load(kind, path)


@share(0.25)
@given(data=st.data(), kind=kinds)
def test_a_recipe_with_broken_bytes(data: st.DataObject, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(data.draw(broken_bytes(yaml.safe_dump(LOADERS[kind][1]).encode())))
    with case("recipes", str(path)):
        load(kind, path)


@share(0.05)
@given(
    key=st.sampled_from(["tasks", "tasks.a", "tasks.a.train", "graft.r", "training", "x.y.z", ".", "seed"]),
    value=values,
)
def test_overrides_of_a_recipe(key: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    with case("recipes", str(path)):
        load_recipe(path, {key: value})


@share(0.05)
@given(field=st.sampled_from(["model", "output", "train", "structure", "cost"]), text=scalars)
def test_names_of_files_in_a_recipe(field: str, text: Any, tmp_path: Path) -> None:
    tree = {**RECIPE, "budgets": []}
    if field == "train":
        tree["tasks"] = [{"name": "a", "train": text}]
    elif field in ("structure", "cost"):
        tree["graft"] = {field: text, "budget": 0.1}
    else:
        tree[field] = text
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")
    with case("recipes", str(path)):
        load_recipe(path)


@pytest.mark.parametrize("how", [how for how in SPECIAL if how != "pipe"])
def test_what_is_no_file(how: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"  # may be a pipe: `graftwork fit <(envsubst < recipe.yaml)`
    special_files(path, how)
    for kind in LOADERS:
        with case("recipes", str(path)):
            load(kind, path)


@pytest.mark.parametrize(
    "text",
    [
        bomb(),
        bomb(merge=True),
        "&a [*a]",
        "graft: &a {r: *a}",
        "tasks: &a [*a, *a]",
        "graft: " + "[" * 100_000,
        "graft: " + "{a: " * 5000,
        "- " * 5000,
        "seed: " + "9" * 5000,
        "seed: 0b",
        "seed: 2020-99-99",
        "seed: 2020-02-30 99:99:99",
        "seed: !!int x",
        "seed: !!float x",
        "model: !!binary '*'",
        "? [a]\n: b",
        "? {a: b}\n: c",
        "model: a\nmodel: b\noutput: o\ntasks: []",
        "!!python/object/apply:os.mknod [x]",
        "model: !!python/name:os.system",
        "model: !x y",
        "%YAML 9.9\n---\na: b",
        "--- a\n--- b",
        "model: =",
        "<<: x",
        "<<: [1]",
        "a: *nothing",
        "x" * 3_000_000,
        "\n".join(f"k{i}: {i}" for i in range(30_000)),
        "seed: 1:99:99:99:99",
        "1: 2",
        "null: 2",
        "2020-01-01: 2",
        ".nan: 2",
    ],
    ids=range(34),
)
def test_yaml_that_is_meant_to_hurt(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    for kind in LOADERS:
        with case("recipes", str(path)):
            load(kind, path)
