"""`ImageReader`: the image processor of a backbone, where texts have a tokenizer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from graftwork.data.images.augmentation import augment
from graftwork.data.images.row_image import open_image
from graftwork.edges import library_errors
from graftwork.errors import DataError
from graftwork.files.hashing import stable_key

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from transformers import BaseImageProcessor, PreTrainedTokenizerBase

    InputReader: TypeAlias = "PreTrainedTokenizerBase | ImageReader"
    """What turns the rows of a backbone's tasks into its inputs: of texts its tokenizer, of images the reader
    with its image processor."""

__all__ = ["AugmentedRows", "ImageReader", "blank_image", "text_tokenizer"]

Rows = Sequence[Mapping[str, Any]]


class ImageReader:
    """Turns images into the pixel values that a backbone takes, by its image processor.

    Args:
        processor: of the backbone, in its form for Pillow.

    Example:
        >>> from PIL import Image
        >>> from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
        >>> from graftwork.data.images.reader import ImageReader
        >>> reader = ImageReader(ViTImageProcessorPil(size={"height": 16, "width": 16}))
        >>> images = [Image.new("RGB", (8, 6)), Image.new("RGB", (24, 24))]
        >>> reader.pixels(images).shape, reader.sized(32).pixels(images).shape
        (torch.Size([2, 3, 16, 16]), torch.Size([2, 3, 32, 32]))
    """

    model_input_names = ("pixel_values",)

    def __init__(self, processor: BaseImageProcessor) -> None:
        self.processor = processor

    def pixels(self, images: Sequence[Image]) -> torch.Tensor:
        """Pixel values [images, channels, height, width]; every image is prepared for itself.

        Raises:
            DataError: the processor cannot read them, or makes images of different sizes of them.
        """
        name = type(self.processor).__name__
        with library_errors(f"{name} cannot read the images", DataError):
            found = [self.processor(images=[image], return_tensors="pt")["pixel_values"] for image in images]
        sizes = sorted({tuple(one.shape[-2:]) for one in found})
        if len(sizes) > 1:
            raise DataError(
                f"{name} gives images of different sizes, such as {sizes[0]} and {sizes[1]} pixels; set "
                "training.image_size"
            )
        pixels: torch.Tensor = torch.cat(found)
        return pixels

    def sized(self, size: int | None) -> ImageReader:
        """A reader of images of this many pixels a side; None: as many as the processor says.

        A processor that cuts out the middle of an image keeps the share that it cuts out.
        """
        if size is None:
            return self
        processor: Any = copy.deepcopy(self.processor)
        square = {"height": size, "width": size}
        if getattr(processor, "do_center_crop", False):
            crop, whole = processor.crop_size, dict(processor.size)
            factor = size / min(crop["height"], crop["width"])
            processor.size = {key: round(value * factor) for key, value in whole.items()}
            processor.crop_size = square
        else:
            processor.size = square
        processor.do_resize = True
        return ImageReader(processor)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the processor as Transformers does."""
        self.processor.save_pretrained(str(folder))


def blank_image() -> Image:
    """A grey image that is wider than high."""
    from PIL import Image

    return Image.new("RGB", (48, 32), (127, 127, 127))


class AugmentedRows:
    """A collator of training rows whose images are changed at random before another one takes them.

    Args:
        collator: makes a batch of rows.
        changes: of the images (`graftwork.data.images.augmentation`).
        seed: of what is drawn.
        epoch: which one it is; a row is changed in another way in each.
    """

    def __init__(
        self,
        collator: Callable[[Rows], dict[str, torch.Tensor]],
        changes: Mapping[str, float],
        seed: int,
        epoch: Callable[[], int],
    ) -> None:
        self.collator, self.changes, self.seed, self.epoch = collator, changes, seed, epoch

    def __call__(self, rows: Rows) -> dict[str, torch.Tensor]:
        """The batch. It depends on nothing but rows, seed and epoch, so that a resumed run goes on alike."""
        return self.collator([{**row, "image": self._changed(row)} for row in rows])

    def _changed(self, row: Mapping[str, Any]) -> Image:
        key = stable_key(self.seed, "augment", self.epoch(), int(row["graft_rows"]), row["image"]["digest"])
        return augment(open_image(row["image"]), self.changes, key)


def text_tokenizer(reader: InputReader) -> PreTrainedTokenizerBase:
    """The tokenizer, where only texts are read.

    Raises:
        DataError: it is the reader of a backbone of images.
    """
    if isinstance(reader, ImageReader):
        raise DataError("the model reads images, and this is for models of texts")
    return reader
