"""graftwork: learn the adapter structure while fine-tuning one frozen transformer on many tasks.

Importing this package makes PEFT know the method `GRAFT` (`graftwork.registration`). It loads neither torch
nor PEFT: every public name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from importlib.util import find_spec as _find_spec
from typing import TYPE_CHECKING

from graftwork.registration import register_with_peft as _register_with_peft
from graftwork.version import __version__ as __version__

if TYPE_CHECKING:
    from graftwork.callback import StructureCallback
    from graftwork.collate import keep_tasks_
    from graftwork.compact import compact_, discretise_, set_structure_, structure_of
    from graftwork.compact_folder import save_compact
    from graftwork.config import GraftConfig
    from graftwork.errors import GraftworkError
    from graftwork.export import export_lora
    from graftwork.extend import add_task
    from graftwork.extension import Extension
    from graftwork.grouping import group_tasks, input_distances
    from graftwork.layer import GraftLayer
    from graftwork.multitask import MultiTaskModel
    from graftwork.newtask import NewTask
    from graftwork.onnx_file import export_onnx
    from graftwork.predict import Predictor
    from graftwork.program import export_program
    from graftwork.removal import remove_task
    from graftwork.routing import route
    from graftwork.schedule import Schedule
    from graftwork.search import StructureSearch
    from graftwork.structure import Structure
    from graftwork.taskrecipe import TaskRecipe
    from graftwork.tasks import Task
    from graftwork.tracking import track
    from graftwork.trainer import MultiTaskTrainer
    from graftwork.tuner import GraftModel

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

_HOME = {
    "Extension": "extension",
    "GraftConfig": "config",
    "GraftLayer": "layer",
    "GraftModel": "tuner",
    "GraftworkError": "errors",
    "MultiTaskModel": "multitask",
    "MultiTaskTrainer": "trainer",
    "NewTask": "newtask",
    "Predictor": "predict",
    "Schedule": "schedule",
    "Structure": "structure",
    "StructureCallback": "callback",
    "StructureSearch": "search",
    "Task": "tasks",
    "TaskRecipe": "taskrecipe",
    "add_task": "extend",
    "compact_": "compact",
    "discretise_": "compact",
    "export_lora": "export",
    "export_onnx": "onnx_file",
    "export_program": "program",
    "group_tasks": "grouping",
    "input_distances": "grouping",
    "keep_tasks_": "collate",
    "remove_task": "removal",
    "route": "routing",
    "save_compact": "compact_folder",
    "set_structure_": "compact",
    "structure_of": "compact",
    "track": "tracking",
}
"""Public name -> the module it lives in."""


def __getattr__(name: str) -> object:
    """Import a public name, or a module of this package, on first use."""
    if name not in _HOME:
        if name.startswith("_") or _find_spec(f"{__name__}.{name}") is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return _import_module(f"{__name__}.{name}")
    value: object = getattr(_import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The names that are loaded, and those that will be."""
    return sorted({*globals(), *__all__})


_register_with_peft()
