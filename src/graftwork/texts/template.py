"""Templates of prompts: `{field}` stands for the text of a row's field, `{{` and `}}` for braces."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from typing import Any

from graftwork.messages import shown

__all__ = ["fill", "template_faults", "template_fields"]


def template_fields(template: str) -> tuple[str, ...]:
    """The fields that a template names, each once.

    Raises:
        ValueError: it is no template; says why.
    """
    found = []
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{error}; write {{{{ and }}}} for braces of the text") from None
    for _, field, form, conversion in parts:
        if field is None:
            continue
        if not field or form or conversion or any(sign in field for sign in ".[]"):
            raise ValueError(
                f"{shown('{' + field + '}')} is no field of a row; name one, such as {{text}}, and write "
                "{{ and }} for braces of the text"
            )
        found.append(field)
    return tuple(dict.fromkeys(found))


def template_faults(template: object) -> list[str]:
    """What is wrong with a setting `prompt`."""
    if template is None:
        return []
    if not isinstance(template, str) or not template.strip():
        return [f"prompt is {shown(template)}, not a text with fields, such as 'Question: {{question}}'"]
    try:
        fields = template_fields(template)
    except ValueError as error:
        return [f"prompt: {error}"]
    return [] if fields else [f"prompt is {shown(template)} and names no field of a row, such as {{text}}"]


def fill(template: str, row: Mapping[str, Any], read: Callable[[Mapping[str, Any], str], str]) -> str:
    """The template with the fields of a row.

    Args:
        template: as `template_fields` takes it.
        row: the row.
        read: gives the text of a field, or refuses it.
    """
    return template.format(**{field: read(row, field) for field in template_fields(template)})
