"""From the plain values of a YAML file to the fields of a dataclass, collecting every fault on the way."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import types
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from graftwork.errors import GraftworkError
from graftwork.messages import did_you_mean, near_misses, shown
from graftwork.recipe.shares import WORDS, is_share, plain_share

__all__ = ["joined", "read_fields"]

MOST_FAULTS, MOST_TEXT = 20, 3000
"""Faults of a file that are named one by one, and characters that they may take."""
LONGEST = 1000
"""Longest string that is converted or may stand in a list, in characters."""
MOST_UNKNOWN = 10
"""Largest number of unknown keys that are named one by one."""
_ALLOWED = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
_PLURAL = {str: "strings", int: "whole numbers", float: "numbers", bool: "true or false"}


def read_fields(
    cls: type, raw: Mapping[str, Any], where: str, faults: list[str], given: Collection[str] = ()
) -> dict[str, Any]:
    """Convert a mapping to the arguments of the dataclass `cls`.

    Args:
        cls: A dataclass; a field whose type is a dataclass is read as a nested section.
        raw: Keys and plain values, as YAML gives them.
        where: Where the mapping stands, for messages: a section, a task, or "" for the top level.
        faults: Every fault is appended as one phrase; `raw` may be no mapping at all.
        given: Fields that the caller fills.

    Returns:
        The arguments that `raw` gives and that are right.
    """
    if not isinstance(raw, Mapping):
        faults.append(f"{where}={shown(raw)} must be a mapping; allowed keys: {', '.join(_names(cls))}")
        return {}
    hints = get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cls) if item.init and item.name not in given}
    unknown = [key for key in raw if key not in fields]
    faults += [_unknown_key(key, fields, hints, where) for key in unknown[:MOST_UNKNOWN]]
    if len(unknown) > MOST_UNKNOWN:
        faults.append(f"{len(unknown) - MOST_UNKNOWN:,} more unknown keys in {where or 'the recipe'}")
    arguments: dict[str, Any] = {}
    for name, item in fields.items():
        label = f"{where}.{name}" if where and " " not in where else f"{name} of {where}" if where else name
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if name not in raw:
            if required:
                faults.append(f"{label} is missing; give {_allowed(hints[name])}")
        elif dataclasses.is_dataclass(hints[name]):
            _read_section(hints[name], raw[name], name, faults, arguments)
        else:
            try:
                value = plain_share(raw[name]) if is_share(item) else raw[name]
                arguments[name] = _convert(value, hints[name])
            except ValueError:
                also = f", or {WORDS}" if is_share(item) else ""
                faults.append(_wrong_type(label, raw[name], hints[name]) + also)
    return arguments


def joined(faults: Sequence[str]) -> str:
    """All faults as one line, each once; of very many the first."""
    named = list(dict.fromkeys(faults))
    lengths = itertools.accumulate(map(len, named))
    some = max(1, sum(length <= MOST_TEXT for length in itertools.islice(lengths, MOST_FAULTS)))
    return "; ".join(named[:some]) + (f"; and {len(named) - some:,} more" if len(named) > some else "")


def _read_section(cls: Any, raw: Any, name: str, faults: list[str], arguments: dict[str, Any]) -> None:
    if raw is None:  # a section whose settings are all commented out
        return
    before = len(faults)
    settings = read_fields(cls, raw, name, faults)
    if len(faults) == before:
        try:
            arguments[name] = cls(**settings)
        except GraftworkError as error:
            faults.append(str(error).rstrip("."))


def _convert(value: Any, hint: Any) -> Any:
    """Convert one plain value to the type `hint`. YAML reads `1e-3` as a string: as a float it is a number.

    Raises:
        ValueError: the value does not fit.
    """
    if value is None:  # jsonargparse lets null pass for every type
        if type(None) not in get_args(hint):
            raise ValueError
        return None
    if type(value) is hint and hint in (str, int, float, bool):
        return value
    union = get_origin(hint) in (Union, types.UnionType)
    if isinstance(value, str) and (hint is str or (union and str in get_args(hint))):
        return value
    # jsonargparse reads a string where it wants none as YAML of its own, without limits.
    if not _short(value):
        raise ValueError
    try:
        return _parser(hint).parse_object({"value": value}).value
    except ArgumentError as error:
        raise ValueError from error


def _short(value: Any) -> bool:
    """Whether no string in a value is longer than a number or a name can be."""
    if isinstance(value, str):
        return len(value) <= LONGEST
    if isinstance(value, Mapping):
        return all(_short(key) and _short(item) for key, item in value.items())
    return all(map(_short, value)) if isinstance(value, list | tuple) else True


@functools.cache
def _parser(hint: Any) -> ArgumentParser:
    """A grid converts thousands of values, and to make a parser takes longer than to use it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    return parser


def _names(cls: Any) -> list[str]:
    return [item.name for item in dataclasses.fields(cls) if item.init]


def _unknown_key(key: object, fields: Mapping[str, Any], hints: Mapping[str, Any], where: str) -> str:
    message = f"unknown key {shown(key)} in {where or 'the recipe'}"
    if near_misses(key, fields):
        return f"{message}{did_you_mean(key, fields)}"
    for section in fields:
        if dataclasses.is_dataclass(hints[section]) and key in _names(hints[section]):
            return f"{message}; did you mean {f'{section}.{key}'!r}?"
    return f"{message}; allowed: {', '.join(fields)}"


def _wrong_type(label: str, value: Any, hint: Any) -> str:
    message = f"{label}={shown(value)} must be {_allowed(hint)}"
    values = value if isinstance(value, list) else [value]
    if "string" in message.removeprefix(label) and any(
        isinstance(item, bool | int | float) for item in values
    ):
        message += " (YAML reads bare yes, no, on, off and numbers as other types: put them in quotes)"
    return message


def _allowed(hint: Any) -> str:
    """Say in words which values a type takes."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_allowed(arg) for arg in args)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is tuple and get_origin(args[0]) is tuple:
        return f"a list of lists of {_PLURAL[get_args(args[0])[0]]}"
    if origin is tuple:
        return f"a list of {_PLURAL[args[0]]}"
    if origin is dict:
        return f"a mapping of names to {_PLURAL[args[1]]}"
    return _ALLOWED[hint]
