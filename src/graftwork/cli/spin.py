"""How long idle threads of OpenMP spin before they sleep.

torch shares every operation among the threads of a pool, and between two operations those that are done wait
for the next one by spinning: for milliseconds, in the library that comes with torch for Linux (libgomp). On a
machine with something else to do they keep the cores from the very threads they wait for. A limit of
microseconds bridges the gap between two operations of a step as well (`benchmarks/contention.py`).
"""

from __future__ import annotations

import os
import sys

__all__ = ["CHOSEN", "SPIN_LIMITS", "limit_spinning"]

SPIN_LIMITS = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
"""Variable -> how long a thread spins, in turns of a loop (libgomp) or milliseconds (Intel, LLVM)."""
CHOSEN = (*SPIN_LIMITS, "OMP_WAIT_POLICY")
"""Variables by which users choose themselves how threads wait."""


def limit_spinning() -> None:
    """Set the limits in the environment, unless a user has set one, or torch has read it already."""
    if "torch" not in sys.modules and not any(name in os.environ for name in CHOSEN):
        os.environ.update(SPIN_LIMITS)
