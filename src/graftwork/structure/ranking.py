"""Which adapters are stored and which task uses which: rankings of scores, filled into budgets.

Plain numbers in, sets of (site, adapter) out; nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from graftwork.files.hashing import stable_key

__all__ = ["RANKINGS", "Place", "SiteScores", "choose_paths", "fill"]

Place = tuple[str, int]
"""An adapter: the name of its site and its number in the pool."""

RANKINGS: dict[str, Callable[[float, float], tuple[float, ...]]] = {
    "prob_open": lambda score, strength: (round(score, 3), strength),
    "strength": lambda score, strength: (strength,),
    "product": lambda score, strength: (score * strength, strength),
}
"""How adapters are ranked, best first, from their strength and the highest P(open) that a task gives them.

`prob_open`: P(open) rounded to 3 decimals, ties by strength; `strength`: strength alone, whatever the gates
say; `product`: P(open) x strength, ties by strength. What is still tied is ordered by a hash of its name.
"""

_ROUNDING = 1e-12
"""Relative rounding error that a sum of prices may have: prices need not be whole numbers."""


@dataclass(frozen=True)
class SiteScores:
    """What the choice of a structure knows of one site.

    Attributes:
        r: rank of one adapter.
        cost: parameters of one adapter.
        scores: what is ranked, `scores[t][k]` in [0, 1]: P(open), or what the gate family has in its place.
        strength: `sum_i |down_i| |up_i|` of every adapter.
        price: of one adapter, in the unit of the budget; default its parameters.
    """

    r: int
    cost: int
    scores: tuple[tuple[float, ...], ...]
    strength: tuple[float, ...]
    price: float | None = None

    @property
    def takes(self) -> float:
        """The price of one adapter, in the unit of the budget."""
        return self.cost if self.price is None else self.price


def fill(places: Iterable[Place], prices: Mapping[str, float], budget: float) -> set[Place]:
    """The adapters of `places`, best first, that fit: each is taken unless it is dearer than what is left.

    Args:
        places: in the order of their rank.
        prices: site name -> price of one adapter.
        budget: sum of prices allowed; of the adapters not taken, none fits into what is left.
    """
    taken: set[Place] = set()
    left, least = budget, -budget * _ROUNDING
    for place in places:
        if left - prices[place[0]] >= least:
            taken.add(place)
            left -= prices[place[0]]
    return taken


def choose_paths(
    sites: Mapping[str, SiteScores],
    budget: float | None,
    *,
    task_budget: float | None = None,
    rank_by: str = "prob_open",
    within: Sequence[Collection[Place]] | None = None,
) -> list[set[Place]]:
    """The adapters of every task; what any task uses is stored (`choose_structure`).

    An adapter that the ranking stores and whose tasks all have better use for their own budgets would be
    stored for nobody. It is left out and the ranking is filled again, until every stored adapter is used.

    Args:
        sites: site name -> scores.
        budget: sum of the prices of the stored adapters allowed, or None.
        task_budget: sum of the prices of one task's adapters allowed, or None.
        rank_by: a name of `RANKINGS`.
        within: per task, the only adapters that it may use.
    """
    prices = {name: site.takes for name, site in sites.items()}
    keenest = {
        (name, k): max(column)
        for name, site in sites.items()
        for k, column in enumerate(zip(*site.scores, strict=True))
    }
    ranked = _rank(keenest, lambda place: keenest[place], sites, rank_by)
    tasks = len(next(iter(sites.values())).scores) if sites else 0
    wanted = []
    for task in range(tasks):
        own = {(name, k): p for name, site in sites.items() for k, p in enumerate(site.scores[task])}
        paths = {place for place in ranked if own[place] >= 0.5 * keenest[place]}
        paths = paths if within is None else paths & set(within[task])
        wanted.append(_rank(paths, own.__getitem__, sites, "prob_open"))
    candidates = [place for place in ranked if budget is not None or keenest[place] >= 0.5]
    while True:
        stored = set(candidates) if budget is None else fill(candidates, prices, budget)
        kept = [[place for place in path if place in stored] for path in wanted]
        used = [set(path) if task_budget is None else fill(path, prices, task_budget) for path in kept]
        unused = stored.difference(*used)
        if not unused:
            return used
        candidates = [place for place in candidates if place not in unused]


def _rank(
    places: Iterable[Place],
    score: Callable[[Place], float],
    sites: Mapping[str, SiteScores],
    rank_by: str,
) -> list[Place]:
    """Best first."""
    ranking = RANKINGS[rank_by]

    def key(place: Place) -> tuple[float, ...]:
        worth = ranking(score(place), sites[place[0]].strength[place[1]])
        return (*(-value for value in worth), stable_key(*place))

    return sorted(places, key=key)
