"""`Structure`: the paths of all tasks as plain data.

Nothing here knows a model: a structure can be printed, compared, drawn, saved and read without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graftwork.errors import StructureError
from graftwork.files.reading import parse_json
from graftwork.messages import listed, shown

__all__ = ["SiteStructure", "Structure"]

FORMAT = 1
"""Version of the JSON form."""
LARGEST = 2**53
"""Largest size of a site: the largest whole number that JSON readers keep exact."""


@dataclass(frozen=True)
class SiteStructure:
    """The part of a structure at one site.

    Attributes:
        pool_size: K, adapters on offer.
        r: rank of one adapter.
        cost: parameters of one adapter.
        open: `open[t][k]`: does task t use adapter k.
    """

    pool_size: int
    r: int
    cost: int
    open: tuple[tuple[bool, ...], ...]

    def __post_init__(self) -> None:
        """Freeze the table and check its shape."""
        for name in ("pool_size", "r", "cost"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST:
                raise StructureError(
                    f"{name}={shown(value)} of a site must be a whole number from 0 to {LARGEST:,}."
                )
        object.__setattr__(self, "open", tuple(tuple(bool(cell) for cell in row) for row in self.open))
        for row in self.open:
            if len(row) != self.pool_size:
                raise StructureError(f"a site with a pool of {self.pool_size} has a row of {len(row)} gates.")

    @property
    def used(self) -> tuple[bool, ...]:
        """For every adapter: does any task use it, that is, is it stored."""
        return tuple(any(column) for column in zip(*self.open, strict=True)) if self.open else ()


@dataclass(frozen=True)
class Structure:
    """Which adapters of which sites every task uses.

    With z[t, s, k] in {0, 1} whether task t uses adapter k of site s, and n_s the parameters of one adapter,
    `sum_s n_s sum_k max_t z[t, s, k]` parameters are stored, and a task uses `sum_s n_s sum_k z[t, s, k]`.

    Attributes:
        tasks: task names, the rows of every site's table.
        sites: site name -> its table, in the model's order.

    Raises:
        StructureError: a site has no row for each task, or a task is named twice.

    Example:
        >>> site = {"pool_size": 3, "r": 1, "cost": 65, "open": [[1, 1, 0], [1, 0, 0]]}
        >>> data = {"format": 1, "tasks": ["a", "b"], "sites": {"layer.0.output": site}}
        >>> structure = gw.Structure.from_dict(data)
        >>> structure.parameters(), structure.parameters("b")
        (130, 65)
        >>> structure.counts()
        {'a': 2, 'b': 1}
        >>> sorted(structure.paths("a"))
        [('layer.0.output', 0), ('layer.0.output', 1)]
        >>> structure.diff(structure.only("a"))
        {'b': {'opened': [], 'closed': [('layer.0.output', 0)]}}
    """

    tasks: tuple[str, ...]
    sites: Mapping[str, SiteStructure]

    def __post_init__(self) -> None:
        """Check that every site has a row per task."""
        object.__setattr__(self, "tasks", tuple(self.tasks))
        faults = [shown(task) for task in self.tasks if not isinstance(task, str) or not task]
        if faults:
            raise StructureError(f"the structure names the task {faults[0]}; a name is a non-empty string.")
        if len(set(self.tasks)) < len(self.tasks):
            raise StructureError(f"the structure names a task twice: {listed(self.tasks)}.")
        for name, site in self.sites.items():
            if len(site.open) != len(self.tasks):
                raise StructureError(
                    f"site {shown(name)} has gates for {len(site.open)} tasks, but the structure names "
                    f"{len(self.tasks)}."
                )

    def _row(self, task: str) -> int:
        if task not in self.tasks:
            raise StructureError(f"unknown task {task!r}; the structure has {listed(self.tasks)}.")
        return self.tasks.index(task)

    def parameters(self, task: str | None = None) -> int:
        """Stored adapter parameters (each stored adapter once), or the active ones of one task."""
        if task is None:
            return sum(site.cost * sum(site.used) for site in self.sites.values())
        row = self._row(task)
        return sum(site.cost * sum(site.open[row]) for site in self.sites.values())

    def total(self, prices: Mapping[str, float], task: str | None = None) -> float:
        """Like `parameters`, with the price of an adapter given per site."""
        tables = {
            name: site.used if task is None else site.open[self._row(task)]
            for name, site in self.sites.items()
        }
        return sum(prices[name] * sum(table) for name, table in tables.items())

    def counts(self) -> dict[str, int]:
        """Open adapters on the path of every task."""
        return {
            task: sum(sum(site.open[row]) for site in self.sites.values())
            for row, task in enumerate(self.tasks)
        }

    def paths(self, task: str) -> set[tuple[str, int]]:
        """The open (site, adapter) pairs of one task."""
        row = self._row(task)
        return {
            (name, k) for name, site in self.sites.items() for k, gate in enumerate(site.open[row]) if gate
        }

    def only(self, task: str) -> Structure:
        """The structure of one task alone."""
        row = self._row(task)
        return Structure(
            (task,),
            {name: SiteStructure(s.pool_size, s.r, s.cost, (s.open[row],)) for name, s in self.sites.items()},
        )

    def diff(self, other: Structure) -> dict[str, dict[str, list[tuple[str, int]]]]:
        """What `other` opens and closes compared with this structure, for every task that differs.

        Returns:
            task -> {"opened": pairs, "closed": pairs}; tasks of only one side count as all closed on the
            other.
        """
        changes: dict[str, dict[str, list[tuple[str, int]]]] = {}
        for task in dict.fromkeys((*self.tasks, *other.tasks)):
            mine = self.paths(task) if task in self.tasks else set()
            theirs = other.paths(task) if task in other.tasks else set()
            if mine != theirs:
                changes[task] = {"opened": sorted(theirs - mine), "closed": sorted(mine - theirs)}
        return changes

    def compacted(self) -> Structure:
        """The same paths without the adapters nobody uses and without the sites that have none."""
        sites = {}
        for name, site in self.sites.items():
            keep = [k for k, used in enumerate(site.used) if used]
            if keep:
                table = tuple(tuple(row[k] for k in keep) for row in site.open)
                sites[name] = SiteStructure(len(keep), site.r, site.cost, table)
        return Structure(self.tasks, sites)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        return {
            "format": FORMAT,
            "tasks": list(self.tasks),
            "sites": {
                name: {
                    "pool_size": site.pool_size,
                    "r": site.r,
                    "cost": site.cost,
                    "open": [[int(cell) for cell in row] for row in site.open],
                }
                for name, site in self.sites.items()
            },
        }

    @classmethod
    def from_dict(cls, data: Any) -> Structure:
        """The structure of a dictionary made by `to_dict`.

        Raises:
            StructureError: a key is missing or a value has the wrong form.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise StructureError(f"not a structure of format {FORMAT}: found {shown(found)}.")
        tasks, sites = data.get("tasks"), data.get("sites")
        if not isinstance(tasks, list | tuple) or not isinstance(sites, Mapping):
            raise StructureError("not a structure: it needs a list `tasks` and a mapping `sites`.")
        if sites and not tasks:
            raise StructureError("not a structure: it has sites, but no task.")
        return cls(tuple(tasks), {str(name): _site_from(name, site) for name, site in sites.items()})

    def to_json(self) -> str:
        """The JSON form; `from_json` gives an equal structure."""
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Structure:
        """The structure of a JSON text made by `to_json`.

        Raises:
            StructureError: the text is not JSON or not a structure.
        """
        try:
            data = parse_json(text)
        except ValueError as error:
            raise StructureError(f"a structure must be JSON: {error}.") from error
        return cls.from_dict(data)


def _site_from(name: object, data: Any) -> SiteStructure:
    keys = ("pool_size", "r", "cost", "open")
    if not isinstance(data, Mapping) or not all(key in data for key in keys):
        raise StructureError(f"not a structure: site {shown(name)} needs {', '.join(keys)}.")
    table = data["open"]
    rows = table if isinstance(table, list | tuple) else [None]
    if not all(isinstance(row, list | tuple) and all(cell in (0, 1) for cell in row) for row in rows):
        raise StructureError(f"not a structure: `open` of site {shown(name)} must be rows of 0 and 1.")
    try:
        return SiteStructure(data["pool_size"], data["r"], data["cost"], table)
    except StructureError as error:
        raise StructureError(f"site {shown(name)}: {error}") from None
