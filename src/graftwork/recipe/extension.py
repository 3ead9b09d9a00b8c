"""`Extension`: what a new task may use of a trained model, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

from graftwork.errors import ConfigError, RecipeError
from graftwork.gates.names import gate_traits
from graftwork.recipe.shares import SHARE

__all__ = ["Extension"]


@dataclass(frozen=True)
class Extension:
    """What a new task may use of a trained model, and bring along.

    Raises:
        RecipeError: a value is out of range.

    Example:
        >>> gw.Extension(limit=0.002, private=0)
        Extension(gates='hard_concrete', limit=0.002, private=0, private_budget=None)
        >>> gw.Extension(private=-1)
        Traceback (most recent call last):
            ...
        graftwork.errors.RecipeError: extend: private=-1 must be a whole number of at least 0
    """

    gates: str = "hard_concrete"
    """Gate family that learns the task's path: any but `fixed`. experimental: all but `hard_concrete`."""
    limit: float | None = field(default=None, metadata=SHARE)
    """experimental: parameters of the stored adapters that the task may use, as a fraction of the backbone's
    (`0.2%` or 0.002); null: any."""
    private: int = 1
    """Fresh adapters at every site, for this task alone; 0: it has only what the others have learned."""
    private_budget: float | None = field(default=None, metadata=SHARE)
    """experimental: parameters of the fresh adapters that are kept, as a fraction of the backbone's; null:
    all are kept."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        faults = []
        for name in ("limit", "private_budget"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                faults.append(
                    f"{name}={value!r} must be above 0 and below 1: a fraction of the backbone's parameters"
                )
        if isinstance(self.private, bool) or not isinstance(self.private, int) or self.private < 0:
            faults.append(f"private={self.private!r} must be a whole number of at least 0")
        elif self.private_budget is not None and not self.private:
            faults.append(
                f"private_budget={self.private_budget:g} needs private adapters to choose from; set private "
                "to at least 1"
            )
        try:
            traits = gate_traits(self.gates)
        except ConfigError as error:
            faults.append(str(error).rstrip("."))
        else:
            if not traits.learnable:
                faults.append(f"gates={self.gates!r} learns nothing; name another family")
            elif traits.needs_budget and self.limit is None:
                faults.append(f"gates={self.gates!r} needs a limit")
        if faults:
            raise RecipeError("extend: " + "; ".join(faults))
