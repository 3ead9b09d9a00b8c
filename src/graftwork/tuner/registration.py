"""PEFT learns of the method `GRAFT` as soon as both packages are imported, whichever comes first.

`import graftwork` imports neither PEFT nor torch: it leaves a hook on PEFT's import. The method itself is
`graftwork.tuner.model`, and importing that registers it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

import wrapt

__all__ = ["METHOD", "register_with_peft"]

METHOD = ("config", "gated_pools", "layer", "merging", "model", "pool", "sites")
"""The modules that make up the method and import PEFT, themselves or one through another."""
_HOOKED = ("peft", *(f"graftwork.tuner.{name}" for name in METHOD))
_loaded: set[str] = set()


def register_with_peft() -> None:
    """Register the method now if PEFT is imported already, else once it is."""
    for name in _HOOKED:
        wrapt.when_imported(name)(_after_import)


def _after_import(module: ModuleType) -> None:
    """Import the method once PEFT is there and no part of the method is half imported.

    A module of the method that is imported first imports PEFT in its own first lines: the others have to wait
    until it is whole.
    """
    _loaded.add(module.__name__)
    begun = {name for name in _HOOKED if name in sys.modules}
    if "peft" in _loaded and begun <= _loaded:
        import_module("graftwork.tuner.model")
