"""The command line: `graftwork COMMAND`, one subcommand per function in the modules of this package.

Each subcommand is a plain function; its signature and docstring are its options and help. A `GraftworkError`
prints one line on standard error and exits with code 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from graftwork.cli.parser import COMMANDS, build_parser
from graftwork.quiet import silence_libraries
from graftwork.spin import limit_spinning

__all__ = ["build_parser", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the exit code is 0, 2 for bad input, 130 after Ctrl-C."""
    limit_spinning()
    silence_libraries()
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = build_parser(next(filter(COMMANDS.__contains__, given), "")).parse_args(given)
    command = COMMANDS[chosen.command]
    options = {name: value for name, value in vars(chosen[chosen.command]).items()}
    from graftwork.errors import GraftworkError
    from graftwork.processes import is_main, is_shared, leave

    try:
        _check_launch(chosen.command)
        command(**options)
        leave()
    except GraftworkError as error:
        if is_main() or not is_shared(error):
            print(f"graftwork: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(130 if type(error).__name__ == "Interrupted" else 2)
    except KeyboardInterrupt:
        if is_main():
            print("graftwork: interrupted; nothing was written.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _check_launch(command: str) -> None:
    """Refuse several processes where they would do the same work and write the same files.

    Raises:
        TrainingError: the command is not `fit`.
    """
    from graftwork.errors import TrainingError
    from graftwork.processes import launched

    if launched() > 1 and command != "fit":
        error = TrainingError(
            f"graftwork {command} runs in one process, not in {launched()}; start it without torchrun or "
            "accelerate launch."
        )
        error.shared = True
        raise error
