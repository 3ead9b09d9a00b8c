"""Which tasks have inputs that look alike, so that they should share adapters from the start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from graftwork.data.pairs.second import SECOND
from graftwork.errors import DataError

__all__ = ["ROWS", "THRESHOLD", "group_tasks", "input_distances"]

ROWS = 96
"""Rows per task from which its mean is estimated."""

THRESHOLD = 0.25
"""Squared distance of two tasks' means, as a part of the variance within the tasks, below which they share
adapters."""


@torch.no_grad()
def input_distances(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], tasks: Sequence[str]
) -> Float[Tensor, "tasks tasks"]:
    r"""How far apart the inputs of tasks are for a model, in units of their variance.

    .. math::
        D_{a b} = \frac{1}{L} \sum_l \frac{|\mu_{a l} - \mu_{b l}|^2 - v_{a l} / n_a - v_{b l} / n_b}
                  {(v_{a l} + v_{b l}) / 2}

    with :math:`\mu` the mean and v the total variance, over the :math:`n` rows of a task, of the hidden
    states after layer l (and of the embeddings), averaged over the tokens of a row. 0 for tasks that cannot
    be told apart (the estimate is unbiased, so it may be slightly negative).

    Args:
        model: a transformer that gives `hidden_states`, before or after it was wrapped.
        batches: `input_ids`, `attention_mask` and whatever else the model reads, and `graft_rows`, the task
            of every row. Labels are not used.
        tasks: names of the tasks.

    Raises:
        DataError: a task has fewer than two rows.

    Returns:
        D, symmetric, 0 on the diagonal.

    Example:
        >>> import torch
        >>> batch = {
        ...     "input_ids": torch.tensor([[2, 4, 5, 3], [2, 5, 4, 3], [2, 8, 9, 3], [2, 9, 8, 3]]),
        ...     "graft_rows": torch.tensor([0, 0, 1, 1]),
        ... }
        >>> distances = gw.input_distances(backbone, [batch], ["colours", "things"])
        >>> distances.shape, bool(distances[0, 1] > 1)
        (torch.Size([2, 2]), True)
    """
    device = next(model.parameters()).device
    totals: Tensor | None = None
    squares = counts = torch.zeros(0)
    training = model.training
    model.eval()
    try:
        for batch in batches:
            inputs = {
                name: value.to(device)
                for name, value in batch.items()
                if name != "labels" and not name.startswith(SECOND)  # the first of two texts says enough
            }
            rows, windows = inputs.pop("graft_rows"), inputs.pop("windows", None)
            inputs.pop("places", None)
            if windows is not None:  # each counts as a row
                rows = rows.repeat_interleave((windows >= 0).sum(dim=1))
            layers = model(**inputs, output_hidden_states=True).hidden_states
            if "attention_mask" in inputs:
                mask = inputs["attention_mask"].unsqueeze(-1)
                means = torch.stack([(layer * mask).sum(dim=1) / mask.sum(dim=1) for layer in layers], dim=1)
            else:  # stages of a backbone of images may differ in width: those as wide as the last
                wide = [layer for layer in layers if layer.shape[-1] == layers[-1].shape[-1]]
                means = torch.stack([layer.mean(dim=1) for layer in wide], dim=1)
            means = means.double()
            if totals is None:
                totals = means.new_zeros(len(tasks), *means.shape[1:])
                squares, counts = means.new_zeros(len(tasks), means.shape[1]), means.new_zeros(len(tasks))
            totals.index_add_(0, rows, means)
            squares.index_add_(0, rows, means.square().sum(dim=2))
            counts.index_add_(0, rows, means.new_ones(len(rows)))
    finally:
        model.train(training)
    few = [name for name, count in zip(tasks, counts.tolist() or [0] * len(tasks), strict=True) if count < 2]
    if few or totals is None:
        raise DataError(f"task {few[0]!r} has fewer than two rows to compare its inputs by; give it more.")
    means = totals / counts[:, None, None]
    variance = (squares - counts[:, None] * means.square().sum(dim=2)) / (counts[:, None] - 1)
    apart = (means[:, None] - means[None, :]).square().sum(dim=3)
    error = variance / counts[:, None]
    within = ((variance[:, None] + variance[None, :]) / 2).clamp_min(1e-30)
    distances: Tensor = ((apart - error[:, None] - error[None, :]) / within).mean(dim=2)
    return distances.fill_diagonal_(0.0).float().cpu()


def group_tasks(
    distances: Float[Tensor, "tasks tasks"], tasks: Sequence[str], threshold: float = THRESHOLD
) -> list[list[str]]:
    r"""Groups of tasks: the two nearest become one, as long as their mean distance is below the threshold.

    .. math:: D(G, H) = \frac{1}{|G| |H|} \sum_{a \in G} \sum_{b \in H} D_{a b}

    Args:
        distances: [tasks, tasks], symmetric, in units of the variance, as made by `input_distances`.
        tasks: names of the tasks.
        threshold: mean distance between the tasks of two groups below which they become one.

    Returns:
        The tasks of every group, in their order.

    Source: average linkage (UPGMA), Sokal and Michener 1958.

    Example:
        >>> import torch
        >>> distances = torch.tensor([[0.0, 0.1, 2.0], [0.1, 0.0, 1.8], [2.0, 1.8, 0.0]])
        >>> gw.group_tasks(distances, ["a", "b", "c"])
        [['a', 'b'], ['c']]
    """
    table: list[list[float]] = distances.tolist()
    groups = [[task] for task in range(len(tasks))]

    def mean(first: list[int], second: list[int]) -> float:
        return sum(table[a][b] for a in first for b in second) / (len(first) * len(second))

    while len(groups) > 1:
        pairs = [(mean(groups[i], groups[j]), i, j) for j in range(len(groups)) for i in range(j)]
        distance, i, j = min(pairs)
        if distance >= threshold:
            break
        groups[i] = sorted(groups[i] + groups.pop(j))
    return [[tasks[task] for task in group] for group in sorted(groups)]
