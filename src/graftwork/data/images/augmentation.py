"""Random changes of training images, by Pillow: the same for a row, an epoch and a seed, on every machine."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING

from graftwork.files.reading import is_finite
from graftwork.messages import shown

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["CHANGES", "augment", "augmentation_faults"]

CHANGES: dict[str, tuple[str, float, float]] = {
    "flip": ("probability that left and right are swapped", 0, 1),
    "crop": ("smallest part of the area that is kept", 0.01, 1),
    "rotate": ("largest angle, in degrees", 0, 180),
    "colour": ("largest relative change of brightness, contrast and saturation", 0, 1),
}
"""Name of a change -> what its number means, and the smallest and the largest one."""


def augmentation_faults(changes: object, where: str) -> list[str]:
    """What is wrong with a mapping of changes to their numbers."""
    if not isinstance(changes, Mapping):
        return [f"{where}={shown(changes)} must be a mapping of {', '.join(CHANGES)} to numbers"]
    faults = []
    for name, value in changes.items():
        if name not in CHANGES:
            faults.append(f"{where} has the unknown key {shown(name)}; allowed: {', '.join(CHANGES)}")
            continue
        meaning, least, most = CHANGES[name]
        if not is_finite(value) or not least <= value <= most:
            faults.append(f"{where}.{name}={shown(value)} must be from {least:g} to {most:g}: {meaning}")
    return faults


def augment(image: Image, changes: Mapping[str, float], seed: int) -> Image:
    """An image, changed at random.

    Args:
        image: in RGB; it is not changed itself.
        changes: the largest of each (`CHANGES`).
        seed: of what is drawn.

    Returns:
        The image: a random part of it, turned, perhaps mirrored, in changed colours. A crop keeps from its
        number to all of the area, its sides in the ratio 3:4 to 4:3 of those of the image. Where turning
        leaves a corner empty it is filled with the mean colour of the image.
    """
    from PIL import Image as images
    from PIL import ImageEnhance, ImageOps, ImageStat

    draw = random.Random(seed)
    kept, angle, colour = changes.get("crop", 1), changes.get("rotate", 0), changes.get("colour", 0)
    if kept < 1:
        area, ratio = draw.uniform(kept, 1), math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
        width = max(1, min(image.width, round(image.width * math.sqrt(area * ratio))))
        height = max(1, min(image.height, round(image.height * math.sqrt(area / ratio))))
        left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
        image = image.crop((left, top, left + width, top + height))
    if angle:
        mean = tuple(round(value) for value in ImageStat.Stat(image).mean)
        turned = draw.uniform(-angle, angle)
        image = image.rotate(turned, resample=images.Resampling.BILINEAR, fillcolor=mean)
    if draw.random() < changes.get("flip", 0):
        image = ImageOps.mirror(image)
    if colour:
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(draw.uniform(1 - colour, 1 + colour))
    return image
