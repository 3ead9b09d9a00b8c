"""A training ends when it does not get better any more, counted from the decision of the structure."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from graftwork.errors import Interrupted
from graftwork.fitting.fit import fit
from graftwork.recipe.loading import load_recipe
from graftwork.training.interrupt import InterruptCallback
from graftwork.training.patience import Patience
from toyrun import recipe_dict, write_recipe, write_run

NO_ARGUMENTS: Any = TrainingArguments


def evaluated(patience: Patience, *scores: float) -> list[bool]:
    """Whether the training is to stop after each evaluation."""
    found = []
    for score in scores:
        control = TrainerControl()
        patience.on_evaluate(NO_ARGUMENTS, TrainerState(), control, metrics={"eval_mean": score})
        found.append(control.should_training_stop)
    return found


def test_evaluations_without_gain_are_counted() -> None:
    assert evaluated(Patience(2), 0.5, 0.4, 0.6, 0.6, 0.5) == [False, False, False, False, True]
    assert evaluated(Patience(2), 0.5, float("nan"), float("nan")) == [False, False, True]


def test_zero_waits_for_ever() -> None:
    assert not any(evaluated(Patience(0), *[0.5] * 20))


def test_nothing_counts_before_the_structure_is_decided() -> None:
    search: Any = SimpleNamespace(search=SimpleNamespace(control=object()))
    patience = Patience(1, [search])
    assert evaluated(patience, 0.9, 0.8, 0.7) == [False, False, False]
    search.search.control = None
    assert evaluated(patience, 0.5, 0.5) == [False, True]


def test_the_count_is_in_a_checkpoint() -> None:
    patience = Patience(2)
    evaluated(patience, 0.5, 0.5, 0.5)
    state = TrainerState(global_step=7)
    state.stateful_callbacks = {"Patience": patience.state()}
    again = Patience(2)
    again.on_train_begin(NO_ARGUMENTS, state, TrainerControl())
    assert again.over
    control = TrainerControl(should_save=True, should_evaluate=True)
    again.on_step_end(NO_ARGUMENTS, state, control)
    assert control.should_training_stop
    assert not control.should_save
    assert not control.should_evaluate


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patience")
    write_run(folder)
    values = recipe_dict(folder)
    del values["training"]["epochs"]
    # Four passes of 18 steps; the structure is decided after step 43.
    values["training"] |= {"min_steps": 60, "eval_steps": 6, "patience": 1}
    return write_recipe(folder, values)


def steps(report: dict[str, Any]) -> int:
    return int(sum(phase.get("steps", 0) for phase in report["phases"].values()))


def test_a_run_ends_early_and_is_resumed_to_the_same_model(recipe: Path) -> None:
    whole = load_recipe(recipe)
    report = fit(whole, console=Console(quiet=True))
    assert 43 < steps(report) < 72
    assert report["tasks"]["colour"]["test"] > 0.8
    other = load_recipe(recipe, {"output": str(recipe.parent / "again")})
    original = InterruptCallback.on_step_end

    def stop(self: InterruptCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.requested = self.requested or state.global_step == 50
        original(self, args, state, control, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterruptCallback, "on_step_end", stop)
        with pytest.raises(Interrupted, match="step 50 of"):
            fit(other, console=Console(quiet=True))
    resumed = fit(other, resume=True, console=Console(quiet=True))
    assert steps(resumed) == steps(report)
    for name in ("adapter_model.safetensors", "heads.safetensors", "structure.json"):
        assert Path(whole.output, name).read_bytes() == Path(other.output, name).read_bytes()
