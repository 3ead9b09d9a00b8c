"""Where the right passage of every query stands among all passages, by the cosine of their vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["chance", "ranked_against", "ranks", "with_cosine"]

CHUNK = 1024
"""Queries that are compared with all passages at a time, which bounds the memory."""


def with_cosine(u: NDArray[Any], v: NDArray[Any]) -> NDArray[Any]:
    """Outputs of rows, [N, 1 + 2 d]: the cosine of both vectors, and the vectors, with length 1.

    Args:
        u: of the queries, shape [N, d].
        v: of the passages, shape [N, d].
    """
    u, v = (part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in (u, v))
    return np.concatenate([(u * v).sum(axis=1, keepdims=True), u, v], axis=1)


def ranks(outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
    """The place of every row's own passage among all distinct passages of the rows, from 1.

    Of passages that are as near as the right one it is the last. Other passages that are right for the same
    query are left out.

    Args:
        outputs: as `with_cosine` has them, of all rows among whose passages is searched.
        targets: which query and which passage a row has, shape [N, 2].
    """
    u, v = np.split(outputs[:, 1:], 2, axis=1)
    _, first, own = np.unique(targets[:, 1], return_index=True, return_inverse=True)
    passages = v[first]
    order, starts = _by_query(targets)
    found = np.empty(len(targets))
    for start in range(0, len(targets), CHUNK):
        rows = slice(start, start + CHUNK)
        near = u[rows] @ passages.T
        right = near[np.arange(len(near)), own[rows]].copy()
        for place, (low, high) in enumerate(starts[rows]):
            if high - low > 1:
                near[place, own[order[low:high]]] = -np.inf
        near[np.arange(len(near)), own[rows]] = right
        found[rows] = (near >= right[:, None]).sum(axis=1)
    return found


def ranked_against(targets: NDArray[Any]) -> NDArray[np.float64]:
    """How many passages every row's query is ranked against, its own included, shape [N]."""
    passages = len(np.unique(targets[:, 1]))
    pairs = np.unique(targets, axis=0)
    queries, counts = np.unique(pairs[:, 0], return_counts=True)
    right = counts[np.searchsorted(queries, targets[:, 0])]
    return (passages - right + 1).astype(np.float64)


def chance(metric: str, against: NDArray[Any]) -> float:
    """What a random order of the passages scores, in the mean over all orders.

    Args:
        metric: `mrr` or `recall@K`.
        against: passages that every query is ranked against, shape [N].
    """
    if metric == "mrr":
        harmonic = np.cumsum(1.0 / np.arange(1, int(against.max()) + 1))
        return float((harmonic[against.astype(np.int64) - 1] / against).mean())
    return float(np.minimum(1.0, int(metric.removeprefix("recall@")) / against).mean())


def _by_query(targets: NDArray[Any]) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
    """The rows sorted by query, and for every row where those of its query are among them."""
    queries = targets[:, 0]
    order = np.argsort(queries, kind="stable")
    low = np.searchsorted(queries[order], queries, side="left")
    high = np.searchsorted(queries[order], queries, side="right")
    return order, list(zip(low.tolist(), high.tolist(), strict=True))
