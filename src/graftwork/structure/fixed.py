"""Structures that nobody learned, of the same size as a learned one: what a search must beat.

A fixed structure is made by a small function from `Terms` to a `Structure` that meets the budget: no further
adapter fits. `FIXED_STRUCTURES` has those that are made by rule; `file:PATH` and `task:NAME:PATH` take theirs
from another run.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from graftwork.errors import ConfigError, StructureError
from graftwork.files.reading import user_path
from graftwork.messages import did_you_mean, shown
from graftwork.structure.choosing import choose_structure, paths_structure
from graftwork.structure.file import adopt, named_file, read_structure_file
from graftwork.structure.groups import check_groups
from graftwork.structure.ranking import Place, SiteScores, fill
from graftwork.structure.structure import SiteStructure, Structure

__all__ = ["FIXED_STRUCTURES", "GROUPED", "Terms", "check_fixed_structure", "fixed_structure"]

GROUPED = "grouped_paths"
"""Name of the fixed structure that needs groups of tasks."""
_ROUNDING = 1e-12
"""Relative rounding error that a sum of prices may have."""


@dataclass(frozen=True)
class Terms:
    """What a fixed structure is made for.

    Attributes:
        whole: the structure with everything open: tasks, sites and pools.
        budget: sum of the prices of the stored adapters allowed.
        prices: site name -> price of one adapter, in the unit of the budget.
        task_budget: sum of the prices of one task's adapters allowed, or None.
        seed: of what is drawn.
        groups: the tasks that share a path in `grouped_paths`, as lists of names; or None.
    """

    whole: Structure
    budget: float
    prices: Mapping[str, float]
    task_budget: float | None = None
    seed: int = 0
    groups: Sequence[Sequence[str]] | None = None

    def places(self) -> list[Place]:
        """All adapters, site by site."""
        return [(name, k) for name, site in self.whole.sites.items() for k in range(site.pool_size)]


FIXED_STRUCTURES: dict[str, Callable[[Terms], Structure]] = {}
"""Name of a fixed structure -> the function that makes it."""


def _register(make: Callable[[Terms], Structure]) -> Callable[[Terms], Structure]:
    FIXED_STRUCTURES[make.__name__.removesuffix("_union")] = make
    return make


def fixed_structure(
    name: str,
    whole: Structure,
    budget: float | None,
    *,
    prices: Mapping[str, float] | None = None,
    task_budget: float | None = None,
    seed: int = 0,
    groups: Sequence[Sequence[str]] | None = None,
) -> Structure:
    """The fixed structure called `name`.

    Args:
        name: a name of `FIXED_STRUCTURES`; `file:PATH`, the structure of another run; or `task:NAME:PATH`,
            where all tasks take the path of the task NAME in that file.
        whole: the structure with everything open: tasks, sites and pools.
        budget: stored adapters allowed, in parameters or in the unit of `prices`. A structure from a file has
            its own size; a budget then is a bound.
        prices: site name -> price of one adapter, in the unit of the budgets; default its parameters.
        task_budget: the same for what one task uses.
        seed: of what is drawn.
        groups: the tasks that share a path in `grouped_paths`.

    Raises:
        ConfigError: there is no such structure, or it needs a budget or groups.
        StructureError: the structure does not fit the budgets, the tasks or the sites.
    """
    check_fixed_structure(name)
    if prices is None:
        prices = {site: found.cost for site, found in whole.sites.items()}
    if name in FIXED_STRUCTURES:
        if budget is None:
            raise ConfigError(
                f"structure={shown(name)} needs a budget, to be of the size of what it is compared with."
            )
        structure = FIXED_STRUCTURES[name](Terms(whole, budget, prices, task_budget, seed, groups))
    else:
        prefix, path = named_file(name) or ("", "")
        task = prefix[len("task:") : -1] or None
        structure = adopt(read_structure_file(user_path(path)), whole, path, task)
    _check_budgets(name, structure, prices, budget, task_budget)
    return structure


def check_fixed_structure(name: str) -> None:
    """Refuse a name that `fixed_structure` does not know.

    Raises:
        ConfigError: the message lists what there is.
    """
    if name in FIXED_STRUCTURES or named_file(name):
        return
    raise ConfigError(
        f"structure={shown(name)} is not known{did_you_mean(name, FIXED_STRUCTURES)} Allowed: "
        f"{', '.join(FIXED_STRUCTURES)}, file:PATH, task:NAME:PATH."
    )


@_register
def random_union(terms: Terms) -> Structure:
    """Adapters drawn at random; every task uses all of them."""
    places = terms.places()
    random.Random(terms.seed).shuffle(places)
    return _shared(terms.whole, fill(places, terms.prices, terms.budget))


@_register
def random_paths(terms: Terms) -> Structure:
    """Every gate gets a random P(open), and the budgets decide: the tasks' paths are random as well."""
    draw = random.Random(terms.seed)
    tasks = terms.whole.tasks
    scores = {
        name: SiteScores(
            site.r,
            site.cost,
            tuple(tuple(draw.random() for _ in range(site.pool_size)) for _ in tasks),
            (1.0,) * site.pool_size,
            terms.prices[name],
        )
        for name, site in terms.whole.sites.items()
    }
    return choose_structure(tasks, scores, terms.budget, task_budget=terms.task_budget)


