"""Checkpoints of an unfinished run, which `fit --resume` goes on from: Trainer's own files are pickles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from guard import case, share
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from strategies import SPECIAL, broken_bytes, broken_trees, pickle_bomb, special_files

from graftwork.errors import CheckpointError, Interrupted, TrainingError
from graftwork.fitting.fit import fit
from graftwork.recipe.loading import load_recipe
from graftwork.recipe.recipe import Recipe
from graftwork.search.callback import StructureCallback
from graftwork.search.search import StructureSearch
from graftwork.training.checkpoints import MANIFEST, check_trainer_files, publish
from graftwork.training.interrupt import InterruptCallback
from toyrun import recipe_dict, write_recipe
from toys import grafted

QUIET = Console(file=StringIO())
STATES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
EVERY = (*STATES, "adapter_model.safetensors", "heads.safetensors")


@pytest.fixture(scope="module")
def unfinished(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A recipe, and the folder of its run, interrupted in the search; never to be changed."""
    folder = tmp_path_factory.mktemp("unfinished")
    settings = {**recipe_dict(trained), "output": str(folder / "out")}
    settings["training"]["epochs"] = 1
    recipe = load_recipe(write_recipe(folder, settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterruptCallback, "on_step_end", _stop_at(7, InterruptCallback.on_step_end))
        with pytest.raises(Interrupted):
            fit(recipe, console=QUIET)
    return recipe, folder / "out.partial"


def _stop_at(step: int, original: Callable[..., None]) -> Callable[..., None]:
    def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.requested = state.global_step >= step
        original(self, args, state, control, **kwargs)

    return on_step_end


def copy_run(unfinished: tuple[Recipe, Path]) -> Path:
    """A fresh copy in the place where the recipe's run is looked for; returns its checkpoint."""
    work = unfinished[1]
    kept = work.with_name("kept")
    if not kept.exists():
        shutil.copytree(work, kept)
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(kept, work)
    shutil.rmtree(work.with_name("out"), ignore_errors=True)
    return next(work.glob("checkpoint-*"))


def signed(checkpoint: Path) -> None:
    """Give a changed checkpoint a manifest that fits it, as somebody who means harm would."""
    staged = checkpoint.rename(checkpoint.with_name("staged"))
    (staged / MANIFEST).unlink()
    publish(staged, checkpoint)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth"])
def test_a_payload_in_a_checkpoint_is_refused_and_not_run(
    name: str, zipped: bool, unfinished: tuple[Recipe, Path]
) -> None:
    checkpoint = copy_run(unfinished)
    pickle_bomb(checkpoint / name, zipped=zipped)
    with case("checkpoints", name), pytest.raises(CheckpointError, match=name):
        check_trainer_files(checkpoint)


def test_a_run_does_not_go_on_from_a_payload(unfinished: tuple[Recipe, Path]) -> None:
    checkpoint = copy_run(unfinished)
    pickle_bomb(checkpoint / "optimizer.pt")
    with pytest.raises(TrainingError, match=r"no checkpoint in .* is whole \(.*optimizer\.pt"):
        fit(unfinished[0], resume=True, console=QUIET)
    signed(checkpoint)
    with case("resumed runs"), pytest.raises(CheckpointError, match=r"optimizer\.pt"):
        fit(unfinished[0], resume=True, console=QUIET)


@pytest.mark.slow
def test_a_payload_beside_the_checkpoint_is_not_looked_at(unfinished: tuple[Recipe, Path]) -> None:
    checkpoint = copy_run(unfinished)
    for name in ("training_args.bin", "pytorch_model.bin", "adapter_model.bin"):
        pickle_bomb(checkpoint / name)
    with case("resumed runs"):
        fit(unfinished[0], resume=True, console=QUIET)


SWAPS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "a number": ("optimizer.pt", lambda state: 3),
    "no groups": ("optimizer.pt", lambda state: {**state, "param_groups": []}),
    "other groups": ("optimizer.pt", lambda state: {**state, "param_groups": [{"params": [0, 1]}] * 9}),
    "no state": ("optimizer.pt", lambda state: {"param_groups": state["param_groups"]}),
    "a list": ("scheduler.pt", lambda state: [state]),
    "nothing": ("rng_state.pth", lambda state: {}),
    "short": ("rng_state.pth", lambda state: {**state, "cpu": torch.zeros(3, dtype=torch.uint8)}),
    "text": ("rng_state.pth", lambda state: {**state, "python": "x"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", SWAPS)
def test_numbers_of_another_form_are_refused(how: str, unfinished: tuple[Recipe, Path]) -> None:
    checkpoint = copy_run(unfinished)
    name, change = SWAPS[how]
    state = torch.load(checkpoint / name, weights_only=False)
    torch.save(change(state), checkpoint / name)
    signed(checkpoint)
    with case("resumed runs", str(checkpoint)), pytest.raises(CheckpointError):
        fit(unfinished[0], resume=True, console=QUIET)


@pytest.mark.slow
@share(0.01)
@given(data=st.data())
def test_a_broken_state_of_the_search(data: st.DataObject, unfinished: tuple[Recipe, Path]) -> None:
    path = copy_run(unfinished) / "trainer_state.json"
    state = json.loads(path.read_text())
    callback = state["stateful_callbacks"]["StructureCallback"]
    callback["attributes"] = data.draw(broken_trees(callback["attributes"]))
    path.write_text(json.dumps(state))
    signed(path.parent)
    with case("resumed runs"):
        fit(unfinished[0], resume=True, console=QUIET)


def searching() -> StructureSearch:
    """A search that has done half of its steps."""
    search = StructureSearch(grafted(gates="hard_concrete", budget=300), total_steps=10)
    search.begin(0.01)
    for step in range(4):
        search.before_step(step)
        search.after_step(step + 1)
    return search


@pytest.mark.parametrize("decided", [False, True])
@share(0.06)
@given(data=st.data())
def test_a_search_that_goes_on_from_a_broken_state(data: st.DataObject, decided: bool) -> None:
    search = searching()
    for step in range(4, 10 if decided else 4):
        search.before_step(step)
        search.after_step(step + 1)
    state = {"search_state": search.state(), "phases": {"search": {"seconds": 0.5, "steps": 3}}}
    broken = data.draw(broken_trees(json.loads(json.dumps(state))))
    with case("checkpoints"):
        callback, again = StructureCallback(), searching()
        callback._resume(again, broken)
        for step in range(4, 10):
            again.before_step(step)
            again.after_step(step + 1)
            again.figures()
        json.dumps({**callback.phases, **again.state()})


@share(0.08)
@given(data=st.data(), name=st.sampled_from(STATES))
def test_broken_files_of_trainer(data: st.DataObject, name: str, unfinished: tuple[Recipe, Path]) -> None:
    checkpoint = copy_run(unfinished)
    (checkpoint / name).write_bytes(data.draw(broken_bytes((checkpoint / name).read_bytes())))
    with case("checkpoints", name):
        check_trainer_files(checkpoint)


@pytest.mark.slow
@share(0.03)
@given(name=st.sampled_from(EVERY), how=st.sampled_from(SPECIAL))
def test_what_is_no_file_in_a_checkpoint(name: str, how: str, unfinished: tuple[Recipe, Path]) -> None:
    checkpoint = copy_run(unfinished)
    special_files(checkpoint / name, how)
    with case("resumed runs"), pytest.raises((CheckpointError, TrainingError), match=name.split(".")[0]):
        fit(unfinished[0], resume=True, console=QUIET)
