"""The structure as a map that can be asked: a cell for every site, by layer and kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from graftwork.structure.drawing import kinds_of
from graftwork.structure.structure import Structure

__all__ = ["Cell", "StructureMap", "structure_map"]


@dataclass(frozen=True)
class Cell:
    """One site.

    Attributes:
        site: its name.
        tasks: open adapters of every task, in their order.
        stored: open adapters, each once.
        shared: those of them that two tasks or more use.
        parameters: of what is stored.
        costs: what closing its adapters one by one cost in the diagnosis, as far as that was tried: the
            largest rise of the validation loss.
    """

    site: str
    tasks: tuple[int, ...]
    stored: int
    shared: int
    parameters: int
    costs: float | None

    @property
    def data(self) -> dict[str, Any]:
        """For the script of the page."""
        return asdict(self)


@dataclass(frozen=True)
class StructureMap:
    """All sites.

    Attributes:
        tasks: their names.
        layers: the columns; None for sites that are in no layer.
        rows: name of a kind of site, and its cell in every layer.
        most: the largest number of open adapters of a task at one site.
        tried: whether a diagnosis has closed adapters to see what that costs.
    """

    tasks: tuple[str, ...]
    layers: tuple[int | None, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    most: int
    tried: bool

    @property
    def data(self) -> dict[str, Any]:
        """For the script of the page: the cells in the order in which they stand there."""
        cells = [cell.data for _, cells in self.rows for cell in cells if cell is not None]
        return {"tasks": self.tasks, "cells": cells, "tried": self.tried}


def structure_map(structure: Structure, report: Mapping[str, Any] | None = None) -> StructureMap:
    """The map of a structure.

    Args:
        structure: what is drawn.
        report: the contents of `report.json`: what the diagnosis has measured; None if nothing was.
    """
    ablation = ((report or {}).get("diagnosis") or {}).get("ablation") or {}
    costs: dict[str, float] = {}
    for tried in ablation.get("adapters", []):
        site = tried["site"]
        costs[site] = max(costs.get(site, tried["increase"]), tried["increase"])
    kinds = kinds_of(structure)
    layers = sorted(
        {layer for kind in kinds for layer, _ in kind.sites}, key=lambda layer: -1 if layer is None else layer
    )
    rows = []
    for kind in kinds:
        places = dict(kind.sites)
        cells = [_cell(structure, places[layer], costs) if layer in places else None for layer in layers]
        rows.append((kind.label, tuple(cells)))
    most = max((count for _, cells in rows for cell in cells if cell for count in cell.tasks), default=0)
    return StructureMap(structure.tasks, tuple(layers), tuple(rows), most, report is not None)


def _cell(structure: Structure, name: str, costs: Mapping[str, float]) -> Cell:
    site = structure.sites[name]
    users = [sum(column) for column in zip(*site.open, strict=True)]
    stored = sum(count > 0 for count in users)
    return Cell(
        site=name,
        tasks=tuple(sum(row) for row in site.open),
        stored=stored,
        shared=sum(count > 1 for count in users),
        parameters=site.cost * stored,
        costs=costs.get(name),
    )
