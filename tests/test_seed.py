"""One seed: the same bits twice. Another seed: other gates, sampling, order of rows and dropout."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import graftwork.gates.hard_concrete
from graftwork.data.sampler import TaskSampler
from graftwork.fitting.fit import fit
from graftwork.fitting.session import Session
from graftwork.recipe.loading import load_recipe
from toyrun import recipe_dict, write_recipe, write_run

FILES = ("adapter_model.safetensors", "heads.safetensors", "structure.json")


class Streams:
    """Everything random that a run draws, as a digest per kind."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.digests = {name: hashlib.sha256() for name in ("gates", "order", "dropout", "weights")}
        noise = graftwork.gates.hard_concrete.shared_logistic
        monkeypatch.setattr(graftwork.gates.hard_concrete, "shared_logistic", self.noted("gates", noise))
        monkeypatch.setattr(TaskSampler, "_order", self.noted("order", TaskSampler._order))
        dropout = torch.nn.functional.dropout

        def drop(
            values: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
        ) -> torch.Tensor:
            found = dropout(values, p, training, inplace)
            if training:
                self.note("dropout", (found == 0).cpu().numpy())
            return found

        monkeypatch.setattr(torch.nn.functional, "dropout", drop)
        build = Session.build

        def noted_build(session: Session, *arguments: Any) -> Any:
            model = build(session, *arguments)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    self.note("weights", parameter.detach().numpy())
            return model

        monkeypatch.setattr(Session, "build", noted_build)

    def noted(self, name: str, draw: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            found = draw(*arguments)
            self.note(name, found.numpy() if isinstance(found, torch.Tensor) else found)
            return found

        return call

    def note(self, name: str, values: Any) -> None:
        self.digests[name].update(values.tobytes())


def run(folder: Path, name: str, seed: int) -> dict[str, Any]:
    """What a run drew, and what it ended with."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        streams = Streams(monkeypatch)
        recipe = load_recipe(folder / "recipe.yaml", {"output": str(folder / name), "seed": seed})
        report = fit(recipe, console=Console(quiet=True))
    drawn = {kind: digest.hexdigest() for kind, digest in streams.digests.items()}
    assert hashlib.sha256().hexdigest() not in drawn.values()  # every kind was drawn
    rows = {task: found["sha256"]["train"] for task, found in report["tasks"].items()}
    return {
        **drawn,
        "sampling": rows["colour"],
        "whole task": rows["same"],
        "result": [(folder / name / file).read_bytes() for file in FILES],
        "scores": {task: found["test"] for task, found in report["tasks"].items()},
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("seeds")
    write_run(folder)
    recipe = recipe_dict(folder)
    recipe["tasks"][0]["max_train"] = 48
    recipe["training"] |= {"epochs": 1, "temperature": 2.0}
    recipe["graft"] |= {"gates": "hard_concrete"}  # which draw noise
    write_recipe(folder, recipe)
    return {name: run(folder, name, seed) for name, seed in (("one", 0), ("same", 0), ("other", 1))}


def test_the_same_seed_gives_the_same_bits(runs: dict[str, dict[str, Any]]) -> None:
    assert runs["same"] == runs["one"]


@pytest.mark.parametrize("kind", ["gates", "order", "dropout", "weights", "sampling", "result"])
def test_another_seed_changes(runs: dict[str, dict[str, Any]], kind: str) -> None:
    assert runs["other"][kind] != runs["one"][kind]


def test_another_seed_leaves_alone_what_is_not_drawn(runs: dict[str, dict[str, Any]]) -> None:
    assert runs["other"]["whole task"] == runs["one"]["whole task"]
