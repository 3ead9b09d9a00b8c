"""`Schedule`: when the phases of a run begin."""

from __future__ import annotations

from dataclasses import dataclass

from graftwork.errors import ConfigError

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    r"""When the phases of a run begin, as fractions of all its optimizer steps.

    Between warm-up and ramp the control's strength grows linearly with the progress p of the run:

    .. math::
        \mathrm{ramped}(p) = \mathrm{clip}\left(
            \frac{p - \mathrm{warmup}}{\mathrm{ramp} - \mathrm{warmup}}, 0, 1\right)

    Attributes:
        warmup: until here no sparsity control: adapters first learn to be useful.
        ramp: until here the budget comes down linearly from the whole pool (or the penalty up from 0).
        discretise: here the gates are decided; from here on only weights are tuned.

    Raises:
        ConfigError: the fractions are not in order.

    Source: Xia et al. 2022 (CoFi) for the linear ramp; the phases are ours.

    Example:
        >>> schedule = gw.Schedule(warmup=0.2, ramp=0.4, discretise=0.6)
        >>> [schedule.phase(progress) for progress in (0.1, 0.5, 0.9)]
        ['warm-up', 'search', 'tune']
        >>> round(schedule.ramped(0.3), 6)
        0.5
    """

    warmup: float = 0.15
    ramp: float = 0.5
    discretise: float = 0.6

    def __post_init__(self) -> None:
        """Check the order."""
        if not 0 <= self.warmup <= self.ramp <= self.discretise <= 1:
            raise ConfigError(
                f"schedule warmup={self.warmup:g}, ramp={self.ramp:g}, discretise={self.discretise:g} must "
                "satisfy 0 <= warmup <= ramp <= discretise <= 1."
            )

    def phase(self, progress: float) -> str:
        """`warm-up`, `search` or `tune` at a fraction `progress` of the run."""
        if progress >= self.discretise:
            return "tune"
        return "search" if progress >= self.warmup else "warm-up"

    def ramped(self, progress: float) -> float:
        """0 during warm-up, rising linearly to 1 at the end of the ramp."""
        if progress < self.warmup:
            return 0.0
        if progress >= self.ramp:
            return 1.0
        return (progress - self.warmup) / (self.ramp - self.warmup)
