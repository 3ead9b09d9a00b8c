"""How much one server takes on."""

from __future__ import annotations

from dataclasses import dataclass, fields

from graftwork.errors import ConfigError
from graftwork.files.reading import is_finite
from graftwork.messages import shown

__all__ = ["Limits"]

_FRACTIONS = ("timeout", "wait")


@dataclass(frozen=True)
class Limits:
    """What a server takes on; beyond it requests are refused, or wait.

    Raises:
        ConfigError: a limit is no number above 0 (`wait`: 0 or more).
    """

    batch_rows: int = 64
    """Rows of one pass, counted in its widest layer."""
    batch_tokens: int = 8192
    """Tokens of one pass, padding included; a longer row is a pass of its own."""
    wait: float = 0.002
    """Seconds for which the first row of a batch waits for others while nothing is running."""
    queue: int = 1024
    """Rows of all requests that are not answered yet; a request that would be one too many gets 429."""
    rows: int = 256
    """Rows of one request."""
    characters: int = 100_000
    """Characters of one row, all its fields together."""
    body: int = 2**20
    """Bytes of the body of one request."""
    timeout: float = 30.0
    """Seconds within which a request is read, and then answered."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for field in fields(self):
            value = getattr(self, field.name)
            fraction = field.name in _FRACTIONS
            right = is_finite(value) if fraction else type(value) is int
            least = 0 if field.name == "wait" else 1e-3 if fraction else 1
            if not right or value < least:
                what = "a number of seconds" if fraction else "a whole number"
                raise ConfigError(f"{field.name} is {shown(value)}; give {what} of at least {least:g}.")
        if self.queue < self.rows:
            raise ConfigError(
                f"queue is {self.queue}, less than the {self.rows} rows that one request may have; raise "
                "queue or lower rows."
            )
