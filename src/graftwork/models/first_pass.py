"""The first pass through a backbone, right after it is loaded: does it give hidden states, and how wide?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from graftwork.attached import attach, find_attached
from graftwork.data.images.reader import ImageReader, blank_image
from graftwork.edges import library_errors
from graftwork.errors import RecipeError
from graftwork.messages import shown
from graftwork.routing.traceless import traceless

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from graftwork.data.images.reader import InputReader

__all__ = ["hidden_part", "measure_width_", "measured_width", "vocabulary"]

TEXT = "one row of text"
"""Text with which the first forward pass of a backbone is made."""
WIDTH_NAME = "width"
"""Name under which the width of a backbone is attached to it."""


def measure_width_(backbone: PreTrainedModel, tokenizer: InputReader, name: str) -> None:
    """Note on a backbone how many features its last hidden state has, which its configuration may not say.

    Args:
        backbone: as it was loaded; its width is attached as `WIDTH_NAME`.
        tokenizer: its tokenizer, or the reader of its images.
        name: for messages.

    Raises:
        RecipeError: it cannot take text or images, or gives no `last_hidden_state`.
    """
    if isinstance(tokenizer, ImageReader):
        _measure_images_(backbone, tokenizer, name)
        return
    with library_errors(
        f"model {shown(name)}: its tokenizer ({type(tokenizer).__name__}) cannot read {TEXT!r}", RecipeError
    ):
        tokens = tokenizer(TEXT)["input_ids"]
    size = vocabulary(backbone)
    # Whether the numbers fit is asked of the real rows; here any will do.
    known = [int(token) for token in tokens if token is not None and (size is None or token < size)] or [0]
    ids = torch.tensor([known], device=backbone.device)
    kind = type(backbone).__name__
    with (
        library_errors(
            f"model {shown(name)} is a {kind}, and a first pass of {ids.shape[1]} tokens through it failed",
            RecipeError,
            "choose an encoder or decoder of text, which takes input_ids alone",
        ),
        traceless(backbone),
        torch.no_grad(),
    ):
        output = hidden_part(backbone.eval())(input_ids=ids, attention_mask=torch.ones_like(ids))
    hidden = getattr(output, "last_hidden_state", None)
    if not isinstance(hidden, torch.Tensor) or hidden.dim() != 3 or hidden.shape[:2] != ids.shape:
        found = "none" if not isinstance(hidden, torch.Tensor) else f"one of shape {list(hidden.shape)}"
        raise RecipeError(
            f"model {shown(name)} is a {kind}, and graftwork needs a last_hidden_state of [rows, tokens, "
            f"features]; for {ids.shape[1]} tokens it gives {found}. Choose an encoder or decoder of text."
        )
    attach(backbone, WIDTH_NAME, int(hidden.shape[-1]))


def hidden_part(backbone: PreTrainedModel) -> PreTrainedModel:
    """The part of a backbone that gives hidden states: of a language model what is below its head."""
    part: PreTrainedModel = backbone.base_model if backbone.can_generate() else backbone  # type: ignore[assignment]
    return part


def _measure_images_(backbone: PreTrainedModel, reader: ImageReader, name: str) -> None:
    """The same for a backbone of images."""
    pixels = reader.pixels([blank_image()]).to(backbone.device)
    kind, size = type(backbone).__name__, f"an image of {pixels.shape[-1]} x {pixels.shape[-2]} pixels"
    with (
        library_errors(
            f"model {shown(name)} is a {kind}, and a first pass of {size} through it failed",
            RecipeError,
            "set training.image_size, or choose a backbone of images whose image processor belongs to it",
        ),
        traceless(backbone),
        torch.no_grad(),
    ):
        output = backbone.eval()(pixel_values=pixels.to(backbone.dtype))
    hidden = getattr(output, "last_hidden_state", None)
    if not isinstance(hidden, torch.Tensor) or hidden.dim() != 3:
        found = "none" if not isinstance(hidden, torch.Tensor) else f"one of shape {list(hidden.shape)}"
        raise RecipeError(
            f"model {shown(name)} is a {kind}, and graftwork needs a last_hidden_state of [rows, positions, "
            f"features]; for {size} it gives {found}. Choose a transformer of images such as ViT."
        )
    attach(backbone, WIDTH_NAME, int(hidden.shape[-1]))


def measured_width(backbone: nn.Module) -> int | None:
    """The width that `measure_width_` has attached to a backbone, at any depth; None if there is none."""
    found = find_attached(backbone, WIDTH_NAME)
    return None if found is None else int(found.value)


def vocabulary(backbone: PreTrainedModel) -> int | None:
    """Rows of the embedding table; None if the backbone has none of the usual kind."""
    try:
        table = backbone.get_input_embeddings()
    except NotImplementedError:
        return None
    weight = getattr(table, "weight", None)
    return int(weight.shape[0]) if isinstance(weight, torch.Tensor) and weight.dim() == 2 else None
