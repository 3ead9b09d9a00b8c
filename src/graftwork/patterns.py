"""Regular expressions from settings and saved configurations, matched in bounded time.

`re` has no time limit, and a pattern such as `((a+)+)+$` takes longer than anybody waits; `regex` has one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import regex

from graftwork.errors import ConfigError
from graftwork.messages import shown

__all__ = ["check_pattern", "matching"]

LONGEST = 10_000
"""Largest length of a pattern, in characters."""
SECONDS = 2.0
"""Limit for one pattern and all names, in seconds of processor time, which `regex` counts; usual ones take a
millisecond."""


def check_pattern(name: str, pattern: str) -> None:
    """Refuse what is no regular expression.

    Args:
        name: of the setting, for the message.
        pattern: its value.

    Raises:
        ConfigError: it is not, or it is longer than 10,000 characters.
    """
    if len(pattern) > LONGEST:
        raise ConfigError(
            f"{name} is a pattern of {len(pattern):,} characters; at most {LONGEST:,} are allowed."
        )
    try:
        regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError, ValueError) as error:
        raise ConfigError(f"{name}={shown(pattern)} is not a regular expression ({error}).") from error


def matching(name: str, pattern: str, candidates: Iterable[str]) -> list[str]:
    """The candidates that a regular expression matches as a whole.

    Args:
        name: of the setting, for messages.
        pattern: its value.
        candidates: names of modules.

    Raises:
        ConfigError: it is no regular expression, or takes longer than two seconds.
    """
    check_pattern(name, pattern)
    end = time.process_time() + SECONDS
    try:
        return [
            text
            for text in candidates
            if regex.fullmatch(pattern, text, timeout=max(1e-3, end - time.process_time())) is not None
        ]
    except TimeoutError:
        raise ConfigError(
            f"{name}={shown(pattern)} takes more than {SECONDS:g} seconds to match the names of the modules; "
            "write it without a repetition inside a repetition."
        ) from None
