"""`ablate`: what the loss says when adapters of a finished structure are closed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork.diagnosis.findings import NOTHING
from graftwork.errors import StructureError
from graftwork.files.hashing import stable_key
from graftwork.models.outputs import RowSample
from graftwork.progress import Phase
from graftwork.tuner.view import GraftView, graft_view

if TYPE_CHECKING:
    from graftwork.models.multitask import MultiTaskModel
    from graftwork.structure.structure import Structure

__all__ = ["ABLATION_ROWS", "ablate", "with_ranks"]

ABLATION_ROWS = 96
"""Validation rows on which adapters are closed one by one."""
ABLATION_ADAPTERS = 24
"""Largest number of adapters that are closed one by one, drawn at random if there are more."""


def ablate(
    model: MultiTaskModel,
    sample: RowSample,
    *,
    adapters: int = ABLATION_ADAPTERS,
    seed: int = 0,
    adapter_name: str | None = None,
    progress: Phase | None = None,
) -> dict[str, Any]:
    """Close open adapters one by one, for all tasks, and measure the loss.

    Only the rows of tasks that use an adapter are run again. The structure is put back.

    Args:
        model: a model whose structure is decided.
        sample: validation rows.
        adapters: how many adapters to try at most, chosen by chance.
        seed: of the choice.
        adapter_name: PEFT's name for the graft adapter; default the active one.
        progress: told of every adapter that was tried.

    Returns:
        `loss`, the mean over tasks; `adapters`: site, number in the pool, and `increase` of that loss; and
        `idle`: how many of them can be missed one at a time, and the increase without all of these at once.

    Raises:
        StructureError: gates are still being learned, so that no adapter is open or closed yet.
    """
    view = graft_view(model, adapter_name)
    if not view.decided:
        raise StructureError("gates are still being learned; decide them first, with gw.discretise_(model).")
    name = view.adapter_name
    used = [
        (site, k)
        for site, layer in view.sites.items()
        for k, column in enumerate((layer.graft_mask[name] > 0).any(dim=0).tolist())
        if column
    ]
    draw = random.Random(stable_key(seed, "ablation"))
    chosen = sorted(draw.sample(range(len(used)), min(adapters, len(used))))
    progress = progress or Phase("", "", None)
    progress.expect(len(chosen))
    before = sample.run(model)
    assert before is not None
    losses = before.losses(model)
    loss = float(np.mean(list(losses.values())))
    closed = [used[index] for index in chosen]
    increases = []
    for path in closed:
        increases.append(_increase(model, view, sample, losses, [path]))
        progress.advance()
    idle = [path for path, more in zip(closed, increases, strict=True) if more <= NOTHING * loss]
    return {
        "rows": len(sample),
        "loss": loss,
        "stored": len(used),
        "adapters": [
            {"site": site, "adapter": k, "increase": more}
            for (site, k), more in zip(closed, increases, strict=True)
        ],
        "idle": {"adapters": len(idle), "increase": _increase(model, view, sample, losses, idle)},
    }


def _increase(
    model: MultiTaskModel,
    view: GraftView,
    sample: RowSample,
    losses: Mapping[int, float],
    closed: Sequence[tuple[str, int]],
) -> float:
    """By how much the mean of the tasks' losses rises without these adapters (site, number in the pool)."""
    name = view.adapter_name
    masks = {site: view.sites[site].graft_mask[name].clone() for site, _ in closed}
    without = {site: mask.clone() for site, mask in masks.items()}
    for site, k in closed:
        without[site][:, k] = 0
    users = [task for task in losses if any(masks[site][task, k] > 0 for site, k in closed)]
    try:
        for site, mask in without.items():
            view.sites[site].set_mask(name, mask)
        after = sample.run(model, users)
    finally:
        for site, mask in masks.items():
            view.sites[site].set_mask(name, mask)
    changed = {} if after is None else after.losses(model)
    return float(sum(loss - losses[task] for task, loss in changed.items()) / len(losses))


def with_ranks(
    ablation: dict[str, Any], view: GraftView, structure: Structure, scores: Mapping[str, Any]
) -> dict[str, Any]:
    """The numbers adapters had in the whole pool, and how gates and strength rank them."""
    for entry in ablation["adapters"]:
        site = structure.sites[entry["site"]]
        if view.sites[entry["site"]].pools[view.adapter_name].size < site.pool_size:
            entry["adapter"] = [k for k, used in enumerate(site.used) if used][entry["adapter"]]
        if entry["site"] in scores:
            known = scores[entry["site"]]
            entry["gate"] = max(row[entry["adapter"]] for row in known["scores"])
            entry["strength"] = known["strength"][entry["adapter"]]
    rated = [entry for entry in ablation["adapters"] if "gate" in entry]
    for kind in ("gate", "strength"):
        pairs = [(entry[kind], entry["increase"]) for entry in rated]
        ablation[f"rank_correlation_{kind}"] = _rank_correlation(pairs)
    return ablation


def _rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's rank correlation; None for fewer than three pairs or a constant."""
    from scipy.stats import spearmanr

    first, second = ([pair[i] for pair in pairs] for i in (0, 1))
    if len(pairs) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)
