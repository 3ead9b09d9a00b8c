"""What Ctrl-C says can be run as it stands."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import Command
from graftwork.experiments.running import compare as runner
from graftwork.experiments.running import trial
from graftwork.files import writing as storage
from graftwork.finished.add_task import _Addition
from graftwork.training.interrupt import InterruptCallback
from toyrun import recipe_dict

ADVICE = "Go on with: "


def interrupt(*arguments: object, **options: object) -> None:
    """What Ctrl-C does where nobody listens for it."""
    raise KeyboardInterrupt


def stop(patch: pytest.MonkeyPatch, step: int | None = None) -> None:
    """Ctrl-C in an optimizer step, or in the first there is."""
    original = InterruptCallback.on_step_end

    def on_step_end(self: InterruptCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.heard = self.heard or (type(self) is InterruptCallback and step in (None, state.global_step))
        original(self, args, state, control, **kwargs)

    patch.setattr(InterruptCallback, "on_step_end", on_step_end)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def folder(fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the recipe, the backbone and the data of the toy model."""
    for name in ("backbone", "data", "out"):
        (tmp_path / name).symlink_to(fitted / name)
    recipe = yaml.safe_dump({**recipe_dict(Path()), "output": "nowhere"})
    (tmp_path / "my recipe.yaml").write_text(recipe, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_real_ctrl_c_names_a_command_that_goes_on(folder: Path, command: Command) -> None:
    options = ["--output", "new model", "--seed", "3", "--set", "training.epochs=60"]
    start = [sys.executable, "-m", "graftwork", "fit", "my recipe.yaml", *options]
    with subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        wait_for((folder / "new model.partial/run.json").exists)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    last = errors.splitlines()[-1]
    advice = shlex.split(last.partition(ADVICE)[2])
    assert advice == ["python", "-m", "graftwork", "fit", "my recipe.yaml", *options, "--resume"]
    with pytest.MonkeyPatch.context() as patch:
        stop(patch)  # one step of the rest shows that it goes on
        ended = command(*advice[3:])
    assert ended.code == 130
    assert "interrupted at step " in ended.err


def test_the_advice_repeats_every_option(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = [
        "fit",
        "my recipe.yaml",
        "--output",
        "sub/x",
        "--budgets",
        "0.05,0.02",
        "--set",
        "training.epochs=1",
    ]
    with monkeypatch.context() as patch:
        stop(patch, 3)
        ended = command(*start)
    assert ended.code == 130
    advice = shlex.split(ended.err.strip().splitlines()[-1].partition(ADVICE)[2])
    assert advice == ["graftwork", *start, "--resume"]
    assert command(*advice[1:]).code == 0
    assert sorted(path.name for path in (folder / "sub/x").iterdir()) == ["0.02", "0.05"]


def test_ctrl_c_between_the_steps_says_how_to_go_on_too(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ["fit", "my recipe.yaml", "--output", "x", "--set", "training.epochs=1"]
    with monkeypatch.context() as patch:
        patch.setattr("graftwork.fitting.session.Session.write", interrupt)
        ended = command(*start)
    assert ended.code == 130
    assert ended.err.strip().splitlines()[-1] == (
        "graftwork: interrupted; the unfinished run is in x.partial. Go on with: graftwork "
        f"{shlex.join(start)} --resume"
    )
    assert command(*start, "--resume").code == 0
    with monkeypatch.context() as patch:
        patch.setattr("graftwork.fitting.fit.Session", interrupt)
        ended = command(*start, "--overwrite")
    assert ended.err.strip().splitlines()[-1] == (
        f"graftwork: interrupted; nothing was written. Begin again with: graftwork {shlex.join(start)} "
        "--overwrite"
    )


def test_divergence_names_the_whole_command(folder: Path, command: Command) -> None:
    start = ["fit", "my recipe.yaml", "--output", "x", "--set", "training.epochs=1"]
    ended = command(*start, "--set", "training.learning_rate=1e30")
    assert ended.code == 2
    lower = "--resume --set training.learning_rate=3.3e+29"
    assert ended.err.strip().endswith(f"{ADVICE}graftwork {shlex.join(start)} {lower}")


def test_a_full_disk_names_the_command_that_was_given(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "_sync", full)
    assert command("extract", "out", "colour", "small").message.endswith(
        "make room, and go on with: graftwork extract out colour small"
    )
    start = ["fit", "my recipe.yaml", "--output", "x", "--set", "training.epochs=1"]
    # Nothing is there yet that could be resumed.
    assert command(*start).message.endswith(f"and go on with: graftwork {shlex.join(start)}")
    assert not (folder / "x.partial").exists()


def test_an_added_task_begins_again(folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "task.yaml").write_text("tasks: [{name: hue, train: data/colour}]")
    start = ["add-task", "out", "task.yaml", "-o", "more"]
    message = command(*start, "--set", "training.learning_rate=1e30").message
    assert "Nothing is kept of an added task. Begin again with: graftwork add-task out" in message
    assert message.endswith("--set training.learning_rate=3.3e+29")
    monkeypatch.setattr(_Addition, "train", interrupt)
    ended = command(*start)
    assert ended.code == 130
    assert ended.err.strip().splitlines()[-1] == (
        "graftwork: interrupted; nothing was written, and an added task has no checkpoint to go on from. "
        "Begin again with: graftwork add-task out task.yaml -o more"
    )
    assert not (folder / "more").exists()


def test_a_comparison_goes_on_with_its_own_command(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {key: value for key, value in recipe_dict(Path()).items() if key not in ("output", "graft")}
    grid |= {"methods": ["linear_probe", "heads"], "tune": None, "seeds": [0]}
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid), encoding="utf-8")
    start = ["compare", "grid.yaml", "--results", "my results", "--set", "training.epochs=0.2"]
    original = trial.train_trial

    def fails(run: Any, **options: Any) -> Any:
        if run.method.name == "heads":
            raise ValueError("broken")
        return original(run, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trial, "train_trial", interrupt)
        ended = command(*start)
        assert ended.code == 130
        again = f"graftwork {shlex.join(start)}"
        assert ended.err.strip().endswith(
            f"0 of 2 runs of this stage have a result in my results. {ADVICE}{again}"
        )
        patch.setattr(runner, "_stage", interrupt)
        kept = "interrupted; runs that have ended keep their results."
        assert command(*start).err.strip() == f"graftwork: {kept} {ADVICE}{again}"
    with monkeypatch.context() as patch:
        patch.setattr(trial, "train_trial", fails)
        message = command(*start).message
    assert message.endswith(f"Do them again with: {again} --retry-failed")
    assert command(*shlex.split(message.rpartition("with: graftwork ")[2])).code == 0
