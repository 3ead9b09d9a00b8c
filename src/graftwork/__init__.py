"""graftwork: learn the adapter structure while fine-tuning one frozen transformer on many tasks.

Importing this package registers the method `GRAFT` with PEFT.
"""

from __future__ import annotations

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

__all__ = [
    "GraftConfig",
    "GraftLayer",
    "GraftModel",
    "GraftworkError",
    "Schedule",
    "Structure",
    "StructureCallback",
    "StructureSearch",
    "compact_",
    "discretise_",
    "route",
    "set_structure_",
    "structure_of",
]

__version__ = "0.1.0"
