"""What no result supports is marked `experimental` in help and docs, and both name the same settings."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from docstring_parser import parse_from_object

from graftwork.gates.names import GATES
from graftwork.recipe.extension import Extension
from graftwork.recipe.recipe import Recipe
from graftwork.recipe.settings import GraftSettings, TrainingSettings
from graftwork.search.schedule import Schedule
from graftwork.tuner.config import GraftConfig

DOCS = Path(__file__).parents[2] / "docs"
SECTIONS = {
    "": Recipe,
    "graft.": GraftSettings,
    "schedule.": Schedule,
    "training.": TrainingSettings,
    "extend.": Extension,
}
WORD = "experimental: "


def helps(section: type) -> dict[str, str]:
    texts = {item.arg_name: item.description or "" for item in parse_from_object(section).params}
    return {name: " ".join(text.split()) for name, text in texts.items()}


def marked(texts: dict[str, str]) -> tuple[set[str], dict[str, set[str]]]:
    """Options that are experimental as a whole, and those of which some values are."""
    options = {name for name, text in texts.items() if text.startswith(WORD)}
    values = {
        name: set(re.findall(r"\w+", text.rpartition(WORD)[2]))
        for name, text in texts.items()
        if WORD in text and name not in options
    }
    return options, values


def test_the_help_of_recipes_and_the_docs_name_the_same_settings() -> None:
    chapter = (DOCS / "structure-search.md").read_text().partition("## Experimental")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in chapter.splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`((?:graft|extend)\.\w+|budgets)\b", row)}
    found = set()
    for prefix, section in SECTIONS.items():
        options, values = marked(helps(section))
        found |= {prefix + name for name in options | set(values)}
    assert found == listed


def test_the_help_of_a_configuration_has_the_same_marks() -> None:
    help_of = {entry.name: entry.metadata.get("help", "") for entry in dataclasses.fields(GraftConfig)}
    options, values = marked(helps(GraftSettings))
    values.pop("structure")  # of recipes alone
    assert marked(help_of) == (options, values)


def test_the_gate_families_without_results_are_marked_wherever_they_are_named() -> None:
    families = {name for name, traits in GATES.items() if traits.experimental}
    assert families == {"gumbel", "shifted_sigmoid"}
    assert marked(helps(GraftSettings))[1]["gates"] == families
