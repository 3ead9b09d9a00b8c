"""Before training: a few rows through tokenizer, backbone, pool, head, loss and back, without a trace.

What would fail in the middle of a run, or never fail and never learn, shows here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from graftwork.data.encoding.notes import length_notes
from graftwork.data.images.reader import ImageReader, blank_image
from graftwork.data.pairs.second import SECOND_IDS
from graftwork.data.targets.written import check_learned
from graftwork.data.task_data import TaskData
from graftwork.data.tokens import collate, row_lengths, tokenise
from graftwork.edges import library_errors
from graftwork.errors import RecipeError, SiteError, TrainingError
from graftwork.messages import listed
from graftwork.models.first_pass import vocabulary
from graftwork.preflight.positions import most_tokens
from graftwork.routing.traceless import traceless

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from graftwork.data.images.reader import InputReader
    from graftwork.models.multitask import MultiTaskModel

__all__ = ["Tokens", "check_size", "fitting_tokens", "preflight"]


@dataclass(frozen=True)
class Tokens:
    """The rows of all tasks as tokens that the backbone can take."""

    splits: dict[str, Dataset]
    max_length: int
    """Tokens of a row: what was asked for, or all that the backbone has positions for."""
    notes: list[str]
    """What the user should know."""


def fitting_tokens(
    datas: Sequence[TaskData],
    backbone: PreTrainedModel,
    tokenizer: InputReader,
    max_length: int,
    cache: Path | None,
) -> Tokens:
    """Tokenise all tasks; rows are cut to the positions that the backbone has.

    Raises:
        RecipeError: the backbone has no positions left beside its special tokens, or the tokens are not those
            of the backbone.
        DataError: rows of a task that is written have nothing to learn.
    """
    splits = tokenise(datas, tokenizer, max_length, cache)
    if isinstance(tokenizer, ImageReader):
        return Tokens(splits, max_length, [])
    told, heads = check_learned(datas, splits, tokenizer), [data.head for data in datas]
    _check_ids(splits, backbone, tokenizer)
    most = most_tokens(backbone, max_length, _ordinary(splits["train"], tokenizer))
    if most == max_length:
        return Tokens(splits, max_length, [*told, *length_notes(heads, splits, max_length)])
    pair = any(len(data.head.text) > 1 and not data.head.separate for data in datas)
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if most <= special:
        raise RecipeError(
            f"{_name(backbone)} has positions for {most} tokens, of which {special} are special ones; no "
            "text is left. Choose another backbone."
        )
    lengths = np.concatenate([row_lengths(split) for split in splits.values()])
    cut = int((lengths > most).sum())
    rows = f"{cut:,} of {len(lengths):,} rows are longer and are cut" if cut else "no row here is longer"
    if any(head.stride is not None for head in heads):
        rows = "longer rows are read in windows"
    note = (
        f"max_length is {max_length}, but {_name(backbone)} has positions for {most} tokens: {most} is used, "
        f"and saved with the model; {rows}."
    )
    splits = tokenise(datas, tokenizer, most, cache)
    return Tokens(splits, most, [note, *told, *length_notes(heads, splits, most)])


def check_size(reader: ImageReader, backbone: PreTrainedModel, name: str) -> None:
    """Refuse images that a backbone does not cut into whole patches: it would leave out their edges.

    Args:
        reader: makes images of one size.
        backbone: cuts them.
        name: of the backbone, for the message.

    Raises:
        RecipeError: their sides are no multiples of those of a patch.
    """
    patch = getattr(backbone.config, "patch_size", None)
    height, width = reader.pixels([blank_image()]).shape[-2:]
    if not isinstance(patch, int) or patch < 1 or (height % patch == 0 and width % patch == 0):
        return
    fitting = max(1, round(height / patch)) * patch
    raise RecipeError(
        f"images of {width} x {height} pixels are no whole number of the patches of {patch} pixels of model "
        f"{name}; set training.image_size to a multiple, such as {fitting}."
    )


def _name(backbone: nn.Module) -> str:
    return f"the backbone ({type(backbone).__name__})"


def _ordinary(split: Dataset, tokenizer: PreTrainedTokenizerBase) -> int:
    """The number of some token that is no padding."""
    ids = split[int(row_lengths(split).argmax())]["input_ids"]
    return next((int(token) for token in ids if token != tokenizer.pad_token_id), int(ids[0]))


def _check_ids(
    splits: Mapping[str, Dataset], backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Every token must have a row in the embedding table.

    Raises:
        RecipeError: one has none.
    """
    import pyarrow.compute  # type: ignore[import-untyped]

    size = vocabulary(backbone)
    for split, dataset in splits.items():
        columns = [name for name in ("input_ids", SECOND_IDS) if name in dataset.column_names]
        flat = [pyarrow.compute.list_flatten(dataset.data.column(name)) for name in columns]
        ids = pyarrow.chunked_array([chunk for one in flat for chunk in one.chunks], type=flat[0].type)
        if ids.null_count:
            raise RecipeError(
                f"{type(tokenizer).__name__} gives no number for {ids.null_count:,} tokens of the {split} "
                "rows: it has no token for unknown text. Give the model a tokenizer with unk_token."
            )
        largest = pyarrow.compute.max(ids).as_py()
        if size is not None and largest is not None and largest >= size:
            token = tokenizer.convert_ids_to_tokens(largest)
            raise RecipeError(
                f"the tokenizer gives the {split} rows the token {token!r} "
                f"with number {largest}, but {_name(backbone)} has embeddings for 0 to {size - 1}; give the "
                "tokenizer that belongs to the backbone."
            )
    padding = tokenizer.pad_token_id
    if size is not None and padding is not None and padding >= size:
        raise RecipeError(
            f"the tokenizer pads with {tokenizer.pad_token!r}, number {padding}, but {_name(backbone)} has "
            f"embeddings for 0 to {size - 1}; set pad_token to a token that the backbone knows."
        )


