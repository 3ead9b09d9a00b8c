"""One pass of a batch that grows on its way: where tasks part, rows are repeated for each of their groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from graftwork.errors import RoutingError
from graftwork.trunk.order import Place, map_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graftwork.routing.router import Router
    from graftwork.trunk.tree import Tree

__all__ = ["Branch", "Carried", "Entry", "all_rows", "some_rows"]


class Branch(NamedTuple):
    """One step in the growth of a batch.

    Attributes:
        section: where it happens: 0 before the pass, i right before the i-th layer.
        origin: [rows after], the row before that each one comes from.
        tasks: [rows after], one task of each row's group, whose gates are those of all of them.
    """

    section: int
    origin: Tensor
    tasks: Tensor


class Carried(NamedTuple):
    """How a batch is carried.

    Attributes:
        branches: the steps; the first one is that of section 0.
        source: [rows at the end], the row of the batch that each one comes from.
        place: [batch, tasks], the row at the end that has the hidden states of a row and a task.
    """

    branches: tuple[Branch, ...]
    source: Int[Tensor, " rows"]
    place: Int[Tensor, "batch tasks"]


def all_rows(tree: Tree, batch: int, device: torch.device) -> Carried:
    """All tasks for all rows; `batch` may be a symbol of `torch.export`."""
    every = torch.arange(batch, device=device)[:, None]
    branches: list[Branch] = []
    nodes, width = [0] * len(tree.nodes[0]), 1
    for section, new in enumerate(tree.nodes):
        groups = tree.groups(section)
        if section == 0 or len(groups) > width:
            parents = torch.tensor([nodes[group[0]] for group in groups], device=device)
            firsts = torch.tensor([group[0] for group in groups], device=device)
            index = (every * width + parents).flatten()
            branches.append(Branch(section, index, firsts.expand(batch, -1).flatten()))
        nodes, width = list(new), len(groups)
    source = every.expand(-1, width).flatten()
    return Carried(tuple(branches), source, every * width + torch.tensor(nodes, device=device))


def some_rows(tree: Tree, wanted: Bool[Tensor, "batch tasks"]) -> Carried:
    """Only the tasks that are wanted for a row, at least one for each; `place` says nothing of the others."""
    batch, tasks = wanted.shape
    device = wanted.device
    numbers = torch.arange(tasks, device=device)
    before = torch.arange(batch, device=device)[:, None]
    parents = torch.zeros(tasks, dtype=torch.long, device=device)
    size, branches = batch, []
    source = before.flatten()
    for section, width in enumerate(tree.widths):
        nodes = torch.tensor(tree.nodes[section], device=device)
        member = nodes[:, None] == torch.arange(width, device=device)
        first = torch.where(wanted[:, :, None] & member, numbers[:, None], tasks).amin(1)
        present = first < tasks
        rows, groups = present.nonzero(as_tuple=True)
        if section == 0 or len(rows) > size:
            # Any task of a group knows the group that it comes from.
            origin = parents[first[rows, groups]]
            branches.append(Branch(section, before[rows, origin], first[rows, groups]))
        before = (present.flatten().cumsum(0) - 1).clamp(min=0).view(batch, width)
        parents, size, source = nodes, len(rows), rows
    return Carried(tuple(branches), source, before[:, parents])


class _Pass:
    """What the layers have to know during one pass."""

    def __init__(self, owner: object, router: Router, batch: int, branches: Sequence[Branch]) -> None:
        self.owner = owner
        self.router = router
        self._branches = {branch.section: branch for branch in branches if branch.section}
        # Every number of rows that there has been, the last one first, with the rows of then that those of
        # now come from. A list, for to `torch.export` numbers are symbols, which have no hash.
        self._since: list[tuple[int, Tensor | None]] = [(batch, None)]
        self._repeated: dict[int, tuple[Tensor, Tensor]] = {}
        self.left = len(self._branches)

    def enter(
        self, section: int, rows: Mapping[Place, int], args: Any, kwargs: Any
    ) -> tuple[Any, Any] | None:
        """The arguments of the layer that begins a section, for the rows that there are from here on."""
        branch = self._branches.get(section)
        if branch is not None:
            earlier = (
                (size, branch.origin if index is None else index[branch.origin])
                for size, index in self._since
            )
            self._since = [(branch.origin.shape[0], None), *earlier]
            self._repeated.clear()
            self.left -= 1
            self.router.carry_on(branch.tasks)
        elif len(self._since) == 1:
            return None

        def repeated(place: Place, tensor: Tensor) -> Tensor:
            return self._for_rows_of_now(tensor, rows.get(place))

        grown: tuple[Any, Any] = map_tensors((args, kwargs), repeated)
        return grown

    def _for_rows_of_now(self, tensor: Tensor, parts: int | None) -> Tensor:
        if parts == 0 or tensor.dim() == 0:
            return tensor
        rows = tensor.shape[0]
        known = [index for size, index in self._since if parts is not None and size * parts == rows]
        if not known:
            if rows == 1:
                return tensor  # the same for all rows
            raise RoutingError(
                f"a layer is called with a tensor of shape {tuple(tensor.shape)}, whose rows cannot be told; "
                "ask for the tasks one by one, with predict."
            )
        index = known[0]
        if index is None:
            return tensor
        # Most models give the same mask to every layer.
        if id(tensor) not in self._repeated:
            grown = tensor.unflatten(0, (-1, parts))[index].flatten(0, 1)
            self._repeated[id(tensor)] = (tensor, grown)
        return self._repeated[id(tensor)][1]


_PASS: ContextVar[_Pass | None] = ContextVar("graftwork_trunk", default=None)


class Entry:
    """A hook before a layer. It does nothing but in a pass of its own trunk, in the thread of that pass.

    Args:
        owner: the trunk.
        section: that of the layer.
        rows: as `Order.rows` has it.
    """

    def __init__(self, owner: object, section: int, rows: Mapping[Place, int]) -> None:
        self.owner = owner
        self.section = section
        self.rows = rows

    def __call__(self, layer: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Repeat the rows of the arguments."""
        # A compiled layer has a fixed batch; that nothing has grown is found after the pass.
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            return None
        current = _PASS.get()
        if current is None or current.owner is not self.owner:
            return None
        return current.enter(self.section, self.rows, args, kwargs)


@contextmanager
def carrying(owner: object, router: Router, batch: int, branches: Sequence[Branch]) -> Iterator[None]:
    """Inside the context, a pass through the backbone branches.

    Raises:
        RoutingError: on exit, if it did not.
    """
    current = _Pass(owner, router, batch, branches)
    token = _PASS.set(current)
    try:
        yield
    finally:
        _PASS.reset(token)
    if current.left:
        raise RoutingError(
            "the backbone did not run all layers at which its tasks part, as if it were compiled; ask for "
            "the tasks one by one, with predict."
        )
