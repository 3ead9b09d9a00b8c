"""The files that Trainer itself reads when a run goes on, checked first.

They are pickles, which Trainer opens with `weights_only=True`: what they ask to run is refused and not run.
Here that, and every other way to be broken, becomes a `CheckpointError` that names the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals

from graftwork.advice import option
from graftwork.errors import CheckpointError, GraftworkError
from graftwork.files.reading import is_finite
from graftwork.messages import shown

__all__ = ["check_trainer_files", "loading"]

STATE = "trainer_state.json"
"""Trainer's file with the step, the log and the state of the callbacks."""
NEEDED = ("optimizer", "scheduler.pt", "rng_state")
"""Beginnings of the names of required files: without them a run goes on differently, and Trainer does not
warn."""
PICKLES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")
"""Trainer's files that are pickles; they are read as numbers only."""


def check_trainer_files(folder: Path) -> None:
    """Refuse a checkpoint whose state files cannot be read as numbers alone.

    Raises:
        CheckpointError: names the file.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no checkpoint {folder}; run without {option('resume')}.")
    names = [path.name for path in folder.iterdir()]
    for needed in NEEDED:
        if not any(name.startswith(needed) for name in names):
            raise CheckpointError(f"{folder} has no {needed}{'*' * ('.' not in needed)}; {_else()}.")
    pickles = sorted(name for name in names if any(map(Path(name).match, PICKLES)))
    for path in [folder / STATE, *(folder / name for name in pickles)]:
        if not path.is_file():
            raise CheckpointError(f"{path} is missing or no file; {_else()}.")
        with loading(path):
            if path.name == STATE:
                _check_state(TrainerState.load_from_json(str(path)))
            else:
                with safe_globals():
                    torch.load(path, map_location="cpu", weights_only=True)


def _else() -> str:
    return f"delete the checkpoint to go on from another, or pass {option('overwrite')} to start anew"


def _check_state(state: TrainerState) -> None:
    """Refuse values that Trainer would trip over in the middle of a step.

    Raises:
        ValueError: names the first.
    """
    whole = {name: getattr(state, name) for name in ("global_step", "max_steps", "num_train_epochs")}
    right = {name: type(value) is int and 0 <= value < 2**53 for name, value in whole.items()}
    right["epoch"] = state.epoch is None or is_finite(state.epoch)
    right["best_metric"] = isinstance(state.best_metric, int | float | None)
    right["best_model_checkpoint"] = isinstance(state.best_model_checkpoint, str | None)
    right["stateful_callbacks"] = isinstance(state.stateful_callbacks, dict)
    right["log_history"] = isinstance(state.log_history, list) and all(
        isinstance(entry, dict) for entry in state.log_history
    )
    for name, good in right.items():
        if not good:
            raise ValueError(f"{name} is {shown(getattr(state, name))}")


@contextmanager
def loading(path: Path) -> Iterator[None]:
    """Turn what Trainer and torch say about a bad file or checkpoint into one line that names it."""
    try:
        yield
    except GraftworkError:
        raise
    except Exception as error:  # unpickling raises anything at all
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path} cannot be used to go on ({type(error).__name__}: {reason[:200]}); {_else()}."
        ) from error
