"""Routing: which task each row of a batch belongs to.

A route is either one task for the whole batch or one per row. It is kept in a `ContextVar`, so threads and
nested contexts do not disturb each other, and adapter layers look it up during their forward pass:

    with gw.route(model, "mnli"):                        # every row
        model(**batch)
    with gw.route(model, ["mnli", "boolq", "mnli"]):     # one task per row
        model(**batch)
    model(**batch, graft_rows=torch.tensor([0, 1, 0]))   # indices into GraftConfig.tasks

`graft_rows` is taken out of the keyword arguments by a hook on the backbone, so no model sees it.
"""

from __future__ import annotations

import contextvars
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.attached import attach, find_attached
from graftwork.errors import RoutingError
from graftwork.routing.rows import ROWS_KEYWORD, Route, repeats_of

__all__ = ["ROUTER_NAME", "RoutedGenerate", "Router", "bind_checkpointing", "find_router"]

WINDOWED = ("swin", "swinv2", "donut-swin", "maskformer-swin")
"""Types of models that hand windows of a row to their attention, those of one row after the other. Of
any other model more rows than the batch has may be anything, and are refused."""
ROUTER_NAME = "router"

_NO_ROUTES: Mapping[Router, Route] = MappingProxyType({})

_ROUTES: contextvars.ContextVar[Mapping[Router, Route]] = contextvars.ContextVar(
    "graftwork_routes", default=_NO_ROUTES
)


@dataclass(frozen=True)
class _Adapters:
    """PEFT's `adapter_names` of one call: which adapter each row takes."""

    router: Router
    names: tuple[str, ...]
    expand: bool = False


_ADAPTERS: contextvars.ContextVar[_Adapters | None] = contextvars.ContextVar(
    "graftwork_adapters", default=None
)


