"""`report.json` of a model that got or lost a task: what changed, on top of the report of before."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from graftwork.diagnosis.findings import figures, print_diagnosis
from graftwork.diagnosis.floor import floor_notes
from graftwork.errors import CheckpointError
from graftwork.files.reading import user_path
from graftwork.messages import shown
from graftwork.models.files import FILES, read_report
from graftwork.pages.fit_page import YARDSTICKS
from graftwork.recipe.loading import recipe_to_yaml
from graftwork.recipe.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import Console

    from graftwork.data.task_data import TaskData
    from graftwork.models.multitask import MultiTaskModel
    from graftwork.structure.structure import Structure

__all__ = [
    "extended_report",
    "extracted_report",
    "parting",
    "print_addition",
    "read_diagnoses",
    "read_report",
    "reduced_report",
]

EXTRACTED = ("tasks", "parameters", "structure", "bytes_on_disk", "versions", "git", "seed", "recipe")
"""Keys of a report that the report of a single task keeps."""


def read_diagnoses(folder: Path) -> dict[str, dict[str, Any]]:
    """The diagnosis of the search of a saved model, and of the search of every task added since.

    Among the findings, the tasks below their floor (`graftwork.diagnosis.floor`) come first.

    Raises:
        CheckpointError: the folder has none, or a damaged one.
    """
    report = read_report(folder)
    found = {"search": report["diagnosis"]} if "diagnosis" in report else {}
    try:
        additions = report.get("additions", [])
        added = {each["task"]: each["diagnosis"] for each in additions}
        added = {task: diagnosis for task, diagnosis in added.items() if diagnosis is not None}
        found |= {f"addition of {task}": diagnosis for task, diagnosis in added.items()}
        for what, diagnosis in found.items():
            if not all(isinstance(sentence, str) for sentence in diagnosis["findings"]):
                raise TypeError(f"a finding of the {what} is no sentence")
            list(figures(diagnosis))
        tasks = dict(report.get("tasks", {}))
        scored = {f"addition of {task}": {task: tasks.pop(task)} for task in added if task in tasks}
        scored["search"] = tasks
        found = {what: _with_floor(diagnosis, scored.get(what, {})) for what, diagnosis in found.items()}
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Only this program writes diagnoses, so that any other form is damage.
        raise CheckpointError(
            f"the diagnosis in {folder / FILES.report} is damaged: {type(error).__name__}: "
            f"{shown(str(error))}."
        ) from error
    if not found:
        raise CheckpointError(
            f"{folder} has no diagnosis: no {FILES.report}, or one without; it is written by `graftwork fit` "
            "and `graftwork add-task` without --no-diagnosis."
        )
    return found


def parting(folder: Path) -> str | None:
    """Where the tasks of a saved model part, and at what price, if its report says so."""
    try:
        words = read_report(folder)["trunk"]["parting"]
    except (CheckpointError, LookupError, TypeError):  # the report is no part of the model
        return None
    return words if isinstance(words, str) else None


def _with_floor(diagnosis: Mapping[str, Any], tasks: Mapping[str, Any]) -> dict[str, Any]:
    """A diagnosis that names the tasks below their floor first."""
    return {**diagnosis, "findings": [*floor_notes(tasks), *diagnosis["findings"]]}


def extended_report(
    old: Mapping[str, Any],
    model: MultiTaskModel,
    structure: Structure,
    *,
    data: TaskData,
    scores: Mapping[str, float],
    recipe: Recipe,
    addition: Mapping[str, Any],
    texts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The report `old` with one more task, and how it was added at the end of `additions`.

    Scores of the older tasks are those of before: their outputs have not changed.
    """
    report = _changed(old, model, structure)
    report["tasks"][data.head.name] = {
        "metric": data.head.metric,
        **scores,
        "labels": list(data.head.labels),
        "rows": data.counts,
        "sha256": data.sha256,
        "open_paths": structure.counts()[data.head.name],
    }
    if texts:
        report["texts"] = {**report.get("texts", {}), data.head.name: dict(texts)}
    report["recipe"] = yaml.safe_load(recipe_to_yaml(recipe, user_path(recipe.output)))
    report["additions"] = [*report.get("additions", []), dict(addition)]
    return report


def reduced_report(
    old: Mapping[str, Any],
    model: MultiTaskModel,
    structure: Structure,
    removal: Mapping[str, Any],
) -> dict[str, Any]:
    """The report `old` without a task. Its diagnosis stays that of the search, with the task."""
    report = _changed(old, model, structure)
    report["removals"] = [*report.get("removals", []), dict(removal)]
    return report


def extracted_report(old: Mapping[str, Any], model: MultiTaskModel, structure: Structure) -> dict[str, Any]:
    """The parts of the report `old` that hold for the only task left; those of the common search go."""
    report = _changed(old, model, structure)
    return {name: value for name, value in report.items() if name in EXTRACTED}


def _changed(old: Mapping[str, Any], model: MultiTaskModel, structure: Structure) -> dict[str, Any]:
    from graftwork.trunk.trunk import trunk_facts
    from graftwork.tuner.view import backbone_parameters

    report = copy.deepcopy(dict(old))
    backbone, stored = backbone_parameters(model), structure.parameters()
    tasks = report.get("tasks", {})
    report["tasks"] = {name: task for name, task in tasks.items() if name in structure.tasks}
    report["parameters"] = {
        **report.get("parameters", {}),
        "backbone": backbone,
        "stored": stored,
        "stored_fraction": stored / backbone,
        "active": {task: structure.parameters(task) for task in structure.tasks},
        "heads": model.heads.count(),
    }
    report["structure"] = structure.to_dict()
    if "trunk" in report:
        report["trunk"] = trunk_facts(model)
    report["bytes_on_disk"] = {}  # measured when it is written
    return report


def print_addition(report: Mapping[str, Any], task: str, console: Console, folder: Path) -> None:
    """Scores of the new task, what it uses, and the diagnosis of its search."""
    scores, addition = report["tasks"][task], report["additions"][-1]
    floor = ", ".join(f"{said} {scores[name]:.3f}" for name, said in YARDSTICKS.items() if name in scores)
    console.print(
        f"{task}: test {scores['metric']} {scores['test']:.3f} ({floor}); "
        f"{scores['open_paths']} open adapters, {report['parameters']['active'][task]:,} active parameters; "
        f"{addition['trainable']:,} were trainable"
    )
    change = addition["older_tasks_change"]
    console.print(
        "outputs of the older tasks: "
        + (f"changed by up to {change:.2g}" if change else "unchanged to the bit")
    )
    if addition["diagnosis"] is not None:
        diagnosis = _with_floor(addition["diagnosis"], {task: scores})
        print_diagnosis(diagnosis, console, f"search for the path of {task}")
    else:
        for note in floor_notes({task: scores}):
            console.print(f"note: {note}", highlight=False, markup=False)
    console.print(f"written to {folder}", markup=False)
