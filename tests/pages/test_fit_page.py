"""The page of a fit: whole without any other file, true to the report, and made anew where tasks change."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from graftwork.cli import main
from graftwork.models.files import facts_of, read_structure
from graftwork.pages.fit_page import fit_page
from graftwork.pages.map import structure_map
from toyrun import recipe_dict, write_backbone, write_recipe, write_tasks

HOSTILE = '<script>alert("x")</script> {{ 7*7 }} & 漢字'


class Page(HTMLParser):
    """Elements with their attributes, and the text of the headline."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[self.open[-1]] = self.texts.get(self.open[-1], "") + data


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    write_backbone(folder / "backbone")
    write_tasks(folder / "data")
    main(["fit", str(write_recipe(folder, recipe_dict(folder)))])
    return folder / "out"


def changed(folder: Path, **tasks: Any) -> str:
    """The page of a folder with other figures of all its tasks."""
    facts = facts_of(folder, "toy")
    for task in facts.report["tasks"].values():
        task.update(tasks)
    return fit_page(facts)


def test_the_page_needs_no_other_file(trained: Path) -> None:
    page = Page((trained / "index.html").read_text(encoding="utf-8"))
    for tag, attributes in page.elements:
        for name in ("src", "href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, value)
    assert not any(tag in ("img", "iframe", "object") for tag, _ in page.elements)


def test_the_page_says_what_the_report_says(trained: Path) -> None:
    text = (trained / "index.html").read_text(encoding="utf-8")
    report = json.loads((trained / "report.json").read_text())
    for name, task in report["tasks"].items():
        assert f"<b>{name}</b>" in text
        for key in ("test", "linear_probe", "majority", "validation"):
            assert f"{task[key]:.3f}" in text
    assert f"<dd>{report['parameters']['stored']:,}<small>" in text
    assert report["curves"]
    assert all("runtime" not in name for entry in report["curves"] for name in entry)
    assert text.count("<svg") == 3  # loss, scores, size
    assert "budget:" in text  # the recipe


def test_the_map_counts_as_the_structure_does(trained: Path) -> None:
    structure = read_structure(trained)
    report = json.loads((trained / "report.json").read_text())
    shown = structure_map(structure, report)
    cells = [cell for _, row in shown.rows for cell in row if cell is not None]
    assert {cell.site for cell in cells} == set(structure.sites)
    assert sum(cell.parameters for cell in cells) == structure.parameters()
    for place, task in enumerate(structure.tasks):
        assert sum(cell.tasks[place] for cell in cells) == structure.counts()[task]
    tried = report["diagnosis"]["ablation"]["adapters"]
    for cell in cells:
        rises = [entry["increase"] for entry in tried if entry["site"] == cell.site]
        assert cell.costs == (max(rises) if rises else None)
    text = (trained / "index.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert json.loads(data)["cells"] == json.loads(json.dumps([cell.data for cell in cells]))
    buttons = [given for tag, given in Page(text).elements if tag == "button"]
    assert [given["aria-label"] for given in buttons] == [cell.site for cell in cells]


def test_a_task_below_its_floor_is_the_headline(trained: Path) -> None:
    page = changed(trained, test=0.5, linear_probe=0.9, majority=0.4, rows={"test": 1000})
    assert "not above the floor" in Page(page).texts["h1"]
    assert "What to do next" in page
    assert "training.epochs" in page
    fine = changed(trained, test=0.9, linear_probe=0.5, majority=0.4, rows={"test": 1000})
    assert "above their floors, by 40.0" in Page(fine).texts["h1"]
    assert "What to do next" not in fine


def test_names_are_text(trained: Path) -> None:
    facts = facts_of(trained, HOSTILE)
    page = fit_page(facts, recipe=HOSTILE)
    assert HOSTILE not in page
    assert "{{ 7*7 }}" in page
    assert sum(tag == "script" for tag, _ in Page(page).elements) == 2


def test_a_model_without_a_report_has_a_page(trained: Path) -> None:
    facts = facts_of(trained, "toy")
    bare = type(facts)(facts.name, facts.described, facts.structure, {})
    page = fit_page(bare)
    assert f"{facts.structure.parameters():,} adapter parameters" in Page(page).texts["h1"]
    assert "not known" in page


def test_the_page_changes_with_the_tasks(trained: Path, tmp_path: Path) -> None:
    first, *others = read_structure(trained).tasks
    main(["extract", str(trained), first, str(tmp_path / "one")])
    text = (tmp_path / "one/index.html").read_text(encoding="utf-8")
    assert f"<b>{first}</b>" in text
    assert not any(f"<b>{name}</b>" in text for name in others)
