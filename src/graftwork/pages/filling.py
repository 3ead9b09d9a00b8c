"""Templates of pages, and the style that all pages share."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["environment", "style"]

_OWN = "graftwork.pages"


def environment(package: str = _OWN, *, markup: bool = True) -> Environment:
    """The templates of a package and those that all share; a name that is not given is an error.

    Args:
        package: with a folder `templates`.
        markup: whether values are text to be escaped for HTML.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    places = [resources.files(name) / "templates" for name in dict.fromkeys((package, _OWN))]

    def source(name: str) -> str | None:
        found = next((place / name for place in places if (place / name).is_file()), None)
        return None if found is None else found.read_text(encoding="utf-8")

    loader = FunctionLoader(source)
    return Environment(loader=loader, autoescape=markup, undefined=StrictUndefined, trim_blocks=True)


def style() -> str:
    """The style sheet of all pages."""
    return (resources.files(_OWN) / "templates" / "page.css").read_text(encoding="utf-8")
