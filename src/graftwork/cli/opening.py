"""The options of every command that opens a saved model."""

from __future__ import annotations

from typing import TypedDict

__all__ = ["Opening", "opening"]


class Opening(TypedDict):
    """Where the parts of a saved model are now, as `graftwork.models.folder.Loading` has it."""

    backbone: str | None
    tokenizer: str | None
    backbone_unchecked: bool
    revision: str | None


def opening(
    backbone: str | None = None,
    tokenizer: str | None = None,
    backbone_unchecked: bool = False,
    revision: str | None = None,
) -> Opening:
    """Where the parts of a saved model are now.

    Args:
        backbone: Where the backbone is now, if it has moved.
        tokenizer: Hub id, folder or package:NAME/folder of a tokenizer, in place of the model's own.
        backbone_unchecked: Take a backbone of the same shape though its weights are others.
        revision: Branch, tag or commit of a model of the hub.
    """
    return {
        "backbone": backbone,
        "tokenizer": tokenizer,
        "backbone_unchecked": backbone_unchecked,
        "revision": revision,
    }
