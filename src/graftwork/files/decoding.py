"""From the bytes of a text file to its text: UTF-8 unless another encoding is named, and never a guess.

A byte that does not fit ends in one line with its place and the likely encoding. Of several encodings, tried
per file in their order, the last one reads what it does not know as U+FFFD, and counts it.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from graftwork.errors import DataError
from graftwork.files.reading import read_regular
from graftwork.messages import shown

__all__ = ["UTF8", "Decoded", "decode", "encoding_faults", "is_wide", "named_encodings", "read_text"]

UTF8 = ("utf-8",)
"""The encodings of a file about which nothing is said."""
LARGEST_RATIO, SMALLEST_LIMIT = 200, 2**26
"""A gzip file may unpack to so many times its size, or so many bytes: text stays far below."""
HEAD = 4096
"""Bytes at the beginning of a file that are searched for the null bytes of UTF-16."""
SAMPLE = 2**15
"""Bytes from which the encoding that a message suggests is guessed."""
ENOUGH = 4
"""Number of bytes outside ASCII from which the words that hold them are enough to guess an encoding."""
SHOWN = 2
"""Number of encodings that a message suggests."""
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SINGLE_BYTE = ("cp125", "cp775", "cp85", "iso8859", "mac")
"""Beginnings of the names of encodings with one byte per character."""
_ARCHIVES = {
    b"\x1f\x8b\x08": "is compressed with gzip; let its name end in .gz",
    b"PK\x03\x04": "is a zip archive or a spreadsheet, no text; save it as a CSV file in UTF-8",
}


@dataclass(frozen=True)
class Decoded:
    """The text of a file."""

    text: str
    unknown: int = 0
    """Characters that became U+FFFD."""


def named_encodings(encoding: str | Sequence[str]) -> tuple[str, ...]:
    """A setting `encoding` as a tuple: one name, or several."""
    return (encoding,) if isinstance(encoding, str) else tuple(encoding)


def encoding_faults(encoding: object) -> list[str]:
    """What is wrong with a setting `encoding`: one name, or several to be tried in their order."""
    names = [encoding] if isinstance(encoding, str) else encoding
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        return [f"encoding is {shown(encoding)}, not a name such as utf-8 or cp1252, or a list of them"]
    unknown = [name for name in names if not _codec(name)]
    if unknown:
        return [
            f"encoding has {shown(unknown[0])}, which Python does not know; such as utf-8, cp1252, gb18030"
        ]
    found = [_codec(name) for name in names]
    if len(set(found)) < len(found):
        return [f"encoding names one encoding twice ({', '.join(names)})"]
    late = next((i for i, name in enumerate(found) if name in ("utf-8", "utf-8-sig") and i), 0)
    if late and found[:late] != ["ascii"]:
        return [
            f"encoding has {names[late]} after {names[late - 1]}, which reads nearly every file; "
            f"put {names[late]} first"
        ]
    return []


def is_wide(encoding: str) -> bool:
    """Whether characters of an encoding have at least two bytes, so that its lines do not end in one."""
    return _codec(encoding).startswith(("utf-16", "utf-32"))


def read_text(path: Path, encodings: Sequence[str] = UTF8) -> Decoded:
    """The text of a file, unpacked if its name ends in `.gz`.

    Raises:
        OSError: it cannot be read.
        DataError: it is not in the encoding; the message says where, and which encoding is likely.
    """
    content = read_regular(path)
    if path.suffix.lower() == ".gz":
        content = _unpack(content, str(path))
    return decode(content, str(path), encodings)


def decode(content: bytes, name: str, encodings: Sequence[str] = UTF8, *, line: int = 1) -> Decoded:
    """Decode text; a byte order mark is taken away.

    Args:
        content: The bytes.
        name: Where they come from, for messages.
        encodings: Tried in their order. One alone is strict; the last of several replaces what it does not
            know by U+FFFD.
        line: The number of the first line, for messages.

    Raises:
        DataError: It is not in the encoding.
    """
    _refuse_other_kinds(content, name, encodings)
    # Ideographs in UTF-16 can have the bytes of letters, but their lines end in null bytes all the same.
    if (b"\n\0" in content or b"\0\n" in content) and not any(map(is_wide, encodings)):
        raise DataError(f"{name} has null bytes: it is no text, or UTF-16; save it as UTF-8")
    error: UnicodeError | None = None
    for encoding in encodings:
        try:
            return Decoded(_strict(content, encoding))
        except UnicodeError as fault:
            error = error or fault
    assert error is not None
    if len(encodings) == 1 or is_wide(encodings[-1]):
        raise DataError(_refusal(content, name, encodings, error, line))
    text = _bare(content).decode(encodings[-1], errors="replace")
    return Decoded(text, text.count("\ufffd"))


def _codec(name: str) -> str:
    """Python's name of a text encoding; empty if there is none."""
    try:
        " ".encode(name)
        return codecs.lookup(name).name
    except (LookupError, ValueError):  # unknown, no encoding of text, or not even a name
        return ""


def _strict(content: bytes, encoding: str) -> str:
    if _codec(encoding) in ("utf-16", "utf-32") and not _mark(content):
        raise UnicodeError("it has no byte order mark; say utf-8, utf-16-le or utf-16-be")
    return _bare(content).decode(encoding).removeprefix("\ufeff")


