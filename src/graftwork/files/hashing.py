"""Keys for random choices that depend on what is chosen among, not on its order."""

from __future__ import annotations

import hashlib
import json

__all__ = ["stable_key"]


def stable_key(*parts: str | int | float) -> int:
    """A hash of the parts below 2^63, the same in every process."""
    content = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "big") >> 1
