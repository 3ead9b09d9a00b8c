"""Commands that train: `fit`, `compare`, and `report` on what was compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftwork.recipe.recipe import Recipe

__all__ = ["compare", "fit", "overrides", "report"]


def fit(
    recipe: Path | None = None,
    output: str | None = None,
    start: Path | None = None,
    seed: int | None = None,
    budgets: str | None = None,
    set: list[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    no_probe: bool = False,
    no_diagnosis: bool = False,
) -> None:
    """Train the tasks of a recipe, learn the adapter structure, and write a compact model with a report.

    Args:
        recipe: YAML file; may be left out with --from, for the recipe of that model.
        output: Folder to write, in place of the recipe's.
        start: Folder of a finished model to train further; its structure is kept.
        seed: Seed, in place of the recipe's.
        budgets: experimental: several budgets of one search, such as 1%,0.3%; OUTPUT gets a folder for each.
        set: KEY=VALUE in place of a recipe's value, such as training.epochs=2; may be repeated.
        overwrite: Replace the output folder if it exists.
        resume: Go on from the last checkpoint of an interrupted run.
        no_probe: Leave out the linear probes on the frozen backbone that scores are compared with.
        no_diagnosis: Leave out the diagnosis of the search.
    """
    from rich.console import Console

    from graftwork.distributed.processes import is_main, join, on_all
    from graftwork.progress import phase

    values = overrides(set or [])
    if budgets is not None:
        values["budgets"] = budgets.split(",")
    given = {"output": output, "start": start, "seed": seed}
    values |= {key: value for key, value in given.items() if value is not None}
    join()
    loaded = on_all(lambda: _recipe_of(recipe, values))
    # Imported here, as they load torch: a fault of the recipe is reported at once.
    with phase(Console(quiet=not is_main()), "start", "loading torch and transformers"):
        from graftwork.fitting.family import fit_family
        from graftwork.fitting.fit import fit as run

    (fit_family if loaded.budgets else run)(
        loaded, overwrite=overwrite, resume=resume, probe=not no_probe, diagnosis=not no_diagnosis
    )


def _recipe_of(recipe: Path | None, values: Mapping[str, Any]) -> Recipe:
    """The recipe in a file, or that of the model to go on from.

    Raises:
        RecipeError: neither is given, or no folder to write.
    """
    from graftwork.errors import RecipeError
    from graftwork.fitting.given import given_recipe

    if recipe is None and "start" not in values:
        raise RecipeError(
            "fit needs a recipe: give the path of a YAML file, or a finished model as --from DIR."
        )
    if recipe is None and "output" not in values:
        raise RecipeError("fit --from without a recipe needs a folder to write; give --output DIR.")
    return given_recipe(recipe, values)[0]


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
    from graftwork.advice import again
    from graftwork.errors import TrainingError
    from graftwork.experiments.grid.file import load_grid
    from graftwork.experiments.running.compare import compare as run

    values = overrides(set or [])
    if results is not None:
        values["results"] = results
    summary = run(
        load_grid(grid, values), jobs=jobs, dry_run=dry_run, retry_failed=retry_failed, engine=engine
    )
    if summary.failed and not dry_run:
        raise TrainingError(
            f"{len(summary.failed)} runs have failed; the others have their results. Do them again with: "
            f"{again('retry_failed')}"
        )


def report(
    results: Path, output: Path, reference: str | None = None, ignore: list[str] | None = None
) -> None:
    """Write a page, Markdown tables and figures from the result files of `graftwork compare` alone.

    Args:
        results: Folder of result files.
        output: Folder to write; an older report in it is replaced.
        reference: Method, or label, that differences are taken from; default lora if there, else the first.
        ignore: A setting that is not to count, such as training.bf16; may be repeated.
    """
    from graftwork.experiments.report.report import report as run

    run(results, output, reference=reference, ignore=ignore or [])
    print(f"{output / 'index.html'}")


def overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """The values of `--set`, by dotted key.

    Raises:
        RecipeError: one is not KEY=VALUE.
    """
    import yaml

    from graftwork.errors import RecipeError
    from graftwork.files.reading import parse_yaml

    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise RecipeError(f"--set {pair!r} must be KEY=VALUE, such as training.epochs=2.")
        try:
            values[key] = parse_yaml(value)
        except yaml.YAMLError:
            values[key] = value
    return values
