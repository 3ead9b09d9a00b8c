"""What a user should know though nothing has failed: one line on standard error."""

from __future__ import annotations

import functools
import logging

from graftwork.processes import is_main

__all__ = ["note", "note_once"]

_LOG = logging.getLogger(__name__)


def note(text: str) -> None:
    """Tell the user, through the logger of this module, in one line whatever the number of processes."""
    if is_main():
        _LOG.warning("note: %s", " ".join(text.split()))


@functools.cache
def note_once(text: str) -> None:
    """The same, but no text a second time in this process."""
    note(text)
