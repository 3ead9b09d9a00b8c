"""`route`: which task the rows of every forward pass inside a context belong to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from graftwork.errors import RoutingError
from graftwork.routing.router import find_router
from graftwork.routing.rows import Route, unknown_task

__all__ = ["route"]


@contextmanager
def route(model: nn.Module, tasks: str | Sequence[str]) -> Iterator[None]:
    """Say which task the rows of a batch belong to, for every forward pass inside the context.

    Contexts nest: the inner one wins. `graft_rows=` of a single call wins over both. A route holds for the
    thread that opened it.

    Args:
        model: a model with graft adapters, at any depth.
        tasks: one task name for all rows, or one per row.

    Raises:
        RoutingError: `model` has no graft adapter, or a task is unknown to all of them.

    Example:
        >>> from peft import get_peft_model
        >>> model = get_peft_model(backbone, gw.GraftConfig(tasks=["a", "b"], budget=0.03)).eval()
        >>> with gw.route(model, "b"):  # every row
        ...     hidden = model(**tokens).last_hidden_state
        >>> with gw.route(model, ["a", "b"]):  # one task for each of two rows
        ...     hidden = model(**tokens).last_hidden_state
        >>> model(**tokens)
        Traceback (most recent call last):
            ...
        graftwork.errors.RoutingError: the model has 2 tasks (a, b), but no route says which one ...
    """
    from graftwork.tuner.layer import GraftLayer

    router = find_router(model)
    if router is None:
        raise RoutingError(
            f"{type(model).__name__} has no graft adapter to route; wrap it with "
            "get_peft_model(model, GraftConfig(...)) first."
        )
    new = Route(tasks)
    layers = (module for module in model.modules() if isinstance(module, GraftLayer))
    known = list(
        dict.fromkeys(name for layer in layers for pool in layer.pools.values() for name in pool.tasks)
    )
    for name in sorted(new.names()):
        if known and name not in known:
            raise unknown_task(name, known)
    with router.using(new):
        yield
