"""Checkpoints that are whole or absent, and the last one that a run can go on from.

Trainer writes a checkpoint file by file under its final name. Here it gets that name when all of it is
written and flushed, with a list of its files and their digests (`manifest.json`), so that later damage is
noticed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from graftwork.files.writing import sync_folder

__all__ = ["STAGING", "fault_of", "last_checkpoint", "publish", "remove_faulty", "step_of"]

MANIFEST = "manifest.json"
"""File with the sizes and checksums of all other files of a checkpoint."""
STAGING = ".new"
"""Folder beside the checkpoints in which a checkpoint is written before it gets its name."""
STATE = "trainer_state.json"
"""Trainer's file with the step, the log and the state of the callbacks."""


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
