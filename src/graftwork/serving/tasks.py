"""Which tasks are served, and which model answers each: a set that is replaced whole, never changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from graftwork.data.images.reader import ImageReader
from graftwork.errors import ConfigError, ServingError
from graftwork.messages import listed
from graftwork.models.all_tasks import Question, ask, find_tree
from graftwork.models.files import Loading
from graftwork.models.folder import load_model
from graftwork.models.identity import identity_of
from graftwork.routing.router import find_router
from graftwork.search.discretise import structure_of
from graftwork.serving.backbones import Backbones
from graftwork.serving.fusing import family_of, fuse
from graftwork.trunk.trunk import trunk_price

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from graftwork.kinds.heads import TaskHead
    from graftwork.models.multitask import MultiTaskModel
    from graftwork.structure.structure import Structure
    from graftwork.trunk.tree import Tree

__all__ = ["Group", "Part", "Served", "TaskSet", "load_part"]

PROBE = ("one row", "of text")
"""Texts of a row that every model can answer."""


@dataclass(frozen=True, eq=False)
class Part:
    """The model of one folder.

    Attributes:
        name: of the folder, as it was given.
        model: its model.
        tokenizer: its tokenizer.
        offered: those of its tasks that are served.
    """

    name: str
    model: MultiTaskModel
    tokenizer: PreTrainedTokenizerBase
    offered: tuple[str, ...]


def load_part(
    folder: str | Path, backbones: Backbones, name: str | None = None, **loading: Unpack[Loading]
) -> Part:
    """The model of a folder on a backbone that is there already, if it is.

    Raises:
        CheckpointError: the folder is no complete model, or belongs to another backbone.
        RecipeError: its backbone or tokenizer cannot be found or read.
        ServingError: its tasks are written by a language model, or read images.
    """
    model, tokenizer = load_model(folder, encoder=backbones, **loading)
    if model.causal:
        raise ServingError(
            f"{folder} is a language model that writes, and the server has no path for written answers; ask "
            "it with graftwork predict or graftwork chat."
        )
    if isinstance(tokenizer, ImageReader):
        raise ServingError(
            f"{folder} reads images, and the server has no path for them; ask it with graftwork predict."
        )
    model.requires_grad_(False)
    return Part(name or str(folder), model, tokenizer, tuple(head.name for head in model.heads.heads))


@dataclass(frozen=True, eq=False)
class Group:
    """A model whose tasks can be in one pass.

    Attributes:
        model: of one folder, or fused of several.
        tokenizer: its tokenizer.
        tree: where its tasks part.
        index_of: the place of every task.
        probe: a row that it can answer.
    """

    model: MultiTaskModel
    tokenizer: PreTrainedTokenizerBase
    tree: Tree | None
    index_of: Mapping[str, int]
    probe: Question

    @classmethod
    def of(cls, model: MultiTaskModel, tokenizer: PreTrainedTokenizerBase) -> Group:
        """Make a model ready to answer."""
        heads = model.heads.heads
        (probe,) = ask(tokenizer, [(PROBE[: len(heads[0].text)], heads[:1])], model.max_length)
        index_of = {head.name: place for place, head in enumerate(heads)}
        return cls(model, tokenizer, find_tree(model), index_of, probe)

    @cached_property
    def structure(self) -> Structure | None:
        """The paths of its tasks; None if its adapters have none."""
        routed = find_router(self.model.backbone) is not None
        return structure_of(self.model) if routed else None

    @cached_property
    def price(self) -> float:
        """What all its tasks cost on one text, in passes of one task."""
        return 1.0 if self.tree is None else trunk_price(self.model)


@dataclass(frozen=True)
class Served:
    """A task, and who answers it."""

    head: TaskHead
    group: Group
    part: Part


class TaskSet:
    """The tasks that are served at one moment.

    Models of one family (`family_of`) are one group. A request keeps the set with which it began.

    Args:
        parts: the models.
        backbones: what they stand on.

    Raises:
        ConfigError: two models have a task of the same name.
    """

    def __init__(self, parts: Sequence[Part], backbones: Backbones) -> None:
        self.parts = tuple(parts)
        self._backbones = backbones
        owners: dict[str, Part] = {}
        for part in parts:
            for task in part.offered:
                if task in owners:
                    raise ConfigError(
                        f"{part.name} and {owners[task].name} both have a task {task!r}, and a request names "
                        "a task alone; serve one of them, or train one again under another name."
                    )
                owners[task] = part
        times = Counter(head.name for part in parts for head in part.model.heads.heads)
        families: dict[Hashable, list[Part]] = {}
        for part in parts:
            # Tasks that are not offered may have the name of one that is.
            apart = any(times[head.name] > 1 for head in part.model.heads.heads)
            key = id(part) if apart else family_of(part.model, part.tokenizer)
            families.setdefault(key, []).append(part)
        self.groups: list[Group] = []
        found: dict[str, Served] = {}
        for members in families.values():
            group = self._group(members)
            self.groups.append(group)
            heads = {head.name: head for head in group.model.heads.heads}
            for part in members:
                found |= {task: Served(heads[task], group, part) for task in part.offered}
        self.tasks = {task: found[task] for part in parts for task in part.offered}
        """Name -> task, in the order in which the folders were given."""

    def _group(self, members: Sequence[Part]) -> Group:
        first = members[0]
        if len(members) == 1:
            return Group.of(first.model, first.tokenizer)
        base = self._backbones.twin_of(first.model)
        assert base is not None  # those of one family have a backbone of these
        return Group.of(fuse([part.model for part in members], base), first.tokenizer)

    def heads(self, names: Iterable[str] | None = None) -> list[TaskHead]:
        """The heads of these tasks, default of all."""
        return [self.tasks[name].head for name in (self.tasks if names is None else names)]

    def with_part(self, part: Part) -> TaskSet:
        """The set with one model more.

        Raises:
            ConfigError: it has a task of a name that is taken.
        """
        return TaskSet([*self.parts, part], self._backbones)

    def without(self, task: str) -> TaskSet:
        """The set without a task; a model all of whose tasks are gone goes, too.

        Raises:
            ConfigError: there is no such task.
        """
        if task not in self.tasks:
            raise ConfigError(f"no task {task!r} is served; there are {listed(self.tasks) or 'none'}.")
        left = [
            replace(part, offered=tuple(name for name in part.offered if name != task)) for part in self.parts
        ]
        found = TaskSet([part for part in left if part.offered], self._backbones)
        found.forget_others()
        return found

    def forget_others(self) -> None:
        """Forget the backbones on which none of these models stands."""
        used = {identity_of(part.model.backbone) for part in self.parts}
        self._backbones.keep({identity for identity in used if identity is not None})