@_register
def uniform(terms: Terms) -> Structure:
    """The same number of adapters at every site, what is left spread evenly; every task uses all.

    Raises:
        StructureError: the budget does not reach for one adapter at every site.
    """
    least = sum(terms.prices.values())
    if least > terms.budget * (1 + _ROUNDING):
        raise StructureError(
            f"structure='uniform' needs an adapter at each of the {len(terms.prices)} sites ({least:,.10g}), "
            f"but the budget allows {terms.budget:,.10g}; lower r, with a larger pool_size, or raise it."
        )
    return _shared(terms.whole, fill(_spread(terms, terms.budget), terms.prices, terms.budget))


@_register
def top_layers(terms: Terms) -> Structure:
    """The last site's whole pool, then the one before, as far as the budget reaches; every task uses all."""
    places = [
        (name, k) for name, site in list(terms.whole.sites.items())[::-1] for k in range(site.pool_size)
    ]
    return _shared(terms.whole, fill(places, terms.prices, terms.budget))


@_register
def shared_path(terms: Terms) -> Structure:
    """One path for all tasks, spread evenly over the sites: `private_paths` with everything shared."""
    return _shared(terms.whole, fill(_spread(terms, terms.budget), terms.prices, terms.budget))


@_register
def private_paths(terms: Terms) -> Structure:
    """A path of its own for every task, no adapter shared, the budget split evenly, spread over the sites.

    The task that has got least so far gets the next adapter.

    Raises:
        StructureError: there is not an adapter for every task.
    """
    return _divided(terms, "private_paths", [[task] for task in range(len(terms.whole.tasks))])


@_register
def grouped_paths(terms: Terms) -> Structure:
    """A path of its own for every group of tasks, as `private_paths`; a group's part goes by its tasks.

    Raises:
        ConfigError: the groups are missing, or no partition of the tasks.
        StructureError: there is not an adapter for every group.
    """
    return _divided(terms, "grouped_paths", check_groups(terms.groups, terms.whole.tasks))


def _divided(terms: Terms, name: str, groups: Sequence[Sequence[int]]) -> Structure:
    """A path for every group of tasks, none of it shared with others; `name` is for the message."""
    tasks = len(terms.whole.tasks)
    wishes = []
    for index, group in enumerate(groups):
        share = terms.budget * len(group) / tasks
        wishes.append([site for site, _ in _spread(terms, share, (index + 0.5) / len(groups))])
    used = dict.fromkeys(terms.whole.sites, 0)
    paths: list[set[Place]] = [set() for _ in groups]
    spent = [0.0 for _ in groups]
    left, hungry = terms.budget, set(range(len(groups)))

    def fits(site: str) -> bool:
        free = used[site] < terms.whole.sites[site].pool_size
        return free and terms.prices[site] <= left + terms.budget * _ROUNDING

    while hungry:
        poorest = min(hungry, key=lambda index: (spent[index] / len(groups[index]), index))
        site = next(filter(fits, wishes[poorest]), None)
        if site is None:
            hungry.discard(poorest)
            continue
        wishes[poorest].remove(site)
        paths[poorest].add((site, used[site]))
        used[site] += 1
        spent[poorest] += terms.prices[site]
        left -= terms.prices[site]
    if not all(paths):
        who = "tasks" if len(groups) == tasks else "groups"
        raise StructureError(
            f"structure={name!r} needs an adapter for each of the {len(groups)} {who}, but a budget of "
            f"{terms.budget:,.10g} has only {sum(map(len, paths))}; raise it or lower r."
        )
    owner = {task: index for index, group in enumerate(groups) for task in group}
    return paths_structure(terms.whole, [paths[owner[task]] for task in range(tasks)])


