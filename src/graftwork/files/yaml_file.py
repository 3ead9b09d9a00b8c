"""Recipes and their like as YAML files: one mapping, plain values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from graftwork.errors import RecipeError
from graftwork.files.reading import parse_yaml, read_yaml_text

__all__ = ["plain", "read_yaml", "values_to_yaml"]


def read_yaml(path: Path, what: str = "recipe", least: str = "model, tasks and output") -> dict[str, Any]:
    """The mapping in a YAML file.

    Args:
        path: The file.
        what: What the file is, for messages.
        least: What it holds at least, for messages.

    Raises:
        RecipeError: There is no such file, or it holds no mapping.
    """
    try:
        raw = parse_yaml(read_yaml_text(path))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file; give the path of a YAML {what}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: cannot be read as text ({error})") from error
    if not isinstance(raw, dict):
        found = "is empty" if raw is None else f"holds a {type(raw).__name__}"
        raise RecipeError(f"{path}: {found}; a {what} is a mapping with at least {least}")
    return raw


def values_to_yaml(values: Mapping[str, Any]) -> str:
    """The values of a recipe as YAML."""
    return yaml.safe_dump(plain(values), sort_keys=False, allow_unicode=True, width=110)


def plain(value: Any) -> Any:
    """The value with lists in place of tuples and bare strings, as YAML and JSON have them."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, str) else value
