"""Checkpoints that are whole or absent, and the last one that a run can go on from.

Trainer writes a checkpoint file by file under its final name. Here it gets that name when all of it is
written and flushed, with a list of its files and their digests (`manifest.json`), so that later damage is
noticed.

The files that Trainer itself reads when a run goes on are pickles, which it opens with `weights_only=True`:
what they ask to run is refused and not run. Here that, and every other way to be broken, becomes a
`CheckpointError` that names the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerState
from transformers.trainer_pt_utils import safe_globals
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints, sort_checkpoints

from graftwork.advice import option
from graftwork.errors import CheckpointError, DivergenceError, GraftworkError
from graftwork.files.reading import is_finite
from graftwork.files.writing import storage_errors, sync_folder
from graftwork.messages import shown
from graftwork.models.folder import load_weights, save_model
from graftwork.models.multitask import MultiTaskModel
from graftwork.search.divergence import diverged

__all__ = [
    "STAGING",
    "CheckpointingTrainer",
    "check_trainer_files",
    "fault_of",
    "last_checkpoint",
    "loading",
    "publish",
    "remove_faulty",
    "step_of",
]

MANIFEST = "manifest.json"
"""File with the sizes and checksums of all other files of a checkpoint."""
STAGING = ".new"
"""Folder beside the checkpoints in which a checkpoint is written before it gets its name."""
STATE = "trainer_state.json"
"""Trainer's file with the step, the log and the state of the callbacks."""
NEEDED = ("optimizer", "scheduler.pt", "rng_state")
"""Beginnings of the names of required files: without them a run goes on differently, and Trainer does not
warn."""
PICKLES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")
"""Trainer's files that are pickles; they are read as numbers only."""


def publish(staged: Path, final: Path) -> None:
    """Give a checkpoint that is completely written its manifest and its name, even if that is taken."""
    files = {path.name: _describe(path) for path in sorted(staged.iterdir()) if path.is_file()}
    (staged / MANIFEST).write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")
    sync_folder(staged)
    if final.exists():  # `last_checkpoint` found it faulty, or it is of another run
        shutil.rmtree(final)
    staged.rename(final)
    sync_folder(final)


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as content:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}


def fault_of(checkpoint: Path) -> str | None:
    """What keeps a run from going on with a checkpoint; None if nothing does."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, written in files.items():
            path = checkpoint / name
            # A device or a pipe has no end, and a file of another size needs no digest.
            regular = path.is_file() and path.stat().st_size == written["bytes"]
            if path.exists() and not (regular and _describe(path) == written):
                return f"its {name} is not as it was written"
            path.stat()  # says that it is missing
        best = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["best_model_checkpoint"]
    except FileNotFoundError as error:
        return f"it has no {Path(error.filename).name}"
    except OSError as error:
        return f"its {Path(error.filename or checkpoint).name} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it cannot be read ({type(error).__name__})"
    if (
        best is not None
        and Path(best).name != checkpoint.name
        and (fault := fault_of(Path(best))) is not None
    ):
        return f"of the best checkpoint until then, {best}: {fault}"
    return None


def last_checkpoint(folder: Path) -> tuple[Path | None, dict[str, str]]:
    """The newest whole checkpoint of a folder, and what is wrong with those that are newer."""
    faults: dict[str, str] = {}
    for path in map(Path, reversed(sort_checkpoints(str(folder)))):
        fault = fault_of(path)
        if fault is None:
            return path, faults
        faults[path.name] = fault
    return None, faults


def remove_faulty(folder: Path) -> None:
    """Remove what a run that was killed left half-written or half-removed; Trainer would count it."""
    shutil.rmtree(folder / STAGING, ignore_errors=True)
    for path in map(Path, sort_checkpoints(str(folder))):
        if fault_of(path) is not None:
            shutil.rmtree(path, ignore_errors=True)


def step_of(checkpoint: Path | None) -> int:
    """The optimizer step of a checkpoint; 0 for none."""
    return 0 if checkpoint is None else int(checkpoint.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-"))


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


class CheckpointingTrainer(Trainer):
    """Trainer whose checkpoints hold adapters and heads instead of the backbone, and are whole or absent.

    A run may go on with other learning rates than those of its checkpoint.

    Attributes:
        backbone_name: what to write into checkpoints as the backbone's name.
    """

    model: MultiTaskModel
    backbone_name = ""
    _staging: Path | None = None
    """The folder in which a checkpoint is being written."""

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Trainer's, under a temporary name until all of it is written."""
        folder, step = Path(self._get_output_dir(trial)), self.state.global_step
        name = f"{PREFIX_CHECKPOINT_DIR}-{step}"
        final, staged = folder / name, folder / STAGING / name
        if self.args.should_save:
            shutil.rmtree(folder / STAGING, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._staging = folder / STAGING
        try:
            with storage_errors(f"the checkpoint of step {step}", folder):
                super()._save_checkpoint(model, trial)
                if self.state.best_model_checkpoint == str(staged):
                    self.state.best_model_checkpoint = str(final)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    self.state.save_to_json(str(staged / "trainer_state.json"))
                    publish(staged, final)
            self.accelerator.wait_for_everyone()
        except DivergenceError as error:
            raise diverged(step, str(error).rstrip(".")) from None
        finally:
            self._staging = None
            if self.args.should_save:
                shutil.rmtree(folder / STAGING, ignore_errors=True)
        if self.args.push_to_hub:
            super()._push_from_checkpoint(str(final))
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(folder), self.args.save_total_limit, best, use_mtime=True)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Not from the temporary name; `_save_checkpoint` pushes."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Trainer's, with the learning rates of this run if they are not those of the checkpoint."""
        optimizer: Any = self.optimizer
        scheduler: Any = self.lr_scheduler
        rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        with loading(Path(checkpoint or ".")):
            super()._load_optimizer_and_scheduler(checkpoint)
        loaded = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        factors = getattr(scheduler, "lr_lambdas", None)
        if checkpoint is None or rates == loaded or factors is None:
            return
        scheduler.base_lrs = list(rates)
        for group, rate, factor in zip(optimizer.param_groups, rates, factors, strict=True):
            group["initial_lr"], group["lr"] = rate, rate * factor(scheduler.last_epoch)
        scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        place = folder if self._staging is None else self._staging.parent / folder.name
        model = self.accelerator.unwrap_model(self.model)
        save_model(model, folder, backbone_name=self.backbone_name, place=place)

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trainer's training, after a look at the files that it would go on from.

        Raises:
            CheckpointError: one of them is damaged, or holds more than numbers.
        """
        if isinstance(resume_from_checkpoint, str | os.PathLike):
            check_trainer_files(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with loading(Path(checkpoint or ".")):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with loading(Path(checkpoint or ".")):
            super()._load_rng_state(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        load_weights(self.model, Path(str(self.state.best_model_checkpoint)))
