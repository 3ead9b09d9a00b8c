"""The cache of tokens: one file of Arrow per split and key."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.distributed.notes import note_once

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]
    from datasets import Dataset

__all__ = ["load_table", "store_table"]

CHUNK = 8192
"""Rows of a record of the file."""
_LOG = logging.getLogger(__name__)


def load_table(file: Path) -> Dataset | None:
    """A cached table; None if there is none that can be read."""
    import pyarrow
    from datasets import Dataset

    try:
        return Dataset.from_file(str(file))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, pyarrow.ArrowException) as error:
        # A crash of the machine can leave a file whose content never reached the disk.
        _LOG.warning("the token cache %s cannot be read (%s); it is made anew", file, error)
        return None


def store_table(table: pyarrow.Table, file: Path) -> None:
    """Write a table under a temporary name and rename it; where that fails, a note says so."""
    import pyarrow

    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.stem}-")
        os.close(handle)
        with pyarrow.OSFile(temporary, "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=CHUNK)
        os.replace(temporary, file)
    except (OSError, pyarrow.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        note_once(
            f"the token cache {file.parent} cannot be written ({reason}); texts are tokenised in every run"
        )
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink(missing_ok=True)
