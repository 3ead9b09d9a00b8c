"""Rows of standard input, decoded like a file and given out as they come.

A program that writes a row and waits for its answer gets it; what is piped in faster than it is answered
gathers, and is given out together.
"""

from __future__ import annotations

import io
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from graftwork.data.text_rows import json_row
from graftwork.errors import DataError
from graftwork.files.decoding import UTF8, decode, is_wide

__all__ = ["stdin_rows"]

NAME = "standard input"
"""Name of the source in messages."""
BLOCK = 2**16
"""Bytes per read: the size of a pipe."""
BLOCKS = 256
"""Largest number of blocks that are read ahead."""
LONGEST = 2**27
"""Longest line, in bytes."""


def stdin_rows(most: int, encodings: Sequence[str] = UTF8) -> Iterator[list[dict[str, Any]]]:
    """Lists of rows from JSON lines on standard input: of at least one row and at most `most`.

    A list ends where no further line is there yet.

    Raises:
        DataError: standard input is closed or not such lines; the rows before have been given out.
    """
    if any(map(is_wide, encodings)):
        raise DataError(
            f"{NAME} is read by lines, which {' or '.join(encodings)} does not have; give it as UTF-8"
        )
    number = 0
    for lines in _lines(_reader(), most):
        rows = []
        fault: DataError | None = None
        for line in lines:
            number += 1
            try:
                text = decode(line, NAME, encodings, line=number).text
                if text and not text.isspace():
                    rows.append(json_row(text, f"{NAME} line {number}"))
            except DataError as error:
                fault = error
                break
        if rows:
            yield rows
        if fault is not None:
            raise fault


def _reader() -> Callable[[int], bytes]:
    """A function that waits until there is an item, and returns it."""
    if sys.stdin is None:
        raise DataError(f"{NAME} is closed; give rows there, or a file with --input")
    try:
        descriptor = sys.stdin.fileno()
    except (OSError, ValueError):  # a stream that somebody put in its place
        buffer = getattr(sys.stdin, "buffer", None) or io.BytesIO(sys.stdin.read().encode())
        return getattr(buffer, "read1", buffer.read)
    # Not through `sys.stdin`: at exit the interpreter would wait for the lock of a thread that reads.
    return lambda size: os.read(descriptor, size)


def _lines(read: Callable[[int], bytes], most: int) -> Iterator[list[bytes]]:
    """Lists of the lines that are there, at most `most`; waits only for the first."""
    blocks: queue.Queue[list[bytes] | Exception | None] = queue.Queue(BLOCKS)
    threading.Thread(target=_read_ahead, args=(read, blocks), daemon=True).start()
    lines: deque[bytes] = deque()
    end: Exception | None = None
    more = True
    while more or lines:
        while more and len(lines) < most:
            try:
                block = blocks.get(block=not lines)
            except queue.Empty:
                break
            if isinstance(block, list):
                lines.extend(block)
            else:
                more, end = False, block
        if lines:
            yield [lines.popleft() for _ in range(min(most, len(lines)))]
    if isinstance(end, OSError):
        raise DataError(f"{NAME} cannot be read: {end.strerror or end}") from None
    if end is not None:
        raise end


def _read_ahead(read: Callable[[int], bytes], blocks: queue.Queue[list[bytes] | Exception | None]) -> None:
    """Put the lines of every block that is read into the queue, and then None, or what went wrong."""
    pieces: list[bytes] = []
    try:
        while block := read(BLOCK):
            *lines, rest = block.split(b"\n")
            if lines:
                lines[0] = b"".join([*pieces, lines[0]])
                pieces = []
                blocks.put(lines)
            pieces.append(rest)
            if len(pieces) * BLOCK > LONGEST:
                raise DataError(f"{NAME} has a line of more than {LONGEST:,} bytes")
        blocks.put([b"".join(pieces)] if any(pieces) else [])
        blocks.put(None)
    except Exception as error:
        blocks.put(error)
