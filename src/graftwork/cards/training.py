"""What a card says of the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graftwork.cards.markdown import code

__all__ = ["training_lines"]

_SHOWN = {
    "graft": ("budget", "penalty", "pool_size", "r", "scale", "gates", "placement", "position", "activation"),
    "training": (
        "epochs",
        "patience",
        "batch_size",
        "learning_rate",
        "head_learning_rate",
        "weight_decay",
        "max_length",
        "pooling",
    ),
}
"""Section of a recipe -> the settings that are named; the rest is in `recipe.yaml`."""
_VERSIONS = ("graftwork", "torch", "transformers", "peft")


def training_lines(report: Mapping[str, Any]) -> list[str]:
    """The section, or nothing if there is no report.

    Args:
        report: the contents of `report.json`.
    """
    recipe, versions = report.get("recipe", {}), report.get("versions", {})
    if not recipe:
        return []
    lines = []
    for section, names in _SHOWN.items():
        values = recipe.get(section) or {}
        given = [f"{name} {_value(values[name])}" for name in names if values.get(name) is not None]
        if given:
            lines.append(f"- {section}: {', '.join(given)}")
    lines.append(f"- seed: {report.get('seed')}")
    lines += [
        f"- task {code(str(added.get('task')))} was added later" for added in report.get("additions", [])
    ]
    lines += [
        f"- task {code(str(removed.get('task')))} was removed" for removed in report.get("removals", [])
    ]
    named = ", ".join(f"{name} {versions[name]}" for name in _VERSIONS if name in versions)
    lines += [f"- made with {named}"] if named else []
    return ["## Training", "\n".join(lines) + "\n\n`recipe.yaml` has every setting."]


def _value(value: object) -> str:
    """A setting; not whatever mapping or path may stand in its place."""
    if isinstance(value, bool | int | float):
        return str(value)
    return code(value) if isinstance(value, str) and "/" not in value else "(see there)"
