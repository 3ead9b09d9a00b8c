"""What a user should know though nothing has failed: one line on standard error, each once."""

from __future__ import annotations

import functools
import logging

__all__ = ["note_once"]

_LOG = logging.getLogger(__name__)


@functools.cache
def note_once(text: str) -> None:
    """Tell the user, through the logger of this module, but no text a second time in this process."""
    _LOG.warning("note: %s", text)
