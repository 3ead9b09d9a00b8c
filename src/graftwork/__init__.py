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
from graftwork.grouping import group_tasks, input_distances
from graftwork.layer import GraftLayer
from graftwork.routing import route
from graftwork.search import StructureSearch
from graftwork.sparsity import Schedule
from graftwork.structure import Structure
from graftwork.tuner import GraftModel

if TYPE_CHECKING:
    from graftwork.collate import keep_tasks_
    from graftwork.compact_folder import save_compact
    from graftwork.export import export_lora
    from graftwork.extend import add_task, remove_task
    from graftwork.multitask import MultiTaskModel
    from graftwork.newtask import Extension, NewTask
    from graftwork.onnx_file import export_onnx
    from graftwork.predict import Predictor
    from graftwork.program import export_program
    from graftwork.taskrecipe import TaskRecipe
    from graftwork.tasks import Task
    from graftwork.tracking import track
    from graftwork.trainer import MultiTaskTrainer

__all__ = [
    "Extension",
    "GraftConfig",
    "GraftLayer",
    "GraftModel",
    "GraftworkError",
    "MultiTaskModel",
    "MultiTaskTrainer",
    "NewTask",
    "Predictor",
    "Schedule",
    "Structure",
    "StructureCallback",
    "StructureSearch",
    "Task",
    "TaskRecipe",
    "add_task",
    "compact_",
    "discretise_",
    "export_lora",
    "export_onnx",
    "export_program",
    "group_tasks",
    "input_distances",
    "keep_tasks_",
    "remove_task",
    "route",
    "save_compact",
    "set_structure_",
    "structure_of",
    "track",
]

__version__ = "0.1.0"

# Loaded when first used: they bring in Trainer and the data libraries.
_LAZY = {
    "Extension": "graftwork.newtask",
    "MultiTaskModel": "graftwork.multitask",
    "MultiTaskTrainer": "graftwork.trainer",
    "NewTask": "graftwork.newtask",
    "Predictor": "graftwork.predict",
    "Task": "graftwork.tasks",
    "TaskRecipe": "graftwork.taskrecipe",
    "add_task": "graftwork.extend",
    "export_lora": "graftwork.export",
    "export_onnx": "graftwork.onnx_file",
    "export_program": "graftwork.program",
    "keep_tasks_": "graftwork.collate",
    "remove_task": "graftwork.extend",
    "save_compact": "graftwork.compact_folder",
    "track": "graftwork.tracking",
}


def __getattr__(name: str) -> object:
    """Import the names of `_LAZY` on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
