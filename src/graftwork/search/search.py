"""`StructureSearch`: drives the gates of a model through warm-up, search, discretisation and tuning.

It knows no trainer. `StructureCallback` calls it from `transformers.Trainer`; a hand-written loop so:

    search = StructureSearch(model, total_steps=len(loader))
    search.begin(sum_of_learning_rates)
    for step, batch in enumerate(loader):
        loss(batch).backward()
        search.before_step(step)      # adds the gradient of the sparsity control
        optimizer.step()
        search.after_step(step + 1)   # keeps logits in bounds, discretises when it is time

Under several processes each makes the same calls, once gradients are averaged (`docs/distributed.md`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.distributed.processes import equal_everywhere, from_main, several
from graftwork.distributed.shards import is_sharded, whole
from graftwork.errors import TrainingError
from graftwork.gates.registry import gate_family
from graftwork.routing.router import find_router
from graftwork.search.discretise import set_structure_, structure_of
from graftwork.search.driving import gate_scores, keep_in_bounds_, start_closed_
from graftwork.search.parting import check_own, check_trunk, given_tree, read_tree, tie_, tree_within
from graftwork.search.schedule import Schedule
from graftwork.sparsity.budget import budget_cost
from graftwork.sparsity.control import SparsityControl
from graftwork.sparsity.importance_control import ImportanceControl
from graftwork.sparsity.registry import sparsity_control
from graftwork.sparsity.size import expected_active, expected_size, gate_parameters, pool_parameters
from graftwork.sparsity.start import starting_paths
from graftwork.sparsity.worth import open_worth
from graftwork.structure.structure import Structure
from graftwork.trunk.tree import Tree
from graftwork.tuner.view import GraftView, graft_view

__all__ = ["StructureSearch"]

TRAVEL = 12.0
"""Distance that a logit can move during the search, in nats: 9.2 from clamp to clamp, and some more, as steps
do not all go in one direction."""
LEAST_TRAVEL = 8.0
"""Distance below which we warn: less than from clamp to clamp, so that few gates can close."""


class StructureSearch:
    r"""Learns the structure of one graft adapter while somebody else trains its weights.

    The optimizer moves theta, Adam by about the learning rate of a step. The logit moves faster, so that in
    the steps of the search phase, with their learning rates :math:`\eta_i`, it can go `travel` far (in nats):

    .. math:: a_{t s k} = a_0 + \rho \, \theta_{t s k}, \quad \rho = \frac{\mathrm{travel}}{\sum_i \eta_i}

    Args:
        model: a model with a graft adapter, at any depth.
        total_steps: optimizer steps of the whole run.
        schedule: when the phases begin.
        travel: how far a logit can move during the search.
        adapter_name: PEFT's name for the adapter; default the active one.

    Raises:
        ConfigError: the backbone cannot have the trunk that is asked for (`GraftConfig.trunk`).
        StructureError: the budget is smaller than one adapter.
        TrainingError: the run has no steps, or FSDP 1 manages the model.

    Example:
        >>> import torch
        >>> from peft import get_peft_model
        >>> model = get_peft_model(backbone, gw.GraftConfig(budget=0.03, pool_size=4))
        >>> optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.003)
        >>> search = gw.StructureSearch(model, total_steps=10)
        >>> search.begin(0.003 * len(search.window))
        >>> for step in range(10):
        ...     model(**tokens).last_hidden_state.mean().backward()
        ...     search.before_step(step)
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     found = search.after_step(step + 1)
        >>> search.structure == gw.structure_of(model)
        True
    """

    def __init__(
        self,
        model: nn.Module,
        total_steps: int,
        schedule: Schedule | None = None,
        *,
        travel: float = TRAVEL,
        adapter_name: str | None = None,
    ) -> None:
        if total_steps < 1:
            raise TrainingError(f"a structure search needs at least one optimizer step, not {total_steps}.")
        if several() and any(isinstance(module, _fsdp_1()) for module in model.modules()):
            raise TrainingError(
                "FSDP 1 keeps parameters as flat shards without a shape, so gates cannot be read; use FSDP 2 "
                "(fsdp_version 2) or DDP."
            )
        self.model = model
        self.total_steps = total_steps
        self.schedule = schedule or Schedule()
        self.travel = travel
        self.adapter_name = graft_view(model, adapter_name).adapter_name
        self.structure: Structure | None = None
        self.soft_size: float | None = None
        self.scores: dict[str, dict[str, Any]] | None = None
        """`prob_open` and `scores` [tasks, K] and `strength` [K] of every site at the discretisation."""
        self.control = self._make_control()
        self.tree: Tree | None = None
        """Which tasks go together in which section of a pass, if that is limited and chosen."""
        if self.control is not None:
            check_trunk(model, self.adapter_name)
            self._tie(given_tree(model, self.view))
        self._checked = False
        if travel < LEAST_TRAVEL:
            warnings.warn(
                f"gates can travel only {travel:g} during the search; under {LEAST_TRAVEL:g} few of them get "
                "from open to closed. Raise `travel`.",
                stacklevel=2,
            )

    def _make_control(self) -> SparsityControl | None:
        view = self.view
        if view.decided:
            return None
        return sparsity_control(
            gate_family(view.config.gates),
            budget=budget_cost(self.model, self.adapter_name),
            penalty=float(view.config.penalty or 0.0),
            reduction=view.config.penalty_reduction,
        )

    @property
    def view(self) -> GraftView:
        """The adapter in its present state."""
        return graft_view(self.model, self.adapter_name)

    def phase(self, step: int) -> str:
        """`warm-up`, `search` or `tune` after `step` optimizer steps."""
        return "tune" if self.control is None else self.schedule.phase(step / self.total_steps)

    @property
    def window(self) -> range:
        """The optimizer steps of the search phase."""
        return range(
            round(self.schedule.warmup * self.total_steps),
            max(1, round(self.schedule.discretise * self.total_steps)),
        )

    def gate_parameter(self) -> Tensor | None:
        """One parameter of the gates, to look up their learning rate; None if no gate is learned."""
        return next(iter(gate_parameters(self.view)), None)

    def begin(self, learning_rates: float) -> None:
        """Set the speed of the gates, `ratio = travel / sum of the rates over `window``, and their start.

        Raises:
            ConfigError: the groups of tasks are missing, or no partition of the tasks.
            TrainingError: the learning rates sum to nothing.
        """
        self._mark_driven()
        if self.control is None:
            return
        if not learning_rates > 0:
            raise TrainingError(
                f"the learning rates of the search phase sum to {learning_rates:g}, so no gate could move; "
                "raise the learning rate or lengthen the search."
            )
        view = self.view
        for site, paths in zip(view.sites.values(), starting_paths(view), strict=True):
            site.graft_ratio[self.adapter_name].fill_(self.travel / learning_rates)
            if not paths.all():
                start_closed_(site, self.adapter_name, ~paths)

    @torch.no_grad()
    def set_speed(self, learning_rates: float) -> None:
        """Resume a run with other learning rates: the gates stay where they are, and keep their speed.

        Args:
            learning_rates: as for `begin`.
        """
        if self.control is None:
            return
        for site in self.view.sites.values():
            old = site.graft_ratio[self.adapter_name]
            new = torch.full_like(old, self.travel / learning_rates)
            if not torch.equal(old, new):
                site.graft_gate_bias[self.adapter_name].mul_(old / new)
                old.copy_(new)

    def before_step(self, step: int) -> None:
        """Let the sparsity control change the gates' gradients, once per optimizer step, after clipping.

        Raises:
            TrainingError: several processes train, but nothing averages their gradients.
        """
        view = self.view
        if several():
            self._check_averaged(view)
            # DDP gives a gradient of zero to gates that are decided; momentum must not move them.
            for site in view.sites.values():
                if self.adapter_name in site.graft_gate_bias and site.is_decided(self.adapter_name):
                    site.graft_gate_bias[self.adapter_name].grad = None
        if self.control is not None and (self.control.always or self.phase(step) == "search"):
            self.control.apply(view, self._ramped(step))

    def _check_averaged(self, view: GraftView) -> None:
        """Check once that all processes have equal gradients; else their models drift apart."""
        if self._checked or is_sharded(self.model):
            return
        self._checked = True
        sums = [
            torch.zeros((), dtype=torch.float64)
            if parameter.grad is None
            else whole(parameter.grad).double().abs().sum().cpu()
            for site in view.sites.values()
            for part in site.adapter_layer_names
            if (parameter := getattr(site, part).get(self.adapter_name)) is not None
        ]
        if sums and not equal_everywhere(torch.stack(sums)):
            raise TrainingError(
                "the processes have different gradients, so their models drift apart; wrap the model in "
                "DistributedDataParallel or fully_shard, or let Trainer or Accelerate do so, and wrap it anew"
                " once it was made compact."
            )

    def after_step(self, step: int) -> Structure | None:
        """Keep logits in bounds, anneal the gates, adapt the control, and discretise when it is time.

        Returns:
            The structure, on the step that decided it.
        """
        if self.control is None:
            return None
        view = self.view
        for site in view.sites.values():
            keep_in_bounds_(site, self.adapter_name)
            site.anneal_(self.adapter_name, self._ramped(step))
        if self.control.always or self.phase(step) == "search":
            self.control.update(view, self._ramped(step))
        decides = self.phase(step) == "tune" or step >= self.total_steps
        measured = gate_family(view.config.gates).measured and self.phase(step) == "search"
        if view.config.trunk_budget is not None and self.tree is None and (decides or measured):
            self._choose_tree(self._ramped(step))
        if not decides:
            return None
        self.soft_size = float(expected_size(view, in_parameters=True).detach())
        self.scores = gate_scores(view)
        # That of the main process: the last bit of a score may differ between devices.
        self.structure = from_main(structure_of(self.model, self.adapter_name))
        set_structure_(self.model, self.structure, self.adapter_name)
        self.control = None
        return self.structure

    def _choose_tree(self, ramped: float) -> None:
        """Choose which tasks go together, from what is known of them now; that of the main process holds."""
        view = self.view
        worth = from_main([table.cpu() for table in open_worth(view)])
        self._tie(from_main(tree_within(self.model, view, worth)))
        if isinstance(self.control, ImportanceControl):
            self.control.part(view, worth)
            self.control.update(view, ramped)

    def _tie(self, tree: Tree | None) -> None:
        if tree is not None:
            self.tree = tree
            tie_(self.model, self.view, tree)

    def _mark_driven(self) -> None:
        find_router(self.model).driven = True  # type: ignore[union-attr]

    def _ramped(self, step: int) -> float:
        return self.schedule.ramped(step / self.total_steps)

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Numbers to log: expected and realised parameters, open paths per task, multipliers, `|W_up|`."""
        view = self.view
        structure = structure_of(self.model, self.adapter_name)
        numbers = {
            "expected_parameters": float(expected_size(view, in_parameters=True)) if view.sites else 0.0,
            "realised_parameters": float(structure.parameters()),
            "pool_parameters": float(pool_parameters(view)),
            "up_norm": sum(
                float(whole(site.graft_up[self.adapter_name]).norm()) ** 2 for site in view.sites.values()
            )
            ** 0.5,
        }
        if view.sites:
            active = zip(structure.tasks, expected_active(view).tolist(), strict=True)
            numbers |= {f"active_parameters_{task}": size for task, size in active}
        numbers |= {f"open_paths_{task}": float(count) for task, count in structure.counts().items()}
        return numbers | (self.control.figures() if self.control is not None else {})

    def state(self) -> dict[str, Any]:
        """JSON form of what must survive a checkpoint, beside the model's own tensors."""
        return {
            "soft_size": self.soft_size,
            "structure": None if self.structure is None else self.structure.to_dict(),
            "scores": self.scores,
            "control": None if self.control is None else self.control.state(),
            **({} if self.tree is None else {"tree": [list(section) for section in self.tree.nodes]}),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint whose tensors are already in the model."""
        self._mark_driven()
        self.soft_size = None if state["soft_size"] is None else float(state["soft_size"])
        if state["structure"] is None:
            self.structure = None
        else:
            found = Structure.from_dict(state["structure"])
            self.structure = replace(found, sites=self._in_order(found.sites))
        self.scores = None if state.get("scores") is None else self._in_order(state["scores"])
        for site, layer in self.view.sites.items() if self.scores is not None else ():
            shape = tuple(layer.graft_mask[self.adapter_name].shape)
            for name, wanted in (("prob_open", shape), ("scores", shape), ("strength", shape[1:])):
                if tuple(torch.tensor(self.scores[site][name]).shape) != wanted:  # type: ignore[index]
                    raise ValueError(f"{name} of site {site} has another shape than its pool")
        self._tie(read_tree(state.get("tree"), self.model, self.view))
        if state["control"] is None:
            self.control = None
        elif self.control is not None:
            check_own(state["control"].get("own"), self.view)
            self.control.load(state["control"])

    def _in_order(self, sites: Mapping[str, Any]) -> dict[str, Any]:
        """Sites in the order of the model: Trainer sorts the keys of its state by name."""
        known = [name for name in self.view.sites if name in sites]
        return {name: sites[name] for name in (*known, *(name for name in sites if name not in known))}


def _fsdp_1() -> type[nn.Module]:
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel
