"""How values and names of a user are told in messages."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable

__all__ = ["listed", "mended", "shown"]

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