def preflight(model: MultiTaskModel, splits: Mapping[str, Dataset], tokenizer: InputReader) -> list[str]:
    """Pass the longest row and one of every task through the model that will be trained, and back.

    Nothing of it stays: see `traceless`.

    Args:
        model: before its first step.
        splits: the tokenised rows.
        tokenizer: pads them.

    Returns:
        Notes on adapters that can never learn, or do nothing in evaluation.

    Raises:
        TrainingError: the rows cannot be passed through, or their loss is not finite.
        SiteError: no adapter at all would learn.
    """
    rows = _rows(splits)
    sites = dict(_sites(model.backbone))
    longest = max(int(row_lengths(split).max()) for split in splits.values())
    images = isinstance(tokenizer, ImageReader)
    lengths = f"{len(rows)} images" if images else f"{len(rows)} rows of up to {longest} tokens"
    device = model.heads.weight.device
    with (
        library_errors(
            f"the first {lengths} cannot be passed through {_name(_inner(model.backbone))}",
            TrainingError,
            f"choose another backbone, or a smaller training.{'image_size' if images else 'max_length'}",
        ),
        traceless(model),
    ):
        batch = {name: value.to(device) for name, value in collate(tokenizer)(rows).items()}
        with torch.no_grad(), _called(sites) as evaluated:
            model.eval()(**batch)
        with torch.enable_grad(), _called(sites) as trained:
            loss = model.train()(**batch).loss
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss of the first {lengths} is {float(loss.detach())} before any training; the "
                    f"weights of {_name(_inner(model.backbone))} are damaged, or its numbers too large for "
                    f"{str(model.heads.weight.dtype).removeprefix('torch.')}."
                )
            loss.backward()
        learning = {n for n, site in sites.items() if any(p.grad is not None for p in _adapter(site))}
    return _notes(list(sites), evaluated, trained, learning)


def _rows(splits: Mapping[str, Dataset]) -> list[Mapping[str, object]]:
    """The longest row of all splits, and the longest training row of every task."""
    train = splits["train"]
    tasks, lengths = np.asarray(train.data.column("graft_rows").to_numpy()), row_lengths(train)
    chosen = [int(np.where(tasks == task, lengths, -1).argmax()) for task in np.unique(tasks)]
    rows = [train[index] for index in chosen]
    longest = max(splits.values(), key=lambda split: int(row_lengths(split).max()))
    return [longest[int(row_lengths(longest).argmax())], *rows]


def _inner(backbone: nn.Module) -> nn.Module:
    inside = getattr(backbone, "get_base_model", None)
    found = inside() if callable(inside) else backbone
    return found if isinstance(found, nn.Module) else backbone


@contextmanager
def _called(sites: Mapping[str, nn.Module]) -> Iterator[set[str]]:
    """The names of the sites whose `forward` is called inside the context."""
    seen: set[str] = set()

    def note(name: str) -> None:
        seen.add(name)

    hooks = [site.register_forward_hook(lambda *_, name=name: note(name)) for name, site in sites.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _sites(backbone: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers with adapters that are trained, ours or another method's of PEFT, by name."""
    for name, module in backbone.named_modules():
        adapted = isinstance(module, BaseTunerLayer)
        if adapted and any(parameter.requires_grad for parameter in _adapter(module)):
            yield name, module


def _adapter(site: nn.Module) -> Iterator[nn.Parameter]:
    """The adapter's own parameters, without those of the module it sits on."""
    for name in getattr(site, "adapter_layer_names", ()):
        held = getattr(site, name, None)
        if isinstance(held, nn.Module):
            yield from held.parameters()


def _notes(sites: Sequence[str], evaluated: set[str], trained: set[str], learning: set[str]) -> list[str]:
    """What to say of the sites.

    Raises:
        SiteError: there are sites, and none would learn.
    """
    uncalled = [name for name in sites if name not in trained]
    silent = [name for name in sites if name in trained and name not in learning]
    vanished = [name for name in sites if name in learning and name not in evaluated]
    kinds = (
        (uncalled, "the backbone never calls them, so their adapters do nothing and can never learn"),
        (silent, "what they give does not reach the output, so their adapters can never learn"),
        (vanished, "the backbone calls them in training alone, so their adapters do nothing in evaluation"),
    )
    found = [(names, why) for names, why in kinds if names]
    if sites and not learning:
        names, why = found[0]
        raise SiteError(
            f"no adapter can learn: of {len(sites)} sites ({_short(names)}), {why}. Choose other sites with "
            "target_modules or placement."
        )
    return [
        f"{len(names)} of {len(sites)} sites are of no use ({_short(names)}): {why}. Leave them out with "
        "exclude_modules."
        for names, why in found
    ]


def _short(names: Sequence[str]) -> str:
    return listed([name.removeprefix("base_model.model.") for name in names])