def _bare(content: bytes) -> bytes:
    return content.removeprefix(codecs.BOM_UTF8)


def _mark(content: bytes) -> str:
    return next((name for mark, name in _MARKS if content.startswith(mark)), "")


def _refuse_other_kinds(content: bytes, name: str, encodings: Sequence[str]) -> None:
    """Refuse files whose first bytes show that they are no text, or text of another encoding."""
    for mark, what in _ARCHIVES.items():
        if content.startswith(mark):
            raise DataError(f"{name} {what}")
    if any(map(is_wide, encodings)):
        return
    named = " or ".join(encodings)
    if content.startswith(codecs.BOM_UTF8) and not any(_codec(one).startswith("utf-8") for one in encodings):
        raise DataError(
            f"{name} begins with the byte order mark of UTF-8, but encoding is {named}; say utf-8"
        )
    marked = _mark(content)
    wide = marked or _looks_wide(content[:HEAD])
    if wide:
        why = "begins with the byte order mark of" if marked else "has the null bytes of"
        raise DataError(
            f"{name} {why} {wide.upper()}, it is not {named}; give {wide} as encoding, or save it as UTF-8"
        )


def _looks_wide(head: bytes) -> str:
    """The encoding of two or four bytes per character that null bytes show; empty for any other."""
    counts = [head[place::4].count(0) * 4 for place in range(4)]
    many = [4 * count >= 3 * len(head) for count in counts]
    if len(head) >= 8 and many in ([False, True, True, True], [True, True, True, False]):
        return "utf-32-le" if many[3] else "utf-32-be"
    even, odd = head[::2].count(0), head[1::2].count(0)
    if 8 * (even + odd) < len(head) or not even + odd or min(even, odd) * 4 > max(even, odd):
        return ""
    return "utf-16-le" if odd > even else "utf-16-be"


def _refusal(content: bytes, name: str, encodings: Sequence[str], error: UnicodeError, line: int) -> str:
    """One line that says which byte is not in the encoding, and what to do."""
    named = " or ".join("UTF-8" if _codec(one).startswith("utf-8") else one for one in encodings)
    if not isinstance(error, UnicodeDecodeError):
        return f"{name} is not {named} ({error})"
    bare = _bare(content)
    place = bare.count(b"\n", 0, error.start) + line
    byte = f"byte 0x{bare[error.start]:02x}, number {error.start + 1 + len(content) - len(bare):,}"
    broken = _broken_utf8(bare) if named == "UTF-8" else 0
    if broken:
        advice = (
            f"it is UTF-8 but for {broken:,} broken characters: mend them, or give [ascii, utf-8] as "
            "encoding, which reads them as U+FFFD"
        )
    else:
        likely = list(_likely(bare))
        named_so = " or ".join(f"{one} ({sample})" for one, sample in likely)
        best = likely[0][0] if likely else ""
        # Other files of the task may well be UTF-8.
        given = best if best.startswith("utf") else f"[utf-8, {best}]"
        advice = f"it is likely {named_so}: give {given} as encoding" if best else "give its encoding"
        advice += ", or save it as UTF-8"
    return f"{name} line {place} is not {named} ({byte}); {advice}"


def _broken_utf8(content: bytes) -> int:
    """Number of broken characters in text that is otherwise UTF-8; 0 if it is another encoding."""
    text = content.decode("utf-8", errors="replace")
    broken = text.count("\ufffd")
    whole = sum(not character.isascii() for character in text) - broken
    return broken if whole > 2 * broken else 0


def _likely(content: bytes) -> Iterator[tuple[str, str]]:
    """Likely encodings, each with a part of the text as it would read."""
    from charset_normalizer import from_bytes

    lines = (line for line in content.splitlines() if not line.isascii())
    sample = b""
    for text in lines:
        sample += text[:SAMPLE] + b"\n"
        if len(sample) >= SAMPLE:
            break
    if not sample:
        yield "utf-8", shown(content[:24].decode("ascii", "replace"))
        return
    words = b" ".join(word for word in sample.split() if not word.isascii())
    few = sum(byte > 127 for byte in words) < ENOUGH
    matches = from_bytes(sample if few else words) or from_bytes(sample)
    names = [match.encoding.replace("_", "-") for match in matches]
    # Western texts fit many similar encodings; this is what programs write.
    if "cp1252" in names:
        names.insert(0, names.pop(names.index("cp1252")))
    elif not names or names[0].startswith(_SINGLE_BYTE):
        names.insert(1, "cp1252")
    for name in [name for name in names if not is_wide(name)][:SHOWN]:
        start = next(i for i, byte in enumerate(sample) if byte > 127)
        piece = sample[:start].decode(name, "replace")[-8:] + sample[start:].decode(name, "replace")
        yield name, shown(" ".join(piece.split())[:24])


def _unpack(content: bytes, name: str) -> bytes:
    """The content of a gzip file; refused if it is larger than text can be."""
    limit = max(SMALLEST_LIMIT, LARGEST_RATIO * len(content))
    try:
        with gzip.open(io.BytesIO(content)) as file:
            unpacked = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name} is not a whole gzip file ({error})") from None
    if len(unpacked) > limit:
        raise DataError(f"{name} unpacks to more than {LARGEST_RATIO} times its size; unpack it yourself")
    return unpacked
