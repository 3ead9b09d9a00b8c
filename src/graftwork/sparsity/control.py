"""`SparsityControl`: what keeps a structure small."""

from __future__ import annotations

from typing import Any, Protocol

from graftwork.tuner.view import GraftView

__all__ = ["SparsityControl"]


class SparsityControl(Protocol):
    """Keeps the structure small: acts on the gates before and after every step of the optimizer.

    `ramped` goes from 0 (warm-up) to 1 (the end of the ramp).
    """

    always: bool
    """True: called at every step until the structure is decided; False: during the search phase."""

    def apply(self, view: GraftView, ramped: float) -> None:
        """Change the gradients of the gates, after clipping and before the optimizer's step."""

    def update(self, view: GraftView, ramped: float) -> None:
        """Adapt after the optimizer's step."""

    def figures(self) -> dict[str, float]:
        """Numbers to log."""

    def state(self) -> dict[str, Any]:
        """JSON form of what must survive a checkpoint."""

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
