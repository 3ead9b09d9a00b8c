"""`Job`: one run of a grid that is to be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graftwork.experiments.grid.grid import Trial

__all__ = ["Job"]


@dataclass(frozen=True)
class Job:
    """A run with its key."""

    run: Trial
    identity: Mapping[str, Any]
    """What `run_settings` says of it, and how its learning rate was chosen."""
    work: float
    """Training rows x epochs."""
    testing: float = 0.0
    """What scoring the test rows once more costs, in the same unit."""
    others: tuple[Job, ...] = ()
    """Runs that the same training serves: they differ in the noise they are tested with."""

    @property
    def key(self) -> str:
        """Name of its file."""
        return str(self.identity["key"])
