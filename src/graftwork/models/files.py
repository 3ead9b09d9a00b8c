"""The files of a saved model, and what can be read of them without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.errors import CheckpointError
from graftwork.files.reading import read_json, read_regular
from graftwork.structure.structure import Structure

__all__ = ["FILES", "read_report", "read_structure"]


@dataclass(frozen=True)
class _Files:
    heads: str = "heads.safetensors"
    tasks: str = "tasks.json"
    adapter_config: str = "adapter_config.json"
    adapter_weights: str = "adapter_model.safetensors"
    report: str = "report.json"
    structure: str = "structure.json"
    picture: str = "structure.png"
    recipe: str = "recipe.yaml"


FILES = _Files()
"""Names of the files in a model folder."""


def read_structure(folder: Path) -> Structure:
    """The structure of a saved model, with the sites and adapters that were closed.

    Raises:
        CheckpointError: the folder holds none, or a damaged one.
    """
    path = folder / FILES.structure
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a model saved by `graftwork fit`: it has no {FILES.structure}."
        )
    try:
        return Structure.from_json(read_regular(path).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def read_report(folder: Path) -> dict[str, Any]:
    """The report of a saved model; empty if it has none.

    Raises:
        CheckpointError: it is damaged.
    """
    path = folder / FILES.report
    if not path.is_file():
        return {}
    try:
        report = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}.") from error
    if not isinstance(report, dict):
        raise CheckpointError(f"{path} is damaged: it holds a {type(report).__name__}, not a mapping.")
    return report
