"""graftwork: learn the adapter structure while fine-tuning one frozen transformer on many tasks.

Importing this package registers the method `GRAFT` with PEFT.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from graftwork.callback import StructureCallback
from graftwork.compact import compact_, discretise_, set_structure_, structure_of
from graftwork.config import GraftConfig
from graftwork.errors import GraftworkError
from graftwork.layer import GraftLayer
from graftwork.routing import route
from graftwork.search import StructureSearch
from graftwork.sparsity import Schedule
from graftwork.structure import Structure
from graftwork.tuner import GraftModel

if TYPE_CHECKING:
    from graftwork.multitask import MultiTaskModel
    from graftwork.predict import Predictor
    from graftwork.tasks import Task
    from graftwork.trainer import MultiTaskTrainer

__all__ = [
    "GraftConfig",
    "GraftLayer",
    "GraftModel",
    "GraftworkError",
    "MultiTaskModel",
    "MultiTaskTrainer",
    "Predictor",
    "Schedule",
    "Structure",
    "StructureCallback",
    "StructureSearch",
    "Task",
    "compact_",
    "discretise_",
    "route",
    "set_structure_",
    "structure_of",
]

__version__ = "0.1.0"

# Loaded when first used: they bring in Trainer and the data libraries.
_LAZY = {
    "MultiTaskModel": "graftwork.multitask",
    "MultiTaskTrainer": "graftwork.trainer",
    "Predictor": "graftwork.predict",
    "Task": "graftwork.tasks",
}


def __getattr__(name: str) -> object:
    """Import the names of `_LAZY` on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
