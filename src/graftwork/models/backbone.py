"""Loading what is not trained: a pretrained transformer and its tokenizer, each checked."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.data.sources import locate
from graftwork.distributed.notes import note
from graftwork.edges import words_of
from graftwork.errors import DataError, RecipeError
from graftwork.files.reading import exists
from graftwork.files.weights import as_checkpoint_error
from graftwork.messages import listed, shown
from graftwork.models.first_pass import measure_width_
from graftwork.models.identity import file_stamp, identify_

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["check_vocabulary", "load_backbone", "load_encoder", "load_tokenizer", "saved_tokenizer"]

TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")
"""Either of them says that a tokenizer was saved with a model."""

_VOCABULARIES = ("tokenizer.*", "vocab*", "*.spm", "spm.model", "spiece.model", "*.bpe.model", "tekken.json")
"""Names of files that hold a vocabulary; a tokenizer that does not work on bytes has one of them."""


def load_backbone(name: str, *, causal: bool = False) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The pretrained transformer and tokenizer of a hub id, a folder, or `package:NAME/sub/folder`.

    Of an encoder-decoder only the encoder is kept. A short text is passed through the backbone.

    Args:
        name: where it is.
        causal: as a language model that writes, with its head.

    Raises:
        RecipeError: there is no such model, it cannot be read, tokenizer and model do not fit, or it does not
            turn text into hidden states.
    """
    model, tokenizer = load_encoder(name, causal=causal), load_tokenizer(name)
    check_vocabulary(tokenizer, model, name, name)
    measure_width_(model, tokenizer, name)
    return model, tokenizer


def load_encoder(name: str, *, causal: bool = False) -> PreTrainedModel:
    """The transformer alone, with its identity (`graftwork.models.identity.identity_of`).

    Args:
        name: where it is.
        causal: as a language model that writes, with its head.

    Raises:
        RecipeError: there is no such model, or it cannot be read, or it lacks weights, or cannot write.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

    path, stamp = _path(name, "model"), None
    try:
        with _quietly():
            # False instead of the default, which asks whoever sits at the terminal whether to run a model's
            # code.
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
            split = getattr(config, "is_encoder_decoder", False)
            ready = split and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING
            auto: Any = AutoModelForTextEncoding if ready else AutoModel
            if causal:
                _check_decoder(config, name)
                auto, ready = AutoModelForCausalLM, True
            stamp = file_stamp(_folder(path))
            model, info = auto.from_pretrained(path, trust_remote_code=False, output_loading_info=True)
    except RecipeError:
        raise
    except Exception as error:  # Transformers raises anything at all at files that it did not write
        raise RecipeError(
            f"model {shown(name)} cannot be loaded; give a hub id, a folder with config.json, or "
            f"package:NAME/folder. ({_reason(error)})"
        ) from error
    missing = set(info["missing_keys"])
    # Nothing reads the pooler; many files leave it out, and Transformers makes a random one.
    lost = [key for key, _ in model.named_parameters() if key in missing and "pooler" not in key.split(".")]
    if lost:
        raise RecipeError(
            f"model {shown(name)} lacks {len(lost)} of its weights ({listed(lost, 2)}), which would be "
            "random; give a folder with all weights of the model."
        )
    if split and not ready:
        model, path = model.get_encoder(), model.name_or_path
        model.name_or_path = path
    identify_(model, missing, stamp)
    return model  # type: ignore[no-any-return]


def _check_decoder(config: Any, name: str) -> None:
    """Refuse a model that does not write from left to right.

    Raises:
        RecipeError: it is an encoder, or an encoder-decoder.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
    )

    kind = type(config)
    split = getattr(config, "is_encoder_decoder", False)
    encoder = kind in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if split or encoder or kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        what = "an encoder-decoder" if split else "an encoder"
        raise RecipeError(
            f"model {shown(name)} is {what} ({config.model_type}), and kind: generation needs a decoder, "
            "as choice does, such as Llama, Qwen, Gemma or GPT-2: give one as model:, or set kind: "
            "classification with labels"
        )


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence Transformers' bars and remarks: what is missing or does not fit is refused in words here."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()


