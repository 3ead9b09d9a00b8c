"""Templates over the fields of a row: `{field}` stands for its text, `{{` and `}}` for braces.

A text that was made by a template of `text:` is marked as such (`fill_text`), so that whoever tokenises it
knows that nothing in it may become a special token but the separators of the template.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from graftwork.messages import shown

__all__ = [
    "SEPARATOR",
    "change_parts",
    "fields_read",
    "fill",
    "fill_text",
    "is_template",
    "parts_of",
    "plain_text",
    "template_faults",
    "template_fields",
    "text_faults",
    "unmarked",
]

SEPARATOR = "[SEP]"
"""Stands in templates of `text:` for the separator token of the backbone's tokenizer."""
_MADE, _PART = "\ufdd0", "\ufdd1"
"""What a text made by a template begins with, and what stands between its parts: characters that Unicode
keeps for use inside of programs."""
_ALONE = re.compile(r"(?<!\S)\[SEP\](?!\S)")
"""A separator with blanks, or an end of the template, beside it."""
_GAP = re.compile(r"\s*\[SEP\]\s*")
"""A separator and the blanks beside it."""


def is_template(text: object) -> bool:
    """Whether a setting `text` is a template, not the name of a field."""
    return isinstance(text, str) and ("{" in text or "}" in text)


def template_fields(template: str) -> tuple[str, ...]:
    """The fields that a template names, each once.

    Raises:
        ValueError: it is no template; says why.
    """
    found = []
    for _, field in _pieces(template):
        if field is not None:
            found.append(field)
    return tuple(dict.fromkeys(found))


def _pieces(template: str) -> list[tuple[str, str | None]]:
    """Text and the field that follows it, or None at the end.

    Raises:
        ValueError: it is no template; says why.
    """
    found = []
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{error}; write {{{{ and }}}} for braces of the text") from None
    for literal, field, form, conversion in parts:
        if field is not None and (not field or form or conversion or any(sign in field for sign in ".[]")):
            raise ValueError(
                f"{shown('{' + field + '}')} is no field of a row; name one, such as {{text}}, and write "
                "{{ and }} for braces of the text"
            )
        found.append((literal, field))
    return found


def template_faults(template: object, setting: str = "prompt") -> list[str]:
    """What is wrong with a setting that is a template, or None."""
    if template is None:
        return []
    if not isinstance(template, str) or not template.strip():
        return [f"{setting} is {shown(template)}, not a text with fields, such as 'Question: {{question}}'"]
    try:
        fields = template_fields(template)
    except ValueError as error:
        return [f"{setting}: {error}"]
    return [] if fields else [f"{setting} is {shown(template)} and names no field of a row, such as {{text}}"]


def text_faults(texts: Iterable[object], label: object) -> list[str]:
    """What is wrong with the templates among the texts of a task.

    Args:
        texts: of the task: one, or two of a pair.
        label: the field of its targets.
    """
    texts, faults = list(texts), []
    for text in filter(is_template, texts):
        assert isinstance(text, str)
        own = template_faults(text, "text")
        parts = len(_ALONE.findall(text))
        if not own and label in template_fields(text):
            own = [f"text has the label {{{label}}} in it, so that nothing would be left to learn"]
        if parts < text.count(SEPARATOR):
            own.append(
                f"text is {shown(text)}; put a blank on both sides of {SEPARATOR}, the separator token"
            )
        elif parts and len(texts) > 1:
            own.append(
                f"text is two texts, between which the tokenizer puts its separator; leave {SEPARATOR} out, "
                "or write one template"
            )
        faults += own
    return faults


def fields_read(texts: Iterable[str]) -> tuple[str, ...]:
    """The fields that the texts of a task are made of: their names, or those in their templates."""
    found = [field for text in texts for field in (template_fields(text) if is_template(text) else (text,))]
    return tuple(dict.fromkeys(found))


def fill(template: str, row: Mapping[str, Any], read: Callable[[Mapping[str, Any], str], str]) -> str:
    """The template with the fields of a row.

    Args:
        template: as `template_fields` takes it.
        row: the row.
        read: gives the text of a field, or refuses it.
    """
    return "".join(
        literal + ("" if field is None else read(row, field)) for literal, field in _pieces(template)
    )


def fill_text(template: str, row: Mapping[str, Any], read: Callable[[Mapping[str, Any], str], str]) -> str:
    """The text that a template of `text:` makes of a row, marked as such.

    Args:
        template: as `fill` takes it. A `SEPARATOR` parts the text, and the blanks beside it are left out.
        row: the row.
        read: gives the text of a field, or refuses it.
    """

    def value(row: Mapping[str, Any], field: str) -> str:
        return read(row, field).replace(_MADE, "\ufffd").replace(_PART, "\ufffd")

    return _MADE + fill(_GAP.sub(_PART, template), row, value)


def parts_of(text: str) -> list[str] | None:
    """What stands between the separators of a text that a template made; None of any other text."""
    return text[1:].split(_PART) if text.startswith(_MADE) else None


def unmarked(text: str) -> str:
    """A text that comes from outside, which cannot be taken for one that a template made."""
    return "\ufffd" + text[1:] if text.startswith(_MADE) else text


def plain_text(text: str) -> str:
    """A text for people, without marks."""
    parts = parts_of(text)
    return text if parts is None else f" {SEPARATOR} ".join(parts)


def change_parts(text: str, change: Callable[[str], str]) -> str:
    """A text that is changed, of one that a template made every part for itself."""
    parts = parts_of(text)
    return change(text) if parts is None else _MADE + _PART.join(map(change, parts))
