"""One backbone in memory, however many models stand on it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from graftwork.models.backbone import load_encoder
from graftwork.models.identity import Identity, identity_of

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from graftwork.kinds.kind import Reads

__all__ = ["Backbones", "twin"]


def twin(backbone: PreTrainedModel) -> PreTrainedModel:
    """A model of its own with the same parameters: the modules are copies, their weights are not.

    What PEFT wraps into one, and hooks on it, do not touch the other, so that a model can be made ready while
    another one answers.
    """
    shared = {id(parameter): parameter for parameter in backbone.parameters()}
    return copy.deepcopy(backbone, dict(shared))


class Backbones:
    """The backbones that are loaded, by the checksum of their weights.

    Args:
        unchecked: models may ask for other weights than those of their backbone; then nothing is shared.
    """

    def __init__(self, *, unchecked: bool = False) -> None:
        self._unchecked = unchecked
        self._loaded: dict[Identity, PreTrainedModel] = {}

    def __call__(
        self, name: str, wanted: Identity | None, reads: Reads = "text", causal: bool = False
    ) -> PreTrainedModel:
        """A twin of the backbone with these weights, which is loaded if it is not there yet.

        Args:
            name: where it lies.
            wanted: its identity; None if the model does not say it.
            reads: texts or images.
            causal: load it with its language model head. Its weights have other names then, and so another
                identity.

        Raises:
            RecipeError: there is no such backbone, or it cannot be read.
        """
        found = None if wanted is None or self._unchecked else self._loaded.get(wanted)
        if found is None:
            found = load_encoder(name, reads, causal=causal)
            identity = identity_of(found)
            assert identity is not None  # `load_encoder` gives every backbone one
            found = self._loaded.setdefault(identity, found)
        return twin(found)

    def twin_of(self, model: nn.Module) -> PreTrainedModel | None:
        """A bare twin of the backbone in a model; None if it is not one of these."""
        identity = identity_of(model)
        found = None if identity is None else self._loaded.get(identity)
        return None if found is None else twin(found)

    def keep(self, used: set[Identity]) -> None:
        """Forget all others."""
        self._loaded = {identity: model for identity, model in self._loaded.items() if identity in used}
