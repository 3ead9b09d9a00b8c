"""Templates of pages, and the style that all pages share."""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["environment", "script", "script_data", "style"]

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
    made = Environment(loader=loader, autoescape=markup, undefined=StrictUndefined, trim_blocks=True)
    made.filters["script_data"] = script_data
    return made


def style() -> str:
    """The style sheet of all pages."""
    return _text("page.css")


def script(*names: str) -> str:
    """Scripts of pages, for one script element; each stands in a block of its own.

    Args:
        names: `maps`, `scatter` or `tables`.
    """
    return "\n".join(f"{{\n{_text(f'{name}.js')}}}" for name in names)


def script_data(value: Any) -> str:
    """Plain data as JSON that may stand inside a script element; a number that is not finite is an error."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def _text(name: str) -> str:
    return (resources.files(_OWN) / "templates" / name).read_text(encoding="utf-8")
