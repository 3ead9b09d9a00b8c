"""The full settings of a run, whose hash is its key."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from graftwork.data.sources import locate
from graftwork.data.splits import load_task
from graftwork.data.task import Task
from graftwork.data.task_data import TaskData
from graftwork.errors import DataError
from graftwork.experiments.grid.grid import Trial
from graftwork.experiments.results.store import hash_settings
from graftwork.files.later import settled
from graftwork.files.reading import user_path
from graftwork.files.yaml_file import plain
from graftwork.structure.file import named_file

__all__ = ["load_data", "run_settings"]

ENGINE = "0.1.0"
"""What stands in keys for the code that trains and scores a run. It is raised by hand when the same settings
give other results, and not by a release, so that a release finds all results of before."""
PROBED = ("max_length", "pooling")
"""The settings of `training` that matter to a method without a training loop."""
ANSWERED = (*PROBED, "bf16")
"""The same for one whose language model answers without training."""
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
"""Names of the files that hold the weights of a backbone."""


def load_data(tasks: Sequence[Task], seed: int) -> list[TaskData]:
    """The rows of the tasks."""
    return [load_task(task, seed) for task in tasks]


_version = functools.cache(version)
"""Of a package; a grid asks for it once per run, and it is read from a file."""


@functools.cache
def _model_hash(name: str) -> str | None:
    """Hash of a local model's configuration, vocabulary and weights; None for the name of a hub model."""
    if not (name.startswith(("package:", ".", "/", "~")) or Path(name).exists()):
        return None
    try:
        folder = Path(locate(name))
    except DataError:
        return None  # loading the model says what is wrong, better than a hash could
    digest = hashlib.sha256()
    for pattern in ("config.json", "tokenizer.json", "vocab.txt", "preprocessor_config.json", *WEIGHTS):
        for path in sorted(folder.glob(pattern)):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _hashed(settings: Any) -> dict[str, Any]:
    """Settings without those that came later (`graftwork.files.later`) and are at their default.

    A new setting thus leaves the keys of results that exist as they are.
    """
    return {name: _content(value) for name, value in settled(settings).items()}


def _content(value: Any) -> Any:
    """A hash in place of the path of a file that a setting names: its content matters, not its place."""
    prefix, path = named_file(value) or ("", "")
    file = user_path(path)
    file = file / "structure.json" if file.is_dir() else file
    if not prefix or not file.is_file():
        return value
    return prefix + hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _scored_rows(task: Task) -> dict[str, int]:
    """How many rows are answered for a score, if the grid says so; it is no part of a head."""
    return {} if task.max_generate is None else {"max_generate": task.max_generate}


def run_settings(run: Trial, datas: Sequence[TaskData]) -> dict[str, Any]:
    """What identifies a run: key, group, pair, training_key, and the settings they are hashes of.

    Runs with the same `training_key` differ only in the noise they are tested with: one training serves all.

    Where data lie is no part of the settings, their content is; nor is where a local backbone lies. That is
    in `sources`, as the grid says it.
    """
    digest = _model_hash(run.model)
    model = {"sha256": digest} if digest else {"name": run.model}
    training = _hashed(run.training)
    training.pop("report_to")
    if not run.method.trained:
        training = {key: training[key] for key in (ANSWERED if run.method.writes else PROBED)}
    # What a task is to find out stands for what it finds.
    found = [{"pairs": "auto"} if task.pairs == "auto" else {} for task in run.tasks]
    tasks = [
        {**data.head.as_dict(), **auto, "sha256": data.sha256, **_scored_rows(task)}
        for task, data, auto in zip(run.tasks, datas, found, strict=True)
    ]
    noise = [dataclasses.asdict(item) for item in run.noise]
    packages = {name: _version(name) for name in ("torch", "transformers", "peft")}
    settings: dict[str, Any] = plain(
        {
            "purpose": run.purpose,
            "method": {"name": run.method.name, **_hashed(run.method)},
            "model": model,
            "tasks": tasks,
            "training": training,
            **{name: _hashed(getattr(run, name)) for name in run.method.sections},
            "noise": noise,
            "seed": run.seed,
            "data_seed": run.data_seed,
            "versions": {"graftwork": ENGINE, **packages},
        }
    )
    # The learning rate is each method's own: what is compared is every method at its best.
    shared = {
        "model": model,
        "tasks": tasks,
        "training": {k: v for k, v in (run.shared["training"] or {}).items() if "learning_rate" not in k},
        "noise": run.shared["noise"],
        "data_seed": run.data_seed,
    }
    # Noise at test time, or of no size in the data, leaves the training as it is.
    training_noise = [
        entry
        for entry, item in zip(settings["noise"], run.noise, strict=True)
        if item.when != "test" and (item.ratio or item.target == "model")
    ]
    return {
        "key": hash_settings(settings),
        "purpose": run.purpose,
        "method": run.method.name,
        "label": run.label,
        "seed": run.seed,
        "group": hash_settings(settings, leave_out=("seed",)),
        "pair": hash_settings(plain(shared)),
        "training_key": hash_settings({**settings, "noise": training_noise}),
        "settings": {**settings, "vary": plain(dict(run.vary))},
        "sources": dict(run.sources),
    }
