"""The images of the rows of a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from graftwork.data.images.row_image import RowImage, check_pillow
from graftwork.errors import DataError
from graftwork.messages import listed

__all__ = ["image_column"]


class Table(Protocol):
    """Rows and where they were found (`graftwork.data.sources.SourceRows`)."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows."""

    @property
    def path(self) -> str:
        """Their file."""

    def where(self, index: int) -> str:
        """Where a row was found."""


def image_column(table: Table, field: str, what: str) -> list[str]:
    """The images in a field of all rows; every one is decoded once.

    Args:
        table: the rows; relative paths are looked for beside their file first.
        field: of the images.
        what: the split and its task, for messages.

    Raises:
        DataError: a row lacks the field, or has no image there.
    """
    check_pillow()
    folder = Path(table.path).parent
    images: list[str] = []
    for index, row in enumerate(table.rows):
        if field not in row:
            fields = listed(row, 20) or "none"
            raise DataError(f"{what}: {table.where(index)} has no field {field!r}; its fields: {fields}")
        try:
            images.append(RowImage.read(row[field], folder))
        except ValueError as error:
            raise DataError(f"{what}: {table.where(index)}: the image in {field!r} {error}") from None
    return images
