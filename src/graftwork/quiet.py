"""What libraries say on their own on the command line, and no user of graftwork can act on.

Each entry is one known sentence of one library. Used by the command line alone: a Python program decides for
itself what it wants to hear.
"""

from __future__ import annotations

import logging
import warnings

__all__ = ["silence_libraries"]


def silence_libraries() -> None:
    """Leave out these sentences from here on, in this process."""
    # peft 0.21 asks transformers 5.2x for a property by its old name whenever it wraps a model.
    warnings.filterwarnings(
        "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
    )
    # bitsandbytes, which peft imports where it is installed, looks for a kernel that nothing here uses.
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_no_missing_kernel)
    logging.getLogger("transformers.modeling_utils").addFilter(_no_unused_weights)


def _no_missing_kernel(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Failed to load CPU gemm_4bit_forward")


def _no_unused_weights(record: logging.LogRecord) -> bool:
    """Whether it is more than a table of weights that a backbone has no use for: its old head, or a pooler.

    A backbone read from a model with a head leaves that unread, and one without a pooler gets a new one that
    graftwork does not read. Any other weight that is missing matters.
    """
    message = record.getMessage()
    if " LOAD REPORT" not in message:
        return True
    rows = [line.split(" | ") for line in message.partition("Notes:")[0].splitlines() if " | " in line]
    return not all("UNEXPECTED" in row[1] or "pooler" in row[0] for row in rows[1:])
