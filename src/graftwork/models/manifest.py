"""`tasks.json`: what a model folder says of itself beside its weights, and the names of all its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, get_args

from graftwork.distributed.notes import note
from graftwork.errors import CheckpointError, RecipeError
from graftwork.files.places import Given, expand
from graftwork.files.reading import read_json
from graftwork.kinds.heads import TaskHead
from graftwork.messages import listed, shown
from graftwork.models.files import FILES
from graftwork.models.identity import Identity, identity_of
from graftwork.models.pooling import Pooling

if TYPE_CHECKING:
    from torch import nn

    from graftwork.models.multitask import MultiTaskModel

__all__ = [
    "fingerprint",
    "name_backbone",
    "read_tasks_file",
    "row_length",
    "saved_backbone",
    "saved_identity",
    "write_tasks_file",
]

FORMAT = 1
"""Version of `tasks.json`."""
OLD_LENGTH = 128
"""Tokens of a row of models whose folder does not say it: the default of the recipes they were made by."""


def write_tasks_file(model: MultiTaskModel, folder: Path, backbone_name: str) -> None:
    """Write `tasks.json`.

    Args:
        model: what the folder holds.
        folder: the folder.
        backbone_name: as it is to be written there.
    """
    identity = identity_of(model.backbone)
    description = {
        "format": FORMAT,
        "model": backbone_name,
        "backbone": {**fingerprint(model.backbone), **({} if identity is None else identity.as_dict())},
        "pooling": model.pooling,
        "max_length": model.max_length,
        **({"causal": True} if model.causal else {}),
        "tasks": [head.as_dict() for head in model.heads.heads],
    }
    (folder / FILES.tasks).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def fingerprint(backbone: nn.Module) -> dict[str, Any]:
    """What two backbones must have in common for an adapter to fit both."""
    config = backbone.config
    return {"model_type": config.model_type, "hidden_size": getattr(config, "hidden_size", None)}  # type: ignore[union-attr]


def read_tasks_file(folder: Path) -> dict[str, Any]:
    """The contents of `tasks.json`, with `tasks` as heads; `max_length` is None if it is missing.

    Raises:
        CheckpointError: the folder is not a saved model.
    """
    path = folder / FILES.tasks
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a model saved by `graftwork fit`: it has no {FILES.tasks}.")
    try:
        found = read_json(path)
        if found["format"] != FORMAT:
            raise CheckpointError(f"{path} has format {shown(found['format'])}; this version reads {FORMAT}.")
        heads = [TaskHead.from_dict(head) for head in found["tasks"]]
        described = {**{key: found[key] for key in ("model", "backbone", "pooling")}, "tasks": heads}
        described["max_length"] = found.get("max_length")
        described["causal"] = found.get("causal", False) is True
    except CheckpointError as error:
        raise CheckpointError(
            str(error) if str(path) in str(error) else f"{path} is damaged: {error}."
        ) from error
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {shown(str(error))}.") from error
    _check(described, path)
    return described


def _check(described: Mapping[str, Any], path: Path) -> None:
    """Refuse values that no model folder has."""
    heads = described["tasks"]
    if not heads or described["pooling"] not in get_args(Pooling):
        raise CheckpointError(
            f"{path} is damaged: it has {len(heads)} tasks and the pooling {shown(described['pooling'])}; at "
            f"least one task and one of {', '.join(get_args(Pooling))} are needed."
        )
    names = [head.name for head in heads]
    if len(set(names)) < len(names):
        raise CheckpointError(f"{path} is damaged: it has a task twice ({listed(names)}).")
    if len({head.reads for head in heads}) > 1:
        raise CheckpointError(f"{path} is damaged: some of its tasks read texts, others images.")
    if not isinstance(described["model"], str) or not isinstance(described["backbone"], dict):
        raise CheckpointError(f"{path} is damaged: model must be a string, and backbone a mapping.")
    length = described["max_length"]
    if length is not None and not _is_length(length):
        raise CheckpointError(
            f"{path} is damaged: max_length={shown(length)} must be a whole number of at least 1."
        )
    checksum, missing = described["backbone"].get("sha256"), described["backbone"].get("missing", [])
    if not isinstance(checksum, str | None) or not (
        isinstance(missing, list) and all(isinstance(name, str) for name in missing)
    ):
        raise CheckpointError(f"{path} is damaged: the checksum of the backbone is {shown(checksum)}.")


def _is_length(value: object) -> TypeGuard[int]:
    """Whether a value can be the tokens of a row; tokenizers count in 32 bits."""
    return type(value) is int and 1 <= value < 2**31


def saved_identity(described: Mapping[str, Any]) -> Identity | None:
    """The identity of the backbone of a saved model, from `read_tasks_file`; None if it is missing."""
    backbone = described["backbone"]
    if backbone.get("sha256") is None:
        return None
    return Identity(backbone["sha256"], tuple(backbone.get("missing", ())))


def row_length(folder: Path, described: Mapping[str, Any]) -> int:
    """Tokens of a row: of `tasks.json`, else of the recipe beside it, else `OLD_LENGTH`, with a note."""
    if described["max_length"] is not None:
        return int(described["max_length"])
    from graftwork.files.yaml_file import read_yaml

    path = folder / FILES.recipe
    try:
        training = read_yaml(path).get("training") if path.is_file() else None
    except RecipeError:
        training = None
    length = training.get("max_length") if isinstance(training, dict) else None
    if _is_length(length):
        return length
    note(f"{folder} does not say how many tokens of a row it was trained on; rows are cut at {OLD_LENGTH}.")
    return OLD_LENGTH


def saved_backbone(folder: Path, backbone: str | None = None) -> Given:
    """The backbone of a saved model: where it is for this process, and what the folder says.

    Args:
        folder: the model.
        backbone: where it is now, in place of what the folder says.

    Raises:
        CheckpointError: the folder is not a saved model, or names an environment variable that is not set.
    """
    name = read_tasks_file(folder)["model"]
    if backbone is not None:
        return Given(str(backbone), str(backbone))
    faults: list[str] = []
    place = expand(name, folder, "its backbone", faults)
    if faults:
        raise CheckpointError(f"{folder}: {faults[0]}; or say where the backbone is with --backbone.")
    return Given(place, name, folder)


def name_backbone(folder: Path, backbone_name: str) -> None:
    """Put the backbone's name, as it is stored, into the files that PEFT has written: it writes paths.

    Args:
        folder: the model folder.
        backbone_name: as it is to be written.
    """
    for path in folder.rglob(FILES.adapter_config):
        config = {**read_json(path), "base_model_name_or_path": backbone_name or None}
        path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
