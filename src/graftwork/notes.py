"""What a user should know though nothing is wrong: one line on standard error."""

from __future__ import annotations

import sys

from graftwork.processes import is_main

__all__ = ["note"]


def note(text: str) -> None:
    """Say it once, whatever the number of processes; results go to standard output, notes do not."""
    if is_main():
        print(f"graftwork: note: {' '.join(text.split())}", file=sys.stderr)
