"""What a message advises to run: the command that was given, or the call from Python, once more.

The outermost of `commanded` and `called` says what the user started; messages below it ask `again` and
`option`. So an advice holds every option that was given, and can be run as it is.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from graftwork.launcher import launched

__all__ = ["again", "called", "command", "commanded", "option"]

RESUMED = ("fit", "fit_family")
"""Commands and functions that go on with `resume`; `compare` always goes on, and any other starts anew."""
SET = "--set"


@dataclass(frozen=True)
class _Started:
    """A command line without its program, or the function of a call and its arguments."""

    name: str
    words: tuple[str, ...]
    from_python: bool


_STARTED: ContextVar[_Started | None] = ContextVar("graftwork_started", default=None)


@contextmanager
def commanded(arguments: Sequence[str]) -> Iterator[None]:
    """Inside the context messages advise this command line.

    Args:
        arguments: of `graftwork`, the first one the command.
    """
    token = _STARTED.set(_Started(arguments[0] if arguments else "", tuple(arguments), False))
    try:
        yield
    finally:
        _STARTED.reset(token)


@contextmanager
def called(name: str, *arguments: str, **options: object) -> Iterator[None]:
    """Inside the context messages advise this call, unless a command or another call is around it.

    Args:
        name: of the function.
        arguments: names of what it was given.
        options: further arguments and their values; those that are None or False are not told.
    """
    if _STARTED.get() is not None:
        yield
        return
    told = (f"{key}={value!r}" for key, value in options.items() if value not in (None, False))
    token = _STARTED.set(_Started(name, (*arguments, *told), True))
    try:
        yield
    finally:
        _STARTED.reset(token)


def option(name: str) -> str:
    """An option as the user would give it: `--overwrite` to a command, `overwrite=True` to a function."""
    started = _STARTED.get()
    named = started is None or started.from_python
    return f"{name}=True" if named else f"--{name.replace('_', '-')}"


def again(*flags: str, changes: Mapping[str, object] | None = None, resume: bool = True) -> str:
    """What the user started, to be run once more: a command line for the shell, or a call.

    Args:
        flags: options to add, such as "retry_failed".
        changes: settings to change, by dotted key.
        resume: add the option to go on where it stopped, for what can.
    """
    started = _STARTED.get()
    changes = changes or {}
    if started is None:
        return "the same call" + _in_the_recipe(changes)
    if resume and started.name in RESUMED:
        flags = ("resume", *flags)
    options = tuple(map(option, flags))
    words = [word for word in started.words if word not in options]
    if started.from_python:
        return f"{started.name}({', '.join((*words, *options))})" + _in_the_recipe(changes)
    for key in changes:
        words = _without(words, key)
    settings = (word for key, value in changes.items() for word in (SET, f"{key}={value}"))
    return _in_launcher(shlex.join((*_program(), *words, *options, *settings)))


def command(*words: str) -> str:
    """Another command line of graftwork, for the shell."""
    return shlex.join((*_program(), *words))


def _in_the_recipe(changes: Mapping[str, object]) -> str:
    told = ", ".join(f"{key}: {value}" for key, value in changes.items())
    return f" with {told} in the recipe" if told else ""


def _without(words: Sequence[str], key: str) -> list[str]:
    """The words without `--set KEY=VALUE`, in one word or in two."""
    kept: list[str] = []
    for word in words:
        if word.startswith(f"{SET}={key}="):
            continue
        if word.startswith(f"{key}=") and kept and kept[-1] == SET:
            kept.pop()
            continue
        kept.append(word)
    return kept


def _program() -> tuple[str, ...]:
    as_module = Path(sys.argv[0]).parts[-2:] == ("graftwork", "__main__.py")
    return ("python", "-m", "graftwork") if as_module else ("graftwork",)


def _in_launcher(command: str) -> str:
    return f"{command}  # under the same launcher" if launched() > 1 else command
