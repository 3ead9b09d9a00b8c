"""The command line: `graftwork fit | evaluate | predict | show | extract | compare | report`.

Each subcommand is a plain function; its signature and docstring are its options and help. A `GraftworkError`
prints one line on standard error and exits with code 2.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

__all__ = ["build_parser", "compare", "evaluate", "extract", "fit", "main", "predict", "report", "show"]


def fit(
    recipe: Path,
    output: str | None = None,
    seed: int | None = None,
    set: list[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """Train the tasks of a recipe, learn the adapter structure, and write a compact model with a report.

    Args:
        recipe: YAML file.
        output: Folder to write, in place of the recipe's.
        seed: Seed, in place of the recipe's.
        set: KEY=VALUE in place of a recipe's value, such as training.epochs=2; may be repeated.
        overwrite: Replace the output folder if it exists.
        resume: Go on from the last checkpoint of an interrupted run.
    """
    from graftwork.fit import fit as run
    from graftwork.recipe import load_recipe

    overrides = _overrides(set or [])
    overrides |= {key: value for key, value in (("output", output), ("seed", seed)) if value is not None}
    run(load_recipe(recipe, overrides), overwrite=overwrite, resume=resume)


def evaluate(folder: Path, backbone: str | None = None, split: str = "test", as_json: bool = False) -> None:
    """Score a saved model again on the data of its recipe.

    Args:
        folder: Written by `graftwork fit`.
        backbone: Where the backbone is now, if it has moved.
        split: train, validation or test.
        as_json: Print JSON instead of a table.
    """
    from graftwork.rescore import rescore

    scores = rescore(folder, backbone=backbone, split=split)
    if as_json:
        print(json.dumps(scores))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{split} scores of {folder}")
    for column in ("task", "metric", "score", "rows"):
        table.add_column(column, justify="right" if column in ("score", "rows") else "left")
    for name, task in scores["tasks"].items():
        table.add_row(name, task["metric"], f"{task['score']:.3f}", f"{task['rows']:,}")
    Console().print(table)


def predict(
    folder: Path,
    task: str | None = None,
    input: Path | None = None,
    output: Path | None = None,
    backbone: str | None = None,
    batch_size: int = 64,
) -> None:
    """Predict rows of JSON lines: text fields in, label and probabilities (or score) out, in the same order.

    Args:
        folder: Written by `graftwork fit`.
        task: Task of all rows; else each row names its own in a field `task`.
        input: JSON lines file; default standard input.
        output: JSON lines file to write; default standard output.
        backbone: Where the backbone is now, if it has moved.
        batch_size: Rows per forward pass.
    """
    from graftwork.predict import Predictor
    from graftwork.sources import read_rows

    predictor = Predictor.load(folder, backbone=backbone, batch_size=batch_size)
    rows = _stdin_rows() if input is None else iter(read_rows(str(input)))
    lines = (json.dumps(result, ensure_ascii=False) + "\n" for result in predictor.stream(rows, task))
    if output is None:
        for line in lines:
            sys.stdout.write(line)
        return
    staged = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with staged.open("w", encoding="utf-8") as sink:
            sink.writelines(lines)
        staged.replace(output)
    finally:
        staged.unlink(missing_ok=True)


def show(folder: Path, png: Path | None = None, as_json: bool = False) -> None:
    """Show the structure of a saved model: a map of tasks and sites.

    Args:
        folder: Written by `graftwork fit`.
        png: Draw the map into this file as well.
        as_json: Print the structure as JSON instead of a table.
    """
    from graftwork.draw import structure_png, structure_table
    from graftwork.persist import read_structure

    structure = read_structure(folder)
    if png is not None:
        structure_png(structure, png)
    if as_json:
        print(structure.to_json())
        return
    from rich.console import Console

    Console().print(structure_table(structure))


def extract(
    folder: Path, task: str, output: Path, backbone: str | None = None, overwrite: bool = False
) -> None:
    """Write the small model of one task, without the adapters only other tasks use.

    Args:
        folder: Written by `graftwork fit`.
        task: The task to keep.
        output: Folder to write.
        backbone: Where the backbone is now, if it has moved.
        overwrite: Replace the output folder if it exists.
    """
    from graftwork.rescore import extract as run

    stored = run(folder, task, output, backbone=backbone, overwrite=overwrite)
    print(f"{output}: task {task!r}, {stored:,} adapter parameters")


def compare(
    grid: Path,
    results: str | None = None,
    jobs: int = 1,
    engine: str = "local",
    set: list[str] | None = None,
    dry_run: bool = False,
    retry_failed: bool = False,
) -> None:
    """Compare methods on the tasks of a grid: tune each, run each with every seed, one result file per run.

    Args:
        grid: YAML file.
        results: Folder of the result files, in place of the grid's.
        jobs: Runs at a time, each in a process of its own if more than one.
        engine: Where runs are done, local or ray.
        set: KEY=VALUE in place of a value of the grid, such as training.epochs=2; may be repeated.
        dry_run: List the runs and estimate the time they take; run nothing.
        retry_failed: Do failed runs again.
    """
    from graftwork.errors import TrainingError
    from graftwork.experiments.gridfile import load_grid
    from graftwork.experiments.runner import compare as run

    overrides = _overrides(set or [])
    if results is not None:
        overrides["results"] = results
    summary = run(
        load_grid(grid, overrides), jobs=jobs, dry_run=dry_run, retry_failed=retry_failed, engine=engine
    )
    if summary.failed and not dry_run:
        raise TrainingError(
            f"{len(summary.failed)} runs have failed; the others have their results. Do them again with "
            "--retry-failed."
        )


def report(results: Path, output: Path, reference: str | None = None) -> None:
    """Write a page, Markdown tables and figures from the result files of `graftwork compare` alone.

    Args:
        results: Folder of result files.
        output: Folder to write; an older report in it is replaced.
        reference: Method that differences are taken from; default lora if there, else the first by name.
    """
    from graftwork.experiments.report import report as run

    run(results, output, reference=reference)
    print(f"{output / 'index.html'}")


COMMANDS: tuple[Callable[..., None], ...] = (fit, evaluate, predict, show, extract, compare, report)
_RENAMED = {"as_json": "json", "dry_run": "dry-run", "retry_failed": "retry-failed"}
"""Options whose name would hide a module inside their function."""


def _overrides(pairs: Sequence[str]) -> dict[str, Any]:
    import yaml

    from graftwork.errors import RecipeError

    overrides = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise RecipeError(f"--set {pair!r} must be KEY=VALUE, such as training.epochs=2.")
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            overrides[key] = value
    return overrides


def _stdin_rows() -> Iterator[dict[str, Any]]:
    from graftwork.errors import DataError

    for number, line in enumerate(sys.stdin, start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"standard input line {number} is not valid JSON ({error.msg}).") from error


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
    for command in COMMANDS:
        summary, help_of = _documentation(command)
        epilog = _recipe_settings() if command is fit else None
        one = ArgumentParser(description=summary, epilog=epilog)
        flags = [name for name, p in inspect.signature(command).parameters.items() if p.default is False]
        short = {"output"} if command is report else set()
        one.add_function_arguments(command, as_positional=True, skip={*flags, *short, "set"})
        if short:
            one.add_argument("-o", "--output", type=Path, required=True, help=help_of["output"])
        if "set" in help_of:
            one.add_argument("--set", action="append", metavar="KEY=VALUE", help=help_of["set"])
        for flag in flags:
            one.add_argument(
                f"--{_RENAMED.get(flag, flag)}", dest=flag, action="store_true", help=help_of[flag]
            )
        commands.add_subcommand(command.__name__, one, help=summary)
    return parser


def _recipe_settings() -> str:
    """Every setting of a recipe with its default, from the docstrings below the fields."""
    import dataclasses
    import textwrap

    from docstring_parser import parse_from_object

    from graftwork.recipe import Recipe
    from graftwork.settings import GraftSettings, Training
    from graftwork.sparsity import Schedule
    from graftwork.tasks import Task

    sections = (
        ("", Recipe),
        ("tasks[].", Task),
        ("graft.", GraftSettings),
        ("schedule.", Schedule),
        ("training.", Training),
    )
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the exit code is 0, 2 for bad input, 130 after Ctrl-C."""
    chosen = build_parser().parse_args(list(arguments) if arguments is not None else None)
    command = next(item for item in COMMANDS if item.__name__ == chosen.command)
    options = {name: value for name, value in vars(chosen[chosen.command]).items()}
    from graftwork.errors import GraftworkError

    try:
        command(**options)
    except GraftworkError as error:
        print(f"graftwork: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(130 if type(error).__name__ == "Interrupted" else 2)
    except KeyboardInterrupt:
        print("graftwork: interrupted; nothing was written.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
