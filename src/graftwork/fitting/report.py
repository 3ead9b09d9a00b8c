"""`report.json` of one run, and how it is printed."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.table import Table

from graftwork.diagnosis.floor import floor_notes
from graftwork.files.provenance import git_commits, versions
from graftwork.files.reading import user_path
from graftwork.pages.fit_page import YARDSTICKS
from graftwork.recipe.loading import recipe_to_yaml
from graftwork.recipe.recipe import Recipe
from graftwork.sparsity.budget import budget_parameters, site_prices
from graftwork.structure.drawing import structure_table
from graftwork.structure.structure import Structure
from graftwork.trunk.trunk import trunk_facts
from graftwork.tuner.config_checks import TRUNKS
from graftwork.tuner.view import backbone_parameters, graft_view

if TYPE_CHECKING:
    from graftwork.data.task_data import TaskData
    from graftwork.models.multitask import MultiTaskModel
    from graftwork.search.callback import StructureCallback

__all__ = ["build_report", "cost_figures", "print_report"]

LONGEST = 300
"""Characters of a text that is shown as an example."""


def build_report(
    recipe: Recipe,
    model: MultiTaskModel,
    *,
    structure: Structure,
    datas: Sequence[TaskData],
    scores: Mapping[str, Mapping[str, float]],
    baselines: Mapping[str, Mapping[str, float]],
    callback: StructureCallback,
    seconds: Mapping[str, float],
    train_loss: float,
    noise: Sequence[Mapping[str, Any]],
    diagnosis: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The report of a run, as JSON types.

    Parameters are numbers of scalars: `stored` counts every kept adapter once, `active` those on one task's
    path, `heads` all heads, `peak_trainable` what was trained at most (the whole pool with its gates, and the
    heads). There is no `linear_probe` or `diagnosis` if they were left out.
    """
    view = graft_view(model)
    backbone = backbone_parameters(model)
    stored = structure.parameters()
    pool = sum(site.cost * site.pool_size for site in structure.sites.values())
    learned = callback.structure is not None
    gates = sum(site.pool_size for site in structure.sites.values()) * len(structure.tasks) * learned
    phases = {**callback.phases, **{name: {"seconds": round(value, 2)} for name, value in seconds.items()}}
    return {
        "tasks": {
            data.head.name: {
                "metric": data.head.metric,
                **scores[data.head.name],
                **baselines[data.head.name],
                "labels": list(data.head.labels),
                "rows": data.counts,
                "sha256": data.sha256,
                "open_paths": structure.counts()[data.head.name],
            }
            for data in datas
        },
        "parameters": {
            "backbone": backbone,
            "stored": stored,
            "stored_fraction": stored / backbone,
            "active": {task: structure.parameters(task) for task in structure.tasks},
            "heads": model.heads.count(),
            "budget": budget_parameters(model) if view.sites else None,
            "peak_trainable": pool + gates + sum(p.numel() for p in model.heads.parameters()),
        },
        "phases": phases,
        "structure": structure.to_dict(),
        **limited_trunk(model),
        "soft_size_at_discretise": None if callback.search is None else callback.search.soft_size,
        **({} if diagnosis is None else {"diagnosis": dict(diagnosis)}),
        "train_loss": train_loss,
        "noise": list(noise),
        "memory_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if sys.platform == "darwin" else 1024),
        "bytes_on_disk": {},  # measured when the model is written
        "versions": versions(),
        "git": git_commits(),
        "seed": recipe.seed,
        "recipe": yaml.safe_load(recipe_to_yaml(recipe, user_path(recipe.output))),
    }


def cost_figures(model: MultiTaskModel, structure: Structure, budget: float | None) -> dict[str, Any]:
    """The sizes of a structure in the unit of `graft.cost`, if that is not parameters.

    Args:
        model: the trained model.
        structure: its structure.
        budget: in that unit.
    """
    view = graft_view(model)
    if view.config.cost == "parameters":
        return {}
    kept, prices = structure.compacted(), site_prices(view)
    return {
        "cost": {
            "unit": "FLOPs per token" if view.config.cost == "flops" else "of the table",
            "budget": budget,
            "stored": kept.total(prices),
            "active": {task: kept.total(prices, task) for task in kept.tasks},
        }
    }


def limited_trunk(model: MultiTaskModel) -> dict[str, Any]:
    """Where tasks part, if the recipe has limited that."""
    config = graft_view(model).config
    limited = any(getattr(config, name) is not None for name in TRUNKS)
    return {"trunk": trunk_facts(model)} if limited else {}


def print_report(report: Mapping[str, Any], structure: Structure, console: Console, folder: Path) -> None:
    """Scores beside majority and probe, parameters, the structure, and where the time went."""
    table = Table(title="test scores; active: adapter parameters on the task's path")
    before = report.get("start", {}).get("tasks", {})
    found = {key for task in report["tasks"].values() for key in task}
    yardsticks = [key for key in YARDSTICKS if key in found]
    for column in (
        "task",
        "metric",
        "graftwork",
        *(["before"] if before else []),
        *(YARDSTICKS[key] for key in yardsticks),
        "active",
    ):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right", no_wrap=True)
    active = report["parameters"]["active"]
    for name, task in report["tasks"].items():
        table.add_row(
            name,
            task["metric"],
            f"{task['test']:.3f}",
            *([f"{before[name]['test']:.3f}"] if before else []),
            *(f"{task[key]:.3f}" if key in task else "" for key in yardsticks),
            f"{active[name]:,}",
        )
    console.print(table)
    for name, splits in report.get("texts", {}).items():
        _print_example(name, splits.get("test", {}), console)
    if before:
        console.print(f"before: {report['start']['folder']} on the same test rows", markup=False)
    parameters = report["parameters"]
    budget = parameters["budget"]
    console.print(
        f"stored adapter parameters: {parameters['stored']:,} ({100 * parameters['stored_fraction']:.3g} % "
        f"of the backbone's {parameters['backbone']:,}"
        + (f"; budget {budget:,}" if budget is not None else "")
        + f"); heads: {parameters['heads']:,}"
    )
    console.print(structure_table(structure))
    if "trunk" in report:
        console.print(report["trunk"]["parting"], highlight=False, markup=False)
    findings = report["diagnosis"]["findings"] if "diagnosis" in report else []
    for finding in (*floor_notes(report["tasks"]), *findings):
        console.print(f"note: {finding}", highlight=False, markup=False)
    spent = ", ".join(f"{name} {phase['seconds']:.0f} s" for name, phase in report["phases"].items())
    console.print(f"time: {spent}")
    console.print(f"written to {folder}", markup=False)


def _print_example(task: str, scored: Mapping[str, Any], console: Console) -> None:
    """One row of a task that writes texts: what it was asked, what it has written, and what is right."""
    loss = f"perplexity of the right answers {scored['perplexity']:.3g}" if "perplexity" in scored else ""
    console.print(f"{task}: {loss}", highlight=False, markup=False)
    for example in scored.get("examples", [])[:1]:
        did = "chose" if "probability" in example else "wrote"
        for what, key in (("asked", "prompt"), (did, "answer"), ("right", "right")):
            text = " ".join(str(example[key]).split())
            console.print(f"  {what}: {_short(text)}", highlight=False, markup=False)


def _short(text: str) -> str:
    """A text in one line of moderate length."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