class Router:
    """Hands the current route to the adapter layers of one model.

    The route itself is in a module-wide `ContextVar` under this router as key, never in an attribute, so
    that a router can be shared between threads, copied and pickled with its model.
    """

    def __init__(self) -> None:
        self._latched: Route | None = None
        # `torch.compile` cannot trace a ContextVar: while it traces a forward pass the route is here, and
        # gone when the pass ends.
        self._traced: Route | None = None
        self._traced_batch: int | None = None
        self._ever_chosen = False
        self._windows = False
        self.driven = False
        """True once a `StructureSearch` drives the gates of the model."""

    def warn_if_not_driven(self) -> None:
        """Warn, once, that gates are being trained but nobody will ever decide them."""
        if not self.driven:
            self.driven = True
            warnings.warn(
                "graftwork: gates are being trained, but nobody drives the structure search: no budget is "
                "enforced and no structure will be chosen. Add callbacks=[graftwork.StructureCallback()] to "
                "the Trainer, or call graftwork.StructureSearch in your own loop; with gates='fixed' there "
                "is nothing to drive.",
                UserWarning,
                stacklevel=2,
            )

    def current(self) -> Route | None:
        """The route of this forward pass.

        A recomputation under gradient checkpointing runs during the backward pass, usually after the
        context of `route` is closed. Layers of Transformers are then called in the context of their first
        forward pass (`bind_checkpointing`); for hand-made checkpointing the last training route is used.
        """
        if torch.compiler.is_compiling() and self._traced is not None:
            return self._traced
        return self._from_context()  # type: ignore[no-any-return]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _from_context(self) -> Route | None:
        found = _ROUTES.get().get(self)
        if found is None and torch._C._current_graph_task_id() != -1:
            return self._latched
        return found

    @contextmanager
    def using(self, new: Route) -> Iterator[None]:
        """Make `new` the current route inside the context."""
        token = _ROUTES.set({**_ROUTES.get(), self: new})
        try:
            yield
        finally:
            _ROUTES.reset(token)

    def carry_on(self, rows: Tensor) -> None:
        """From here to the end of this pass through the backbone, its batch has rows of these tasks.

        Args:
            rows: [rows], index of the task of every row.
        """
        if torch.compiler.is_compiling():
            self._traced, self._traced_batch = Route(rows), rows.shape[0]
            return
        frame = _ROUTES.get()
        if not isinstance(frame, _Frame) or frame.router is not self:
            raise RoutingError("the batch can change only during a pass through the backbone.")
        _ROUTES.set(_Frame(frame.outer, self, Route(rows), rows.shape[0]))

    @contextmanager
    def among(self, chosen: Sequence[int], x: Tensor) -> Iterator[None]:
        """Inside the context the batch consists of some of the rows of `x`, which a site sees."""
        current, positions = self.current(), self.positions(x)
        if current is None:
            yield
            return
        with self.using(current.among(chosen, x.shape[0] // positions, positions=positions)):
            yield

    @contextmanager
    def choosing(self, names: Sequence[str]) -> Iterator[None]:
        """Inside the context every row takes the adapter of this name, `__base__` for none."""
        self._ever_chosen = True
        token = _ADAPTERS.set(_Adapters(self, tuple(names)))
        try:
            yield
        finally:
            _ADAPTERS.reset(token)

    def adapters(self, x: Tensor) -> tuple[str, ...] | None:
        """The adapter of every row of `x`, which a site sees, if `choosing` is on, else None.

        Raises:
            RoutingError: not as many adapters as rows.
        """
        return self._chosen(x) if self._ever_chosen else None

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _chosen(self, x: Tensor) -> tuple[str, ...] | None:
        chosen = _ADAPTERS.get()
        if chosen is None or chosen.router is not self:
            return None
        positions = self.positions(x)
        batch = x.shape[0] // positions
        repeats = repeats_of(len(chosen.names), batch, chosen.expand) * positions
        if not repeats:
            raise RoutingError(
                "Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(chosen.names)} and {batch} respectively."
            )
        return tuple(name for name in chosen.names for _ in range(repeats))

    @contextmanager
    def expanding(self) -> Iterator[None]:
        """Inside the context, `adapter_names` may be repeated, each one k times in a row (beam search)."""
        chosen = _ADAPTERS.get()
        if chosen is None or chosen.router is not self:
            yield
            return
        token = _ADAPTERS.set(replace(chosen, expand=True))
        try:
            yield
        finally:
            _ADAPTERS.reset(token)

    def positions(self, x: Tensor) -> int:
        """How many rows of `x` stand for each row of the batch: more than one if a model flattens positions.

        OPT hands its feed-forward part [rows * positions, d] instead of [rows, positions, d], Swin its
        attention [rows * windows, positions, d].
        """
        if x.dim() != 2 and not self._windows:
            return 1
        batch = self._traced_batch if torch.compiler.is_compiling() else self._batch()
        return x.shape[0] // batch if batch and x.shape[0] % batch == 0 else 1

    def _batch(self) -> int | None:
        frame = _ROUTES.get()
        return frame.batch if isinstance(frame, _Frame) and frame.router is self else None

    def attach(self, backbone: nn.Module) -> None:
        """Let `backbone` accept `graft_rows` and survive gradient checkpointing."""
        attach(backbone, ROUTER_NAME, self)
        self._windows = getattr(getattr(backbone, "config", None), "model_type", None) in WINDOWED
        backbone.register_forward_pre_hook(self._before_forward, with_kwargs=True)
        backbone.register_forward_hook(self._after_forward, always_call=True)
        if hasattr(backbone, "generate"):
            backbone.generate = RoutedGenerate(backbone, self)  # type: ignore[assignment]

    def _before_forward(
        self, backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        rows = kwargs.pop(ROWS_KEYWORD, None)
        if torch.compiler.is_compiling():
            self._traced = None if rows is None else Route(rows)
            self._traced_batch = _batch_size(args, kwargs)
            return args, kwargs
        # The outer routes travel in the mapping itself, so that the matching `_after_forward` can restore
        # them without state on the module, which threads would share.
        outer = _ROUTES.get()
        new = outer.get(self) if rows is None else Route(rows)
        _ROUTES.set(_Frame(outer, self, new, _batch_size(args, kwargs)))
        if new is not None and torch.is_grad_enabled():
            self._latched = new
        if backbone.training:
            bind_checkpointing(backbone)
        return args, kwargs

    def _after_forward(self, backbone: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if torch.compiler.is_compiling():
            self._traced = self._traced_batch = None
            return
        frame = _ROUTES.get()
        if isinstance(frame, _Frame) and frame.router is self:
            _ROUTES.set(frame.outer)


class _Frame(dict[Router, Route]):
    """The routes inside one forward pass of a backbone, with those to return to."""

    def __init__(
        self, outer: Mapping[Router, Route], router: Router, new: Route | None, batch: int | None
    ) -> None:
        super().__init__(outer)
        if new is not None:
            self[router] = new
        self.outer = outer
        self.router = router
        self.batch = batch


def _batch_size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """Rows of the inputs of a backbone: those of its first tensor, the usual inputs before others."""
    usual = [kwargs.get(name) for name in ("input_ids", "inputs_embeds", "pixel_values")]
    for value in (*args, *usual, *kwargs.values()):
        if isinstance(value, Tensor) and value.dim() > 0:
            return value.shape[0]
    return None


def find_router(model: nn.Module) -> Router | None:
    """The router of the graft model in `model`, or None if there is none."""
    found = find_attached(model, ROUTER_NAME)
    if found is None:
        return None
    router: Router = found.value
    return router


class RoutedGenerate:
    """`generate` of a backbone for rows of several tasks.

    It takes `graft_rows`, which `generate` would refuse. Beams and returned sequences repeat every row in
    place; only here the route is stretched with them. It sits on the backbone, because a `PeftModel` without
    task type, and models adapted by Transformers' own `load_adapter`, never ask the tuner.
    """

    def __init__(self, backbone: nn.Module, router: Router) -> None:
        self.backbone = backbone
        self.router = router

    def __call__(self, *args: Any, graft_rows: Tensor | None = None, **kwargs: Any) -> Any:
        """`generate` with the route of its rows, or of `graft_rows`."""
        kind: Any = type(self.backbone)
        current = Route(graft_rows) if graft_rows is not None else self.router.current()
        expanded = nullcontext() if current is None else self.router.using(Route(current.tasks, expand=True))
        with expanded, self.router.expanding():
            return kind.generate(self.backbone, *args, **kwargs)


class _InContext:
    """A checkpointing function that recomputes in the context of the first forward pass."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        context = contextvars.copy_context()

        def in_context(*inner: Any) -> Any:
            return context.run(layer, *inner)

        return self.function(in_context, *args, **kwargs)


def bind_checkpointing(backbone: nn.Module) -> None:
    """Let the checkpointed layers of `backbone` recompute in the context, so the route, of their forward."""
    for module in backbone.modules():
        # The name is that of Transformers.
        function = vars(module).get("_gradient_checkpointing_func")
        if function is not None and not isinstance(function, _InContext):
            module._gradient_checkpointing_func = _InContext(function)  # type: ignore[assignment]
