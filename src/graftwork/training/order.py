"""In which order callbacks are called, where it matters.

Trainer calls its callbacks in the order in which they were given. One that relies on what another has done in
the same event says so, and `check_order` looks when a training begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformers import TrainerCallback

from graftwork.errors import TrainingError

__all__ = ["check_order"]

Which = TrainerCallback | type[TrainerCallback]


def check_order(callbacks: Sequence[TrainerCallback]) -> None:
    """Refuse callbacks in an order in which one would act on what another has not done yet.

    A callback may have two attributes: `follows` holds what must come before it, `precedes` what must come
    after it. Either holds callbacks, which must be there, and classes, of which there may be any number.

    Args:
        callbacks: in the order in which they are called.

    Raises:
        TrainingError: names the two.
    """
    for place, callback in enumerate(callbacks):
        before, after = callbacks[:place], callbacks[place + 1 :]
        for wanted in getattr(callback, "follows", ()):
            if _missing(wanted, callbacks) or any(_is(item, wanted) for item in after):
                raise _wrong(_name(wanted), _name(callback))
        for wanted in getattr(callback, "precedes", ()):
            if _missing(wanted, callbacks) or any(_is(item, wanted) for item in before):
                raise _wrong(_name(callback), _name(wanted))


def _is(callback: TrainerCallback, wanted: Which) -> bool:
    return isinstance(callback, wanted) if isinstance(wanted, type) else callback is wanted


def _missing(wanted: Which, callbacks: Iterable[TrainerCallback]) -> bool:
    return not isinstance(wanted, type) and not any(item is wanted for item in callbacks)


def _name(wanted: Which) -> str:
    return wanted.__name__ if isinstance(wanted, type) else type(wanted).__name__


def _wrong(first: str, second: str) -> TrainingError:
    return TrainingError(
        f"{second} relies on what {first} has done before it; give both to the trainer, first {first}, then "
        f"{second}."
    )
