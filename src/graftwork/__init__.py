"""graftwork: learn the adapter structure while fine-tuning one frozen transformer on many tasks.

Importing this package makes PEFT know the method `GRAFT` (`graftwork.tuner.registration`). It loads
neither torch nor PEFT: every public name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from importlib.util import find_spec as _find_spec
from typing import TYPE_CHECKING

from graftwork.tuner.registration import register_with_peft as _register_with_peft
from graftwork.version import __version__ as __version__

if TYPE_CHECKING:
    from graftwork.data.task import Task
    from graftwork.errors import GraftworkError
    from graftwork.export.compact import save_compact
    from graftwork.export.lora import export_lora
    from graftwork.export.onnx import export_onnx
    from graftwork.export.program import export_program
    from graftwork.finished.add_task import add_task
    from graftwork.finished.new_task import NewTask
    from graftwork.finished.push import push
    from graftwork.finished.remove_task import remove_task
    from graftwork.fitting.from_python import fit
    from graftwork.models.causal.model import CausalMultiTaskModel
    from graftwork.models.multitask import MultiTaskModel
    from graftwork.models.predictor import Predictor, load
    from graftwork.recipe.extension import Extension
    from graftwork.recipe.task_recipe import TaskRecipe
    from graftwork.search.callback import StructureCallback
    from graftwork.search.compact import compact_
    from graftwork.search.discretise import discretise_, set_structure_, structure_of
    from graftwork.search.grouping import group_tasks, input_distances
    from graftwork.search.schedule import Schedule
    from graftwork.search.search import StructureSearch
    from graftwork.search.tracking import track
    from graftwork.structure.structure import Structure
    from graftwork.training.task_collator import keep_tasks_
    from graftwork.training.trainer import MultiTaskTrainer
    from graftwork.trunk.trunk import trunk_price
    from graftwork.tuner.config import GraftConfig
    from graftwork.tuner.layer import GraftLayer
    from graftwork.tuner.model import GraftModel
    from graftwork.tuner.route import route

__all__ = [
    "CausalMultiTaskModel",
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
    "fit",
    "group_tasks",
    "input_distances",
    "keep_tasks_",
    "load",
    "push",
    "remove_task",
    "route",
    "save_compact",
    "set_structure_",
    "structure_of",
    "track",
    "trunk_price",
]

_HOME = {
    "CausalMultiTaskModel": "models.causal.model",
    "Extension": "recipe.extension",
    "GraftConfig": "tuner.config",
    "GraftLayer": "tuner.layer",
    "GraftModel": "tuner.model",
    "GraftworkError": "errors",
    "MultiTaskModel": "models.multitask",
    "MultiTaskTrainer": "training.trainer",
    "NewTask": "finished.new_task",
    "Predictor": "models.predictor",
    "Schedule": "search.schedule",
    "Structure": "structure.structure",
    "StructureCallback": "search.callback",
    "StructureSearch": "search.search",
    "Task": "data.task",
    "TaskRecipe": "recipe.task_recipe",
    "add_task": "finished.add_task",
    "compact_": "search.compact",
    "discretise_": "search.discretise",
    "export_lora": "export.lora",
    "export_onnx": "export.onnx",
    "export_program": "export.program",
    "fit": "fitting.from_python",
    "group_tasks": "search.grouping",
    "input_distances": "search.grouping",
    "keep_tasks_": "training.task_collator",
    "load": "models.predictor",
    "push": "finished.push",
    "remove_task": "finished.remove_task",
    "route": "tuner.route",
    "save_compact": "export.compact",
    "set_structure_": "search.discretise",
    "structure_of": "search.discretise",
    "track": "search.tracking",
    "trunk_price": "trunk.trunk",
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
