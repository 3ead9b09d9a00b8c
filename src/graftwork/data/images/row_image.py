"""`RowImage`: an image of a row, known by its content; and how its file is decoded."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict

from graftwork.edges import words_of
from graftwork.errors import DataError
from graftwork.files.reading import exists, read_regular, user_path
from graftwork.messages import shown

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "ENDINGS",
    "RowImage",
    "StoredImage",
    "as_stored",
    "check_pillow",
    "image_type",
    "is_image",
    "open_image",
]

ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")
"""What the names of image files in a folder per class end in."""

_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
"""Pillow's modes with at most 8 bits a channel."""


class StoredImage(TypedDict):
    """An image as a column of a table holds it."""

    digest: str
    path: str | None
    content: bytes | None


class RowImage(str):
    """An image of a row. As a string it is the SHA-256 of its file, so that equal images are equal strings.

    Splits keep equal texts on one side, and know rows again, by comparing strings; images take the same way.

    Attributes:
        path: of the file; None if the image was given as such.
        content: the bytes of a file that is in no folder; None if there is a path.

    Example:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from graftwork.data.images.row_image import RowImage
        >>> Image.new("RGB", (8, 6), (200, 0, 0)).save("red.png")
        >>> image = RowImage.read("red.png")
        >>> image == RowImage.read({"bytes": Path("red.png").read_bytes()})
        True
        >>> len(image), Path(image.path).name
        (64, 'red.png')
    """

    path: str | None
    content: bytes | None

    def __new__(cls, digest: str, path: str | None = None, content: bytes | None = None) -> Self:
        """A string with two attributes."""
        image = super().__new__(cls, digest)
        image.path, image.content = path, content
        return image

    @classmethod
    def read(cls, value: object, folder: Path | None = None) -> Self:
        """The image that a field of a row names or holds, decoded once to see that it can be.

        Args:
            value: the path of a file; an image of Pillow; or `{"bytes", "path"}`, as `datasets` stores it.
            folder: where relative paths are looked for first; then in the current folder.

        Raises:
            ValueError: it is no image; the message is the rest of a sentence about the field.
        """
        path: str | None = None
        if is_image(value):
            content = _as_file(value)
        elif isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
            content = value["bytes"]
        else:
            named = value.get("path") if isinstance(value, Mapping) else value
            path = _found(named, folder)
            try:
                content = read_regular(Path(path))
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise ValueError(f"is {shown(path)}, which cannot be read ({reason})") from None
        try:
            decode(content)
        except ValueError as error:
            name = "an image" if path is None else shown(path)
            raise ValueError(f"is {name}, which {error}") from None
        return cls(hashlib.sha256(content).hexdigest(), path, None if path is not None else content)

    def stored(self) -> StoredImage:
        """As a table holds it."""
        return {"digest": str(self), "path": self.path, "content": self.content}


def image_type() -> Any:
    """The type of a column of images in Arrow (`StoredImage`)."""
    import pyarrow  # type: ignore[import-untyped]

    fields = {"digest": pyarrow.string(), "path": pyarrow.string(), "content": pyarrow.large_binary()}
    return pyarrow.struct(list(fields.items()))


def as_stored(name: str, values: list[Any]) -> list[Any]:
    """The values of a column as a table holds them: those of `image` as `StoredImage`."""
    return [value.stored() for value in values] if name == "image" else values


def check_pillow() -> None:
    """Refuse to read images without Pillow.

    Raises:
        DataError: it is not installed.
    """
    from importlib.util import find_spec

    if find_spec("PIL") is None:
        raise DataError("images need Pillow; run `pip install 'graftwork[images]'`.")


def is_image(value: object) -> bool:
    """Whether a value is an image of Pillow, which is never imported for that."""
    found = getattr(sys.modules.get("PIL.Image"), "Image", None)
    return isinstance(found, type) and isinstance(value, found)


def open_image(image: RowImage | StoredImage | Image) -> Image:
    """The pixels of an image, in RGB.

    Raises:
        DataError: its file is gone or has changed since it was read.
    """
    if is_image(image):
        return image  # type: ignore[return-value]
    stored: Any = image.stored() if isinstance(image, RowImage) else image
    content, path = stored["content"], stored["path"]
    try:
        if content is None:
            content = read_regular(Path(path))
        return decode(content)
    except (OSError, ValueError) as error:
        raise DataError(f"the image {shown(path)} cannot be read: {error}.") from None


def decode(content: bytes) -> Image:
    """The image in a file, turned as its camera says, in RGB; what is transparent becomes white.

    Raises:
        ValueError: it is none, or a broken one; the message is the rest of a sentence about it.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on metadata and palettes
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as file:
                file.load()
                return _as_rgb(ImageOps.exif_transpose(file))
    except UnidentifiedImageError:
        raise ValueError("is no image that Pillow can read") from None
    except bombs:
        raise ValueError("has more pixels than Pillow takes for safe; make it smaller") from None
    except _UnknownMode:
        raise
    except Exception as error:  # Pillow's readers raise whatever a broken file leads them to
        raise ValueError(f"is broken ({words_of(error)})") from None


class _UnknownMode(ValueError):
    """An image with channels of more than 8 bits."""


def _as_rgb(image: Image) -> Image:
    from PIL import Image

    if image.mode not in _MODES:
        raise _UnknownMode(
            f"has pixels of mode {image.mode!r}, more than 8 bits a channel; save it with 8 bits"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _as_file(image: Any) -> bytes:
    """An image in memory as the bytes of a PNG file, which keeps every value."""
    try:
        plain = _as_rgb(image)
    except _UnknownMode as error:
        raise ValueError(f"is an image, which {error}") from None
    sink = io.BytesIO()
    plain.save(sink, format="PNG")
    return sink.getvalue()


def _found(named: object, folder: Path | None) -> str:
    """The path of a file that a row names.

    Raises:
        ValueError: it is no path, or there is no such file.
    """
    if isinstance(named, os.PathLike):
        named = os.fspath(named)
    if not isinstance(named, str) or not named.strip():
        raise ValueError(f"is {'null' if named is None else shown(named)}, not the path of an image")
    path = user_path(named)
    places = [folder / path, path] if folder is not None and not path.is_absolute() else [path]
    for place in places:
        if exists(place):
            return str(place)
    beside = f", neither in {folder} nor in the current folder" if len(places) > 1 else ""
    raise ValueError(f"is {shown(named)}, and there is no such file{beside}")
