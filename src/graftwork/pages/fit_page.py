"""The page of one trained model: what it can do, what it is made of, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.cards.model import ModelFacts
from graftwork.cards.writing import model_name
from graftwork.diagnosis.findings import figures
from graftwork.diagnosis.floor import floor_notes
from graftwork.files.reading import is_finite
from graftwork.models.causal.few_shot import SHOTS
from graftwork.models.files import FILES, facts_of
from graftwork.pages.charts import training_curves
from graftwork.pages.filling import environment, script, style
from graftwork.pages.map import structure_map

__all__ = ["YARDSTICKS", "fit_page", "write_page"]

YARDSTICKS = {
    "linear_probe": "linear probe",
    "frozen_cosine": "frozen cosine",
    "zero_shot": "zero-shot",
    "few_shot": f"{SHOTS}-shot",
    "majority": "majority",
    "chance": "chance",
}
"""Floors of a report, and their names."""


@dataclass(frozen=True)
class _Score:
    """What a task has reached."""

    task: str
    metric: str
    test: float | None
    validation: float | None
    floors: tuple[tuple[str, float], ...]
    active: int
    rows: int | None
    below: bool

    @property
    def ahead(self) -> float | None:
        """Points above the highest floor."""
        highest = max((value for _, value in self.floors), default=None)
        return None if highest is None or self.test is None else 100 * (self.test - highest)


def fit_page(facts: ModelFacts, recipe: str | None = None) -> str:
    """The page as HTML that needs no other file and no network.

    Args:
        facts: what the card is made of, too.
        recipe: the text of the recipe, if there is one.
    """
    report, structure = facts.report, facts.structure
    notes = floor_notes(report.get("tasks", {}))
    scores = [_score(facts, task, notes) for task in facts.tasks]
    below = [score.task for score in scores if score.below]
    diagnosis = report.get("diagnosis")
    return (
        environment()
        .get_template("fit.html.j2")
        .render(
            style=style(),
            name=facts.name,
            tone="bad" if below else "",
            headline=_headline(scores, below, structure.parameters()),
            tiles=_tiles(facts),
            scores=scores,
            notes=notes,
            map=structure_map(structure, report),
            script=script("maps"),
            curves=training_curves(report),
            findings=[] if diagnosis is None else diagnosis["findings"],
            figures=[] if diagnosis is None else list(figures(diagnosis)),
            diagnosed=diagnosis is not None,
            phases=[(name, phase["seconds"]) for name, phase in report.get("phases", {}).items()],
            recipe=recipe,
        )
    )


def write_page(folder: Path, place: Path) -> None:
    """Write the page of a model into its folder.

    Args:
        folder: written by `graftwork.models.folder.write_model`.
        place: where that folder will lie, which gives the model its name.
    """
    recipe = folder / FILES.recipe
    text = recipe.read_text(encoding="utf-8") if recipe.is_file() else None
    page = fit_page(facts_of(folder, model_name(place)), text)
    (folder / FILES.page).write_text(page.encode("utf-8", "replace").decode("utf-8"), encoding="utf-8")


def _score(facts: ModelFacts, head: Mapping[str, Any], notes: list[str]) -> _Score:
    name = head["name"]
    found = facts.report.get("tasks", {}).get(name, {})
    floors = [(word, found[key]) for key, word in YARDSTICKS.items() if is_finite(found.get(key))]
    return _Score(
        name,
        str(found.get("metric", head["metric"])),
        found["test"] if is_finite(found.get("test")) else None,
        found["validation"] if is_finite(found.get("validation")) else None,
        tuple(floors),
        facts.structure.parameters(name),
        (found.get("rows") or {}).get("test"),
        any(note.startswith(f"Task {name!r} ") for note in notes),
    )


def _headline(scores: list[_Score], below: list[str], stored: int) -> str:
    if not any(score.test is not None for score in scores):
        return f"{_count(len(scores), 'task')}, {stored:,} adapter parameters"
    if below:
        verb = "is" if len(below) == 1 else "are"
        return f"{', '.join(below)} {verb} not above the floor"
    ahead = [score.ahead for score in scores if score.ahead is not None]
    if not ahead:
        return f"{_count(len(scores), 'task')} with {stored:,} adapter parameters"
    if min(ahead) <= 0:
        return f"{_count(len(scores), 'task')} at or above the floor, with {stored:,} adapter parameters"
    words = "its floor" if len(scores) == 1 else "their floors"
    return (
        f"{_count(len(scores), 'task')} above {words}, by {min(ahead):.1f}"
        + (f" to {max(ahead):.1f}" if len(ahead) > 1 else "")
        + f" points, with {stored:,} adapter parameters"
    )


def _tiles(facts: ModelFacts) -> list[tuple[str, str, str]]:
    """Name, value and remark of what stands at the top."""
    structure, parameters = facts.structure, facts.report.get("parameters", {})
    stored, backbone = structure.parameters(), parameters.get("backbone")
    budget = parameters.get("budget")
    used = sum(any(site.used) for site in structure.sites.values())
    tiles = [
        (
            "adapter parameters",
            f"{stored:,}",
            (f"{100 * stored / backbone:.2g} % of {backbone:,}" if backbone else "")
            + (f"; budget {budget:,.10g}" if budget is not None else ""),
        ),
        ("sites in use", f"{used} of {len(structure.sites)}", "places with an adapter"),
    ]
    seconds = sum(phase["seconds"] for phase in facts.report.get("phases", {}).values())
    if seconds:
        tiles.append(("time", f"{seconds / 60:.1f} min", "all phases"))
    if parameters.get("heads"):
        tiles.append(("heads", f"{parameters['heads']:,}", "parameters, of all tasks"))
    return tiles


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
