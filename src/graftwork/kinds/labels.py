"""Names of classes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from graftwork.messages import mended, shown

__all__ = ["label_name", "sort_labels"]


def label_name(value: object) -> str:
    """Name a class label: strings are stripped, booleans are `true`/`false`, `1` and `1.0` are `"1"`.

    Raises:
        ValueError: The value is empty, not a number, a fraction, or not a scalar.
    """
    if isinstance(value, str):
        name = value.strip()
        if not name:
            raise ValueError("an empty label")
        return mended(name)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isfinite(value) and value.is_integer():
            return str(int(value))
        raise ValueError(
            f"the label {shown(value)}: classes are strings, integers or booleans; for scores set kind: "
            "regression"
        )
    if value is None:
        raise ValueError("no label (null)")
    raise ValueError(f"a label of type {type(value).__name__}: classes are strings, integers or booleans")


def sort_labels(names: Sequence[str] | set[str]) -> tuple[str, ...]:
    """Sort distinct label names: by value if all are integers, else alphabetically.

    The order is that of the names alone, never that of a set: of integers that are equal, such as `07` and
    `7`, the one that comes first as text is first.
    """
    if all(re.fullmatch(r"-?[0-9]{1,4000}", name) for name in names):  # Python converts up to 4,300 digits
        return tuple(sorted(set(names), key=lambda name: (int(name), name)))
    return tuple(sorted(set(names)))