def _reason(error: Exception) -> str:
    """The message of Transformers, without its advice to run code that came with a model."""
    words = words_of(error)
    if "trust_remote_code" in str(error):
        return f"it brings code of its own, which graftwork never runs: {words[:150]}"
    return words


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub id, a folder, or `package:NAME/sub/folder`. It pads on the right.

    Raises:
        RecipeError: there is none, it cannot be read, or files of it are missing.
    """
    from transformers import AutoTokenizer

    path = _path(name, "tokenizer")
    try:
        with _quietly():
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # as above
        folder = _folder(path)
        if folder is not None and not any(_tokenizer_files(folder)):
            raise _no_tokenizer(name) from error
        raise RecipeError(f"the tokenizer of {shown(name)} cannot be loaded ({_reason(error)}).") from error
    _check_files(tokenizer, name, _folder(path))
    # A decoder's positions count from the first token only if the padding comes after the last.
    tokenizer.padding_side = "right"
    tokenizer.init_kwargs["padding_side"] = (
        "right"  # else it is not saved, and a class may have another default
    )
    return tokenizer


def saved_tokenizer(
    folder: Path, base: PreTrainedModel, backbone: str, tokenizer: str | None
) -> PreTrainedTokenizerBase:
    """The tokenizer that was asked for, else the one saved with the model, else that of its backbone."""
    if tokenizer is None and any((folder / name).is_file() for name in TOKENIZER_FILES):
        with as_checkpoint_error(folder):
            found = load_tokenizer(os.path.join(os.curdir, folder))
        place = str(folder)
    else:
        place = tokenizer or backbone
        if tokenizer is None:
            note(f"{folder} holds no tokenizer; that of the backbone {backbone} is used.")
        found = load_tokenizer(place)
    check_vocabulary(found, base, place, backbone)
    return found


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str, backbone: str
) -> None:
    """Refuse a tokenizer that makes ids for which the backbone has no embedding.

    Args:
        tokenizer: the tokenizer.
        model: the backbone, not wrapped.
        name: where the tokenizer is from, for messages.
        backbone: where the backbone is from, for messages.

    Raises:
        RecipeError: its vocabulary is larger than the embeddings.
    """
    weight = getattr(model.get_input_embeddings(), "weight", None)
    largest = max(tokenizer.get_vocab().values(), default=0)
    if weight is not None and largest >= weight.shape[0]:
        raise RecipeError(
            f"the tokenizer of {shown(name)} has ids up to {largest:,}, but the backbone {shown(backbone)} "
            f"has embeddings for {weight.shape[0]:,} tokens; give the tokenizer that belongs to it, "
            "or resize its embeddings."
        )


def _path(name: str, what: str) -> str:
    """A path of this machine, or the id of a model on the hub."""
    local = name.startswith(("package:", ".", "/", "~")) or exists(Path(name))
    try:
        return str(locate(name)) if local else name
    except DataError as error:
        raise RecipeError(f"{what}: {error}") from error


def _folder(path: str) -> Path | None:
    """The folder in which the files of a model lie, that of the hub's cache included, once it is there."""
    if exists(Path(path)):
        return Path(path)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(path, "config.json")
    except (HFValidationError, OSError):
        return None
    return Path(found).parent if isinstance(found, str) else None


def _tokenizer_files(folder: Path) -> Iterator[Path]:
    for pattern in _VOCABULARIES:
        yield from folder.glob(pattern)


def _check_files(tokenizer: PreTrainedTokenizerBase, name: str, folder: Path | None) -> None:
    """Refuse a vocabulary of special tokens only, which Transformers makes silently if files are missing."""
    if not tokenizer.vocab_files_names:  # the bytes of a text are its tokens
        return
    ordinary = tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)
    if len(ordinary) <= 1 or (folder is not None and not any(_tokenizer_files(folder))):
        raise _no_tokenizer(name)


def _no_tokenizer(name: str) -> RecipeError:
    return RecipeError(
        f"{shown(name)} has no tokenizer: neither tokenizer.json nor the files of a vocabulary; save the "
        "tokenizer there, too (tokenizer.save_pretrained)."
    )
