"""The command line: `graftwork COMMAND`, one subcommand per function in the modules of this package.

Each subcommand is a plain function; its signature and docstring are its options and help. A `GraftworkError`
prints one line on standard error and exits with code 2.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from graftwork.cli.parser import COMMANDS, build_parser, run_command
from graftwork.cli.quiet import silence_libraries
from graftwork.cli.spin import limit_spinning

__all__ = ["build_parser", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the exit code is 0, 2 for bad input, 130 after Ctrl-C."""
    limit_spinning()
    silence_libraries()
    _escape_what_cannot_be_printed()
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = build_parser(next(filter(COMMANDS.__contains__, words), "")).parse_args(words)
    options = vars(chosen[chosen.command])
    from graftwork.advice import commanded
    from graftwork.distributed.processes import is_main, is_shared, leave
    from graftwork.errors import GraftworkError, Interrupted

    with commanded(words):
        try:
            _check_launch(chosen.command)
            run_command(chosen.command, options)
            leave()
        except GraftworkError as error:
            if is_main() or not is_shared(error):
                print(f"graftwork: {_one_line(error)}", file=sys.stderr)
            sys.exit(130 if isinstance(error, Interrupted) else 2)
        except KeyboardInterrupt:
            if is_main():
                print(f"graftwork: interrupted{_after(chosen.command)}", file=sys.stderr)
            sys.exit(130)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)


def _one_line(error: Exception) -> str:
    """The message without line ends; spaces stay, for a command in it may have quoted ones."""
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


def _after(command: str) -> str:
    """What Ctrl-C has left behind, and what to run, for commands that do not report it themselves."""
    from graftwork.advice import again

    if command in ("chat", "evaluate", "predict", "serve", "show"):
        return "."
    if command == "compare":
        return f"; runs that have ended keep their results. Go on with: {again()}"
    lost = ", and an added task has no checkpoint to go on from" if command == "add-task" else ""
    return f"; nothing was written{lost}. Begin again with: {again(resume=False)}"


def _escape_what_cannot_be_printed() -> None:
    """Print as an escape what the locale's encoding has no character for, such as a label."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _check_launch(command: str) -> None:
    """Refuse several processes where they would do the same work and write the same files.

    Raises:
        TrainingError: the command is not `fit`.
    """
    from graftwork.errors import TrainingError
    from graftwork.launcher import launched

    if launched() > 1 and command != "fit":
        error = TrainingError(
            f"graftwork {command} runs in one process, not in {launched()}; start it without torchrun or "
            "accelerate launch."
        )
        error.shared = True
        raise error
