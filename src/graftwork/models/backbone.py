"""Loading what is not trained: a pretrained transformer and its tokenizer or image processor, checked."""

from __future__ import annotations

import inspect
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.data.images.reader import ImageReader
from graftwork.data.images.row_image import check_pillow
from graftwork.data.sources import locate
from graftwork.distributed.notes import note
from graftwork.edges import words_of
from graftwork.errors import DataError, RecipeError
from graftwork.files.reading import exists
from graftwork.files.weights import as_checkpoint_error
from graftwork.messages import listed, shown
from graftwork.models.causal.decoders import check_decoder
from graftwork.models.first_pass import measure_width_
from graftwork.models.identity import file_stamp, identify_

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from graftwork.data.images.reader import InputReader
    from graftwork.kinds.kind import Reads

__all__ = [
    "check_vocabulary",
    "load_backbone",
    "load_encoder",
    "load_image_reader",
    "load_tokenizer",
    "saved_reader",
]

TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")
"""Either of them says that a tokenizer was saved with a model."""
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""Either of them says that an image processor was saved with a model."""

_VOCABULARIES = ("tokenizer.*", "vocab*", "*.spm", "spm.model", "spiece.model", "*.bpe.model", "tekken.json")
"""Names of files that hold a vocabulary; a tokenizer that does not work on bytes has one of them."""


def load_backbone(
    name: str, reads: Reads = "text", *, causal: bool = False
) -> tuple[PreTrainedModel, InputReader]:
    """The pretrained transformer and tokenizer of a hub id, a folder, or `package:NAME/sub/folder`.

    Of an encoder-decoder only the encoder is kept. A short text is passed through the backbone. Of a model of
    texts and images, such as CLIP, the part that `reads` names is kept; for images the tokenizer's place is
    taken by the image processor.

    Args:
        name: where it is.
        reads: texts or images.
        causal: as a language model that writes, with its head.

    Raises:
        RecipeError: there is no such model, it cannot be read, tokenizer and model do not fit, or it does not
            turn text into hidden states.
    """
    model = load_encoder(name, reads, causal=causal)
    if reads == "image":
        reader = load_image_reader(name)
        measure_width_(model, reader, name)
        return model, reader
    tokenizer = load_tokenizer(name)
    check_vocabulary(tokenizer, model, name, name)
    measure_width_(model, tokenizer, name)
    return model, tokenizer


def load_encoder(name: str, reads: Reads = "text", *, causal: bool = False) -> PreTrainedModel:
    """The transformer alone, with its identity (`graftwork.models.identity.identity_of`).

    Args:
        name: where it is.
        reads: texts or images.
        causal: as a language model that writes, with its head.

    Raises:
        RecipeError: there is no such model, or it cannot be read, or lacks weights, or reads something else,
            or cannot write.
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
                check_decoder(config, name)
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
    tower = getattr(model, "vision_model", None)
    if reads == "image" and tower is not None and type(model).main_input_name != "pixel_values":
        missing = {key.removeprefix("vision_model.") for key in missing if key.startswith("vision_model.")}
        tower.name_or_path, model = model.name_or_path, tower
    _check_reads(model, reads, name)
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
    if reads == "image":
        model.register_forward_pre_hook(_interpolate, with_kwargs=True)
        for layer in model.modules():
            if hasattr(layer, "set_shift_and_window_size"):
                layer.given_windows = (layer.window_size, layer.shift_size)
                layer.register_forward_pre_hook(_reset_windows)
    return model  # type: ignore[no-any-return]


def _check_reads(model: PreTrainedModel, reads: Reads, name: str) -> None:
    """Refuse a backbone of images for texts, and the other way round.

    Raises:
        RecipeError: it is one.
    """
    of_images = getattr(type(model), "main_input_name", "input_ids") == "pixel_values"
    if of_images and reads == "text":
        raise RecipeError(
            f"model {shown(name)} is a {type(model).__name__}, which reads images; name the field of the "
            "images with image: in every task, or choose a backbone of text."
        )
    if reads == "image" and not of_images:
        raise RecipeError(
            f"model {shown(name)} is a {type(model).__name__}, which reads no images; choose a backbone of "
            "images, such as ViT, DINOv2, Swin or CLIP, or name the field of the texts with text:"
        )


def _interpolate(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Before a pass: images of another size than in pretraining get interpolated position embeddings."""
    pixels = kwargs.get("pixel_values")
    size = getattr(model.config, "image_size", None)
    if pixels is None or size is None or "interpolate_pos_encoding" in kwargs:
        return None
    known = (size, size) if isinstance(size, int) else tuple(size)
    if tuple(pixels.shape[-2:]) == known or not _can_interpolate(type(model)):
        return None
    return args, {**kwargs, "interpolate_pos_encoding": True}


def _reset_windows(layer: Any, args: tuple[Any, ...]) -> None:
    """Before a layer of Swin: it shrinks its windows for good at a small image, and would keep them."""
    layer.window_size, layer.shift_size = layer.given_windows


def _can_interpolate(kind: Any) -> bool:
    return "interpolate_pos_encoding" in inspect.signature(kind.forward).parameters


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


def load_image_reader(name: str) -> ImageReader:
    """The image processor of a hub id, a folder, or `package:NAME/sub/folder`, in its form for Pillow.

    Raises:
        RecipeError: there is none, or it cannot be read.
    """
    check_pillow()
    from transformers import AutoImageProcessor

    path = _path(name, "image processor")
    folder = _folder(path)
    if folder is not None and not any((folder / file).is_file() for file in PROCESSOR_FILES):
        raise RecipeError(
            f"{shown(name)} has no image processor: there is no {PROCESSOR_FILES[0]}; save one "
            "there, too (image_processor.save_pretrained)."
        )
    try:
        with _quietly():
            processor = AutoImageProcessor.from_pretrained(path, backend="pil", trust_remote_code=False)
    except Exception as error:  # as above
        raise RecipeError(
            f"the image processor of {shown(name)} cannot be loaded ({_reason(error)})."
        ) from error
    return ImageReader(processor)


def saved_reader(
    folder: Path, base: PreTrainedModel, backbone: str, asked: str | None, reads: Reads = "text"
) -> InputReader:
    """The tokenizer that was asked for, else the one saved with the model, else that of its backbone.

    Of a model that reads images, its image processor.
    """
    images = reads == "image"
    load: Callable[[str], InputReader] = load_image_reader if images else load_tokenizer
    if asked is None and any(
        (folder / name).is_file() for name in (PROCESSOR_FILES if images else TOKENIZER_FILES)
    ):
        with as_checkpoint_error(folder):
            found = load(os.path.join(os.curdir, folder))
        place = str(folder)
    else:
        place = asked or backbone
        if asked is None:
            what = "image processor" if images else "tokenizer"
            note(f"{folder} holds no {what}; that of the backbone {backbone} is used.")
        found = load(place)
    if not isinstance(found, ImageReader):
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