@_register
def half_shared(terms: Terms) -> Structure:
    """Half of the budget is one path for all tasks, the other half a path of its own for every task.

    Raises:
        StructureError: the second half has not an adapter for every task.
    """
    shared = fill(_spread(terms, terms.budget / 2), terms.prices, terms.budget / 2)
    taken = {name: sum(place[0] == name for place in shared) for name in terms.whole.sites}
    free = {}
    for name, site in terms.whole.sites.items():
        size = site.pool_size - taken[name]
        free[name] = SiteStructure(size, site.r, site.cost, ((True,) * size,) * len(terms.whole.tasks))
    rest = terms.budget - _price(shared, terms)
    other = replace(terms, whole=Structure(terms.whole.tasks, free), budget=rest)
    own = _divided(other, "half_shared", [[task] for task in range(len(terms.whole.tasks))])
    paths = [
        {*shared, *((name, k + taken[name]) for name, k in own.paths(task))} for task in terms.whole.tasks
    ]
    return paths_structure(terms.whole, paths)


def _spread(terms: Terms, budget: float, phase: float = 0.5) -> list[Place]:
    """All adapters, so that those that fit the budget, from the first on, lie evenly over the sites.

    As many rounds over all sites as fit come first, then the largest part of a round that fits, at even
    distances; `phase` in (0, 1) shifts them, so that several such lists take different sites.
    """
    first: list[Place] = []
    rest: list[Place] = []
    left = budget * (1 + _ROUNDING)
    for k in range(max((site.pool_size for site in terms.whole.sites.values()), default=0)):
        layer = [(name, k) for name, site in terms.whole.sites.items() if k < site.pool_size]
        picked: list[Place] = []
        for count in range(0 if rest else len(layer), 0, -1):
            picked = [layer[int((index + phase) * len(layer) / count)] for index in range(count)]
            if _price(picked, terms) <= left:
                break
            picked = []
        first += picked
        left -= _price(picked, terms)
        rest += [place for place in _scattered(layer, phase) if place not in picked]
    return first + rest


def _scattered(layer: Sequence[Place], phase: float) -> list[Place]:
    """In an order whose every beginning is spread: by the position with its bits reversed."""
    start = int(phase * len(layer))
    turned = [*layer[start:], *layer[:start]]
    order = sorted(range(len(turned)), key=lambda index: int(f"{index:032b}"[::-1], 2))
    return [turned[index] for index in order]


def _price(places: Iterable[Place], terms: Terms) -> float:
    # Rounded once: the sum of fractions over a set must not depend on the order of the set.
    return math.fsum(terms.prices[name] for name, _ in places)


def _shared(whole: Structure, path: Collection[Place]) -> Structure:
    return paths_structure(whole, [path] * len(whole.tasks))


def _check_budgets(
    name: str,
    structure: Structure,
    prices: Mapping[str, float],
    budget: float | None,
    task_budget: float | None,
) -> None:
    stored = structure.total(prices)
    if budget is not None and stored > budget * (1 + _ROUNDING):
        raise StructureError(
            f"structure={shown(name)} takes {stored:,.10g}, more than the budget of {budget:,.10g}; raise it "
            "or leave it out."
        )
    for task in structure.tasks if task_budget is not None else ():
        active = structure.total(prices, task)
        if task_budget is not None and active > task_budget * (1 + _ROUNDING):
            raise StructureError(
                f"structure={shown(name)} takes {active:,.10g} for task {task!r}, more than the task budget "
                f"of {task_budget:,.10g}; raise it, or use random_paths or private_paths."
            )
