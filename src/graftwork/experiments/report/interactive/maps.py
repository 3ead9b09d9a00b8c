"""The structures of a report: a map for the page, a picture for the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graftwork.experiments.report.tables import ranked, seed_list
from graftwork.experiments.results.collect import Comparison
from graftwork.pages.map import StructureMap, structure_map
from graftwork.structure.drawing import structure_png
from graftwork.structure.structure import Structure

__all__ = ["Shown", "maps"]


@dataclass(frozen=True)
class Shown:
    """The structure of one run.

    Attributes:
        note: which run of how many.
        file: name of the picture.
    """

    title: str
    note: str
    file: str
    map: StructureMap


def maps(comparisons: Sequence[Comparison], folder: Path) -> list[Shown]:
    """The structure of the first run of every group that has one, the best group of a comparison first.

    Args:
        comparisons: what the report is about.
        folder: of the report; the pictures are written into `figures`.
    """
    shown: list[Shown] = []
    for comparison in comparisons:
        for group in ranked(comparison):
            run = next((run for run in group.runs if run.data.get("structure")), None)
            if run is None:
                continue
            structure = Structure.from_dict(run.data["structure"])
            name = f"structure-{len(shown) + 1}.png"
            structure_png(structure, folder / "figures" / name)
            title = " · ".join(filter(None, (group.title, comparison.title)))
            note = f"seed {run.seed} of {seed_list([each.seed for each in group.runs])}"
            shown.append(Shown(title, note, name, structure_map(structure)))
    return shown
