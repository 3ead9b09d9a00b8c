"""One run, one file: `RESULTS/<key>.json`, written atomically and named by the hash of the run's settings."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graftwork.errors import DataError
from graftwork.files.reading import read_json, user_path
from graftwork.files.writing import write_text

__all__ = ["FORMAT", "Store", "hash_settings"]

FORMAT = 1
"""Version of the result files."""


def hash_settings(settings: Mapping[str, Any], leave_out: tuple[str, ...] = ()) -> str:
    """First 16 hex digits of the sha256 of the canonical JSON of the settings.

    The canonical form has sorted keys, no white space and no float that is a whole number: a 1 of one file
    and a 1.0 of another are one setting. `vary`, which only says what a grid swept, is never part of it.
    """
    chosen = {key: value for key, value in settings.items() if key not in (*leave_out, "vary")}
    text = json.dumps(_canonical(chosen), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


class Store:
    """The results folder of a grid.

    Args:
        folder: made with the first result.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = user_path(folder)

    def path(self, key: str) -> Path:
        """File of a run."""
        return self.folder / f"{key}.json"

    def read(self, key: str) -> dict[str, Any] | None:
        """The result of a run, or None if it has not ended.

        Raises:
            DataError: the file is no result.
        """
        path = self.path(key)
        try:
            found = read_json(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} cannot be read as a result ({error}); delete it to run it again."
            ) from error
        if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("key") != key:
            raise DataError(f"{path} is no result of format {FORMAT} with this key; move it away.")
        return found

    def write(self, result: Mapping[str, Any]) -> None:
        """Write a result under a temporary name and rename it, so that a file is complete or absent.

        Numbers that are not finite become null, which JSON has.

        Raises:
            DataError: the folder cannot be written.
        """
        path = self.path(str(result["key"]))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(_finite(result), indent=1, allow_nan=False) + "\n")
        except OSError as error:
            raise DataError(f"the result {path} cannot be written: {error.strerror}.") from error

    def results(self) -> Iterator[dict[str, Any]]:
        """All results of the folder, in the order of their keys."""
        for path in sorted(self.folder.glob("*.json")):
            found = self.read(path.stem)
            if found is not None:
                yield found

    def note(self, key: str, vary: Mapping[str, Any], tuning: Mapping[str, Any] | None) -> None:
        """Add to a run that exists what a further grid sweeps, and the tuning that chose its rate last."""
        found = self.read(key)
        if found is None:
            return
        settings = {**found["settings"], "vary": {**found["settings"].get("vary", {}), **vary}}
        noted = {**found, "settings": settings, "tuning": tuning or found.get("tuning")}
        if noted != found | {"tuning": found.get("tuning")}:
            self.write(noted)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
