"""The version of this package, as a literal: to read what is installed would take time at every start."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
