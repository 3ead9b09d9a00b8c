"""The version of this package: a literal, since results are found by it and not by what is installed."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
