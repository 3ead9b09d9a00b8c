"""What a user should know though nothing has failed: one line on standard error."""

from __future__ import annotations

import functools
import sys

from graftwork.distributed.processes import is_main

__all__ = ["note", "note_once"]


def note(text: str) -> None:
    """Tell the user, in one line whatever the number of processes; results go to standard output."""
    if is_main():
        print(f"note: {' '.join(text.split())}", file=sys.stderr)


@functools.cache
def note_once(text: str) -> None:
    """The same, but each text only once in this process."""
    note(text)
