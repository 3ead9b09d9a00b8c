"""The parser of the command line: signatures and docstrings of the commands are its options and help."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from graftwork.cli.models import add_task, export, extract, remove_task, show
from graftwork.cli.opening import opening
from graftwork.cli.serving import serve
from graftwork.cli.sharing import push
from graftwork.cli.talk import chat
from graftwork.cli.train import compare, fit, report
from graftwork.cli.use import evaluate, predict

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

__all__ = ["COMMANDS", "build_parser", "run_command"]

COMMANDS: dict[str, Callable[..., None]] = {
    command.__name__.replace("_", "-"): command
    for command in (
        fit,
        evaluate,
        predict,
        chat,
        show,
        extract,
        export,
        add_task,
        remove_task,
        push,
        serve,
        compare,
        report,
    )
}
"""Name of a command -> its function."""
_RENAMED = {
    "all_tasks": "all-tasks",
    "as_json": "json",
    "backbone_unchecked": "backbone-unchecked",
    "batch_rows": "batch-rows",
    "batch_tokens": "batch-tokens",
    "dry_run": "dry-run",
    "no_diagnosis": "no-diagnosis",
    "no_probe": "no-probe",
    "per_class": "per-class",
    "retry_failed": "retry-failed",
    "start": "from",
}
"""Options with hyphens, or whose name would hide a module inside their function."""
_REPEATED = {"set": "KEY=VALUE", "ignore": "SETTING"}
"""Options that may be given several times, with the name of what they take."""
_SHORT = ("report", "add-task", "remove-task")
"""Commands whose output folder is the option `-o`."""


def build_parser(only: str | None = None) -> ArgumentParser:
    """The parser of all subcommands.

    Args:
        only: The command whose arguments are needed; the others are known by name and summary alone, which is
            quicker. None: all of them.
    """
    from argparse import HelpFormatter, RawDescriptionHelpFormatter

    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    from graftwork.version import __version__

    class Formatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
        """Keeps the lines of the settings."""

    class CommandParser(ArgumentParser):
        """The parser of one command, with the settings of its recipe at the end of its help."""

        def format_help(self, formatter: HelpFormatter | None = None) -> str:
            """Read the settings only when somebody wants to see them."""
            self.epilog = _SETTINGS.get(self.prog.split()[-1], lambda: None)()
            return super().format_help(formatter)

    parser = ArgumentParser(
        prog="graftwork",
        description="Fine-tune one frozen transformer on many tasks at once and learn the adapter structure.",
        formatter_class=Formatter,
    )
    parser.add_argument("--version", action="version", version=f"graftwork {__version__}")
    commands = parser.add_subcommands(required=True, dest="command")
    for name, command in COMMANDS.items():
        summary, help_of = _documentation(command)
        one = CommandParser(description=summary)
        if only in (None, name):
            _add_arguments(one, command, help_of, short={"output"} if name in _SHORT else set())
        commands.add_subcommand(name, one, help=summary)
    return parser


def run_command(name: str, options: Mapping[str, Any]) -> None:
    """Call a command with what its parser has read."""
    command, given = COMMANDS[name], dict(options)
    if "opening" in inspect.signature(command).parameters:
        given["opening"] = opening(
            **{part: given.pop(part) for part in inspect.signature(opening).parameters}
        )
    command(**given)


def _add_arguments(
    parser: ArgumentParser, command: Callable[..., Any], help_of: Mapping[str, str], short: Collection[str]
) -> None:
    """One argument per parameter of the command: required ones by place, those in `short` as an option.

    `opening` stands for the parameters of `graftwork.cli.opening.opening`.

    Not jsonargparse's `add_function_arguments`: it looks for the function in `graftwork` itself, whose names
    are imported when they are looked for.
    """
    hints = get_type_hints(command)
    for name, parameter in inspect.signature(command).parameters.items():
        option, text, default = f"--{_RENAMED.get(name, name)}", help_of[name], parameter.default
        if name == "opening":
            _add_arguments(parser, opening, _documentation(opening)[1], ())
        elif name in _REPEATED:
            parser.add_argument(option, action="append", metavar=_REPEATED[name], help=text)
        elif default is False:
            parser.add_argument(option, dest=name, action="store_true", help=text)
        elif name == "recipe" and default is None:
            parser.add_argument(name, nargs="?", type=Path, help=text)
        elif name == "folders":
            parser.add_argument(name, nargs="+", type=Path, help=text)
        elif name in short:
            parser.add_argument(f"-{name[0]}", option, type=hints[name], required=True, help=text)
        elif default is parameter.empty:
            parser.add_argument(name, type=hints[name], help=text)
        else:
            parser.add_argument(option, dest=name, type=hints[name], default=default, help=text)


def _recipe_settings() -> str:
    """Every setting of a recipe."""
    from graftwork.data.task import Task
    from graftwork.recipe.recipe import Recipe
    from graftwork.recipe.settings import GraftSettings, TrainingSettings
    from graftwork.search.schedule import Schedule

    return _settings(
        ("", Recipe),
        ("tasks[].", Task),
        ("graft.", GraftSettings),
        ("schedule.", Schedule),
        ("training.", TrainingSettings),
    )


def _task_settings() -> str:
    """Every setting of a recipe of an added task that a recipe does not have."""
    from graftwork.recipe.extension import Extension

    return _settings(("extend.", Extension)) + "\n  tasks[], schedule, training, seed: as for graftwork fit"


_SETTINGS: dict[str, Callable[[], str]] = {"fit": _recipe_settings, "add-task": _task_settings}
"""Command -> the settings of the recipe that it reads."""


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


def _documentation(command: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """First line and argument texts of a docstring."""
    summary, _, arguments = inspect.cleandoc(command.__doc__ or "").partition("Args:")
    entries = (line.strip().partition(": ") for line in arguments.strip().splitlines())
    return summary.strip(), {name: text for name, _, text in entries}
