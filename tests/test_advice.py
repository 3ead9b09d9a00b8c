from __future__ import annotations

import shlex
import sys

import pytest

from graftwork.advice import again, called, commanded, option

LOWER = {"training.learning_rate": "0.003"}


def test_a_command_is_repeated_with_all_that_was_given() -> None:
    given = ["fit", "my recipes/a.yaml", "--output", "out", "--seed", "3", "--set", "tasks.a.text=[b, c]"]
    with commanded(given):
        assert again() == (
            "graftwork fit 'my recipes/a.yaml' --output out --seed 3 --set 'tasks.a.text=[b, c]' --resume"
        )
        assert shlex.split(again()) == ["graftwork", *given, "--resume"]
        assert shlex.split(again(resume=False)) == ["graftwork", *given]
    with commanded(["fit", "r.yaml", "--resume", "--overwrite"]):
        assert again() == "graftwork fit r.yaml --overwrite --resume"
        assert again(resume=False) == "graftwork fit r.yaml --resume --overwrite"


@pytest.mark.parametrize(
    "before", [["--set", "training.learning_rate=1"], ["--set=training.learning_rate=1"]]
)
def test_a_changed_setting_takes_the_place_of_the_one_given(before: list[str]) -> None:
    with commanded(["fit", *before, "r.yaml", "--set", "training.epochs=2"]):
        assert again(changes=LOWER) == (
            "graftwork fit r.yaml --set training.epochs=2 --resume --set training.learning_rate=0.003"
        )


def test_only_what_can_go_on_is_resumed() -> None:
    with commanded(["add-task", "model", "r.yaml", "-o", "out"]):
        assert again() == "graftwork add-task model r.yaml -o out"
    with commanded(["compare", "grid.yaml", "--jobs", "2"]):
        assert again() == "graftwork compare grid.yaml --jobs 2"
        assert again("retry_failed") == "graftwork compare grid.yaml --jobs 2 --retry-failed"


def test_from_python_it_is_the_call() -> None:
    assert again() == "the same call"
    assert again(changes=LOWER) == "the same call with training.learning_rate: 0.003 in the recipe"
    with called("fit", "recipe", overwrite=True, console=None):
        with called("save_model"):  # of what the first one does
            assert again() == "fit(recipe, overwrite=True, resume=True)"
        lower = "fit(recipe, overwrite=True, resume=True) with training.learning_rate: 0.003 in the recipe"
        assert again(changes=LOWER) == lower
        assert option("retry_failed") == "retry_failed=True"
    with commanded(["fit", "r.yaml"]), called("fit", "recipe"):
        assert again() == "graftwork fit r.yaml --resume"
        assert option("retry_failed") == "--retry-failed"
    assert option("resume") == "resume=True"


def test_the_program_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/graftwork/__main__.py"])
    with commanded(["fit", "r.yaml"]):
        assert again() == "python -m graftwork fit r.yaml --resume"
        monkeypatch.setenv("LOCAL_RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert again() == "python -m graftwork fit r.yaml --resume  # under the same launcher"
