"""The parser of the command line: signatures and docstrings of the commands are its options and help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.cli.models import add_task, export, extract, remove_task, show
from graftwork.cli.train import compare, fit, report
from graftwork.cli.use import evaluate, predict

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

__all__ = ["COMMANDS", "build_parser"]

COMMANDS: dict[str, Callable[..., None]] = {
    command.__name__.replace("_", "-"): command
    for command in (fit, evaluate, predict, show, extract, export, add_task, remove_task, compare, report)
}
_RENAMED = {
    "as_json": "json",
    "backbone_unchecked": "backbone-unchecked",
    "dry_run": "dry-run",
    "per_class": "per-class",
    "retry_failed": "retry-failed",
}
"""Options with hyphens, or whose name would hide a module inside their function."""
_REPEATED = {"set": "KEY=VALUE", "ignore": "SETTING"}
"""Options that may be given several times, with the name of what they take."""
_SHORT = ("report", "add-task", "remove-task")
"""Commands whose output is an option, -o."""


def build_parser() -> ArgumentParser:
    """The parser of all subcommands."""
    from argparse import RawDescriptionHelpFormatter

    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    class Formatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
        """Keeps the lines of the settings."""

    parser = ArgumentParser(
        prog="graftwork",
        description="Fine-tune one frozen transformer on many tasks at once and learn the adapter structure.",
        formatter_class=Formatter,
    )
    commands = parser.add_subcommands(required=True, dest="command")
    for name, command in COMMANDS.items():
        summary, help_of = _documentation(command)
        epilog = {"fit": _recipe_settings, "add-task": _task_settings}.get(name, lambda: None)()
        one = ArgumentParser(description=summary, epilog=epilog)
        parameters = inspect.signature(command).parameters
        flags = [option for option, parameter in parameters.items() if parameter.default is False]
        short = {"output"} if name in _SHORT else set()
        several = {"folders"} & set(parameters)
        one.add_function_arguments(command, as_positional=True, skip={*flags, *short, *several, *_REPEATED})
        for option in several:
            one.add_argument(option, nargs="+", type=Path, help=help_of[option])
        if short:
            one.add_argument("-o", "--output", type=Path, required=True, help=help_of["output"])
        for option in _REPEATED.keys() & parameters.keys():
            one.add_argument(f"--{option}", action="append", metavar=_REPEATED[option], help=help_of[option])
        for flag in flags:
            one.add_argument(
                f"--{_RENAMED.get(flag, flag)}", dest=flag, action="store_true", help=help_of[flag]
            )
        commands.add_subcommand(name, one, help=summary)
    return parser


def _recipe_settings() -> str:
    """Every setting of a recipe."""
    from graftwork.recipe import Recipe
    from graftwork.settings import GraftSettings, Training
    from graftwork.sparsity import Schedule
    from graftwork.tasks import Task

    return _settings(
        ("", Recipe),
        ("tasks[].", Task),
        ("graft.", GraftSettings),
        ("schedule.", Schedule),
        ("training.", Training),
    )


def _task_settings() -> str:
    """Every setting of a recipe of an added task that a recipe does not have."""
    from graftwork.newtask import Extension

    return _settings(("extend.", Extension)) + "\n  tasks[], schedule, training, seed: as for graftwork fit"


def _settings(*sections: tuple[str, type]) -> str:
    """Settings with their defaults, from the docstrings below the fields."""
    import dataclasses
    import textwrap

    from docstring_parser import parse_from_object

    lines = ["settings of a recipe:"]
    for prefix, section in sections:
        texts = {item.arg_name: item.description for item in parse_from_object(section).params}
        for entry in dataclasses.fields(section):
            default = "" if entry.default is dataclasses.MISSING else f" [{entry.default}]"
            text = " ".join((texts.get(entry.name) or "").split())
            lines += textwrap.wrap(
                f"{prefix}{entry.name}{default}: {text}", 100, initial_indent="  ", subsequent_indent="      "
            )
    return "\n".join(lines)


def _documentation(command: Callable[..., None]) -> tuple[str, dict[str, str]]:
    """First line and argument texts of a docstring."""
    summary, _, arguments = inspect.cleandoc(command.__doc__ or "").partition("Args:")
    entries = (line.strip().partition(": ") for line in arguments.strip().splitlines())
    return summary.strip(), {name: text for name, _, text in entries}
