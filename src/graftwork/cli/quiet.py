"""What libraries say on their own on the command line, and no user of graftwork can act on.

Each entry is one known sentence of one library. Used by the command line alone: a Python program decides for
itself what it wants to hear.
"""

from __future__ import annotations

import logging
import warnings

from graftwork.edges import OLD_NAME

__all__ = ["silence_libraries"]


def silence_libraries() -> None:
    """Leave out these sentences from here on, in this process."""
    warnings.filterwarnings("ignore", message=OLD_NAME, category=FutureWarning)
    # bitsandbytes, which peft imports where it is installed, looks for a kernel that nothing here uses.
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_no_missing_kernel)


def _no_missing_kernel(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Failed to load CPU gemm_4bit_forward")
