"""Writing a card, and never over what somebody has written by hand.

The last line of a card holds a checksum of the rest. A card of which it is right has been written by
graftwork and not been changed since, and may be replaced; any other text is somebody's own.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

from graftwork.distributed.notes import note

__all__ = ["CARD", "is_replaceable", "keep_own_card", "model_name", "signed", "write_card"]

CARD = "README.md"
"""Name of a card."""
OWN = "README.own.md"
"""Name of a text that somebody has written, in a folder that replaces the one it was in."""
_SIGNATURE = re.compile(r"\n<!-- graftwork card ([0-9a-f]{16}) -->\n\Z")
_BLANKS = 30
"""Number of blanks that say a text is PEFT's template, as earlier versions have left it."""


def signed(text: str) -> str:
    """A card with its signature. What UTF-8 cannot hold, such as half of a surrogate pair, becomes `?`."""
    body = text.rstrip("\n").encode("utf-8", "replace").decode("utf-8") + "\n"
    return f"{body}\n<!-- graftwork card {_checksum(body)} -->\n"


def is_replaceable(text: str) -> bool:
    """Whether nobody has written anything into a card: it is ours and unchanged, or PEFT's empty template."""
    found = _SIGNATURE.search(text)
    if found is not None:
        return found[1] == _checksum(text[: found.start()])
    template = "<!-- Provide a quick summary of what the model is/does. -->" in text
    return template and text.count("[More Information Needed]") >= _BLANKS


def write_card(folder: Path, text: str) -> bool:
    """Write a card into a folder, unless it holds one that somebody has written or changed.

    Returns:
        Whether it was written.
    """
    path = folder / CARD
    if path.exists():
        try:
            if not is_replaceable(path.read_text(encoding="utf-8")):
                return False
        except (OSError, UnicodeDecodeError):
            return False
    path.write_text(signed(text), encoding="utf-8")
    return True


def keep_own_card(old: Path, new: Path) -> None:
    """Copy what somebody has written as the card of a folder into the folder that will replace it.

    It says what was true of the old model, and so cannot stand in the new one's place.
    """
    path = old / CARD
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        note(f"{path} cannot be read ({type(error).__name__}), and is not kept.")
        return
    if (old / OWN).is_file():
        shutil.copyfile(old / OWN, new / OWN)
    if text is not None and not is_replaceable(text):
        (new / OWN).write_text(text, encoding="utf-8")
        note(f"{path} was written or changed by hand; it is kept as {OWN} beside the new card.")


def model_name(folder: Path) -> str:
    """The name of a model in a folder, of characters that the hub allows in names."""
    name = re.sub(r"[^\w.-]+|-{2,}|\.{2,}", "-", Path(os.path.abspath(folder)).name, flags=re.ASCII)
    return name.strip("-._") or "model"


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
