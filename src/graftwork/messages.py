"""How values and names of a user are told in messages."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable

__all__ = ["did_you_mean", "duration", "listed", "mended", "near_misses", "shown"]

_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 4, 100, 100
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = _REPR.maxset = 8


def shown(value: object) -> str:
    """`repr` for messages: cut to a size that can be read, and that no value can blow up."""
    try:
        text = _REPR.repr(value)
    except ValueError:  # Python refuses to print whole numbers of more than 4,300 digits
        return f"a {type(value).__name__} too long to print"
    return text if len(text) <= 300 else f"{text[:150]}...{text[-100:]}"


def listed(parts: Iterable[object], most: int = 10) -> str:
    """Names in one line, the first `most` of them, each cut to 60 characters."""
    names = [str(part) for part in parts]
    short = [name if len(name) <= 60 else f"{name[:57]}..." for name in names[:most]]
    return ", ".join(short) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def mended(text: str) -> str:
    """The text with U+FFFD for half of a surrogate pair: JSON can carry one, no file or tokenizer can."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def near_misses(name: object, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names that look like this one, the nearest first.

    Args:
        name: what was given.
        known: what is allowed.
        most: how many to return.
        cutoff: how alike they must be, from 0 to 1 (`difflib.SequenceMatcher.ratio`).
    """
    return difflib.get_close_matches(str(name), list(known), n=most, cutoff=cutoff)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: `; did you mean 'NEAR'?`, or a full stop."""
    near = near_misses(name, known)
    return f"; did you mean {near[0]!r}?" if near else "."


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
