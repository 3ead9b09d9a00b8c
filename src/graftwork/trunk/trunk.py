"""`Trunk`: many tasks on the same rows in one pass through a backbone, and what that costs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from graftwork.attached import attach, find_attached
from graftwork.edges import words_of
from graftwork.errors import ConfigError
from graftwork.messages import did_you_mean, shown
from graftwork.routing.router import find_router
from graftwork.routing.rows import ROWS_KEYWORD
from graftwork.trunk.carrying import Carried, Entry, all_rows, carrying, some_rows
from graftwork.trunk.order import NoTrunkError, Order, observe, probe_inputs, run_probe
from graftwork.trunk.tree import Tree, grow, parting_words
from graftwork.tuner.cost import adapter_price, backbone_flops
from graftwork.tuner.layer import GraftLayer
from graftwork.tuner.view import graft_view

__all__ = ["Trunk", "find_trunk", "trunk_facts", "trunk_price"]

TRUNK_NAME = "trunk"
"""Name under which the trunk of a backbone is attached to it."""
CLOSE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""How near a pass that branches comes to one that does not, of hidden states divided by their largest, by the
type of the weights; less exact types: 0.05. A fault of rows gives about 1."""


class Trunk:
    """How a backbone with graft adapters carries the rows of many tasks at once.

    Args:
        backbone: the module whose parts are sites. A hook is put before each of its layers.

    Attributes:
        order: what runs when; None if the backbone does not run as a row of layers.
        reason: why not; then rows are repeated for all groups of tasks before the pass.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self.order: Order | None = None
        self.reason: str | None = None
        self._sites = _sites(backbone)
        try:
            self.order = observe(backbone)
            for section, (name, rows) in enumerate(zip(self.order.layers, self.order.rows, strict=True), 1):
                backbone.get_submodule(name).register_forward_pre_hook(
                    Entry(self, section, rows), with_kwargs=True
                )
            self._check(backbone)
        except NoTrunkError as error:
            self._give_up(backbone, str(error))
        except Exception as error:
            # A backbone is code of others, run on made-up rows: it may raise anything.
            self._give_up(backbone, f"made-up rows cannot be passed through it ({words_of(error)})")

    def _give_up(self, backbone: nn.Module, reason: str) -> None:
        _unhook(backbone, self)
        self.order, self.reason = None, reason

    def _check(self, backbone: nn.Module) -> None:
        """Let the batch grow before every layer, all for one task, and see that all rows come out the same.

        Raises:
            NoTrunkError: they do not.
        """
        assert self.order is not None
        # At every layer one more group leaves the first.
        layers = len(self.order.layers)
        sections = [
            [int(group <= section) * group for group in range(layers + 1)] for section in range(layers + 1)
        ]
        tree = grow(layers + 1, sections)
        inputs = probe_inputs(backbone, 2, padded=True)
        expected = run_probe(backbone, inputs)
        carried = all_rows(tree, 2, expected.device)
        one_task = tuple(branch._replace(tasks=torch.zeros_like(branch.tasks)) for branch in carried.branches)
        router = find_router(backbone)
        assert router is not None
        with carrying(self, router, 2, one_task):
            found = run_probe(backbone, inputs)
        scale = max(float(expected.abs().max()), 1e-6)
        if (
            found.shape[0] != carried.source.shape[0]
            or float((found - expected[carried.source]).abs().max()) > CLOSE.get(found.dtype, 0.05) * scale
        ):
            raise NoTrunkError("rows that are repeated between its layers come out changed")

    def fits(self, backbone: nn.Module) -> bool:
        """Whether the hooks are still there and all sites known: compaction and new adapters change both."""
        if not _sites(backbone) <= self._sites:
            return False
        if self.order is None:
            return True
        try:
            layers = [backbone.get_submodule(name) for name in self.order.layers]
        except AttributeError:
            return False
        return all(_entries(layer, self) for layer in layers)

    def tree(self, model: nn.Module, tasks: Sequence[int]) -> Tree:
        """The tree of these tasks, by their gates as they are now.

        Args:
            model: the backbone, or what is wrapped around it.
            tasks: indices of tasks.
        """
        backbone = graft_view(model).backbone
        sections = 1 if self.order is None else 1 + len(self.order.layers)
        signatures: list[list[list[Hashable]]] = [[[] for _ in tasks] for _ in range(sections)]
        for name, layer in backbone.named_modules():
            if not isinstance(layer, GraftLayer) or layer.disable_adapters or layer.merged:
                continue
            # A site that did not run in the passes at the start may run now, nobody knows where.
            section = 0 if self.order is None else self.order.sections.get(name, 0)
            for adapter in layer.active_adapters:
                if adapter in layer.pools:
                    for place, row in enumerate(_gates(layer, adapter, tasks)):
                        signatures[section][place].append(row)
        return grow(len(tasks), [[tuple(rows) for rows in section] for section in signatures])

    @staticmethod
    def carry(
        tree: Tree, batch: int, device: torch.device, wanted: Bool[Tensor, "batch tasks"] | None = None
    ) -> Carried:
        """How a batch is carried: all tasks for all rows, or those wanted, at least one for each."""
        return all_rows(tree, batch, device) if wanted is None else some_rows(tree, wanted.to(device))

    def run(
        self, model: nn.Module, carried: Carried, inputs: Mapping[str, Tensor]
    ) -> Float[Tensor, "rows positions d"]:
        """Last hidden states of one pass.

        Args:
            model: the backbone, or what is wrapped around it.
            carried: how the batch is carried.
            inputs: of the model, [batch, ...].

        Returns:
            Those of the rows at the end, `carried.source` says of which row of the batch.
        """
        start = carried.branches[0]
        batch = next(iter(inputs.values())).shape[0]
        router = find_router(model)
        assert router is not None, "a trunk belongs to a backbone with a router"
        if start.origin.shape[0] != batch:
            inputs = {name: value.index_select(0, start.origin) for name, value in inputs.items()}
        with carrying(self, router, start.origin.shape[0], carried.branches):
            hidden: Tensor = model(**inputs, **{ROWS_KEYWORD: start.tasks}).last_hidden_state
        return hidden


def find_trunk(model: nn.Module) -> Trunk | None:
    """The trunk of the backbone in `model`, made when it is first asked for; None without a graft adapter."""
    if find_router(model) is None:
        return None
    backbone = graft_view(model).backbone
    found = find_attached(backbone, TRUNK_NAME)
    if found is not None:
        trunk: Trunk = found.value
        if trunk.fits(backbone):
            return trunk
        _unhook(backbone, trunk)
    trunk = Trunk(backbone)
    attach(backbone, TRUNK_NAME, trunk)
    return trunk


def trunk_price(model: nn.Module, tasks: Sequence[str] | None = None) -> float:
    r"""What the answers of several tasks on one text cost, in passes of one task.

    .. math::
        \frac{\sum_l w_l F_l}{\sum_l F_l}

    with F_l the FLOPs per token of layer l, two for every weight of its linear maps and adapters, and w_l the
    groups of tasks that still have the same gates up to and in layer l. It is 1 if all tasks share all
    adapters, and their number if all differ in the first layer. Attention scores, which depend on the length,
    embeddings and heads are left out, and so are adapters that are closed to all tasks.

    Args:
        model: a model with a graft adapter, at any depth. Gates that are still learned count as they are now.
        tasks: names of tasks; default all.

    Raises:
        ConfigError: the model has no graft adapter, or no such task.

    Example:
        >>> from peft import get_peft_model
        >>> model = get_peft_model(backbone, gw.GraftConfig(tasks=["a", "b"], gates="fixed", pool_size=2))
        >>> gw.trunk_price(model)
        1.0
        >>> data = gw.structure_of(model).to_dict()
        >>> last = list(data["sites"])[-1]  # in the second of two layers
        >>> data["sites"][last]["open"] = [[1, 1], [1, 0]]
        >>> gw.set_structure_(model, gw.Structure.from_dict(data))
        >>> gw.trunk_price(model)
        1.5
    """
    view = graft_view(model)
    known = list(view.config.tasks)
    names = known if tasks is None else list(tasks)
    faults = [f"unknown task {shown(name)}{did_you_mean(name, known)}" for name in names if name not in known]
    if faults or not names:
        raise ConfigError(f"{[*faults, 'no task is given.'][0]} The model has {', '.join(known)}.")
    trunk = find_trunk(model)
    assert trunk is not None
    return trunk.tree(view.backbone, [known.index(name) for name in names]).passes(layer_flops(model))


def trunk_facts(model: nn.Module) -> dict[str, Any]:
    """The price of all tasks on one text, and in words where they part."""
    names = graft_view(model).config.tasks
    trunk = find_trunk(model)
    assert trunk is not None
    price = trunk_price(model)
    words = parting_words(trunk.tree(model, range(len(names))), names)
    return {"price": price, "parting": f"{words}; price {price:.2f} of {len(names)} passes"}


def layer_flops(model: nn.Module) -> list[int]:
    """FLOPs per token of every layer of a backbone, in the order they run; none if it is no row of layers."""
    trunk, backbone = find_trunk(model), graft_view(model).backbone
    if trunk is None or trunk.order is None:
        return []
    return [_flops(backbone.get_submodule(name)) for name in trunk.order.layers]


def _flops(layer: nn.Module) -> int:
    adapters = sum(
        int(_computed(site, name) * adapter_price("flops", "", site.pools[name]))
        for site in layer.modules()
        if isinstance(site, GraftLayer)
        for name in site.active_adapters
        if name in site.pools
    )
    return backbone_flops(layer) + adapters


def _computed(site: GraftLayer, name: str) -> int:
    """Adapters of a pool that belong to the model: once gates are decided, those that are open to a task."""
    return int(site.used(name).sum()) if site.is_decided(name) else site.pools[name].size


def _gates(layer: GraftLayer, adapter: str, tasks: Sequence[int]) -> list[Hashable]:
    """What tells one task from another at a site."""
    drawn = layer.training and not layer.is_decided(adapter)
    if layer.gates_change or drawn:
        return list(tasks)  # nobody knows the gates of the next pass
    gates: list[list[float]] = layer.evaluation_gates(adapter).tolist()
    # A pool of one task serves all of them.
    return [tuple(gates[task if len(gates) > 1 else 0]) for task in tasks]


def _sites(backbone: nn.Module) -> set[str]:
    return {name for name, module in backbone.named_modules() if isinstance(module, GraftLayer)}


def _entries(layer: nn.Module, trunk: Trunk) -> list[int]:
    hooks: Mapping[int, Any] = layer._forward_pre_hooks
    return [key for key, hook in hooks.items() if isinstance(hook, Entry) and hook.owner is trunk]


def _unhook(backbone: nn.Module, trunk: Trunk) -> None:
    for module in backbone.modules():
        for key in _entries(module, trunk):
            del module._forward_pre_hooks[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)
