"""Commands about a saved model as a whole: `show`, `extract`, `export`, `add-task` and `remove-task`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from graftwork.cli.opening import Opening
from graftwork.cli.train import overrides

__all__ = ["add_task", "export", "extract", "remove_task", "show"]


def show(
    folders: list[Path],
    png: Path | None = None,
    as_json: bool = False,
    diagnose: bool = False,
    revision: str | None = None,
) -> None:
    """Show the structure of saved models: a map of tasks and sites; or what is known of their search.

    Args:
        folders: Written by `graftwork fit`, or USER/MODEL on the hub; several are shown one after the other.
        png: Draw the map into this file as well; for one model.
        as_json: Print JSON instead of tables.
        diagnose: Show the diagnosis of the search instead, and how alike the structures of several runs are.
        revision: Branch, tag or commit of a model of the hub.
    """
    from graftwork.errors import DataError

    if png is not None and (diagnose or len(folders) > 1):
        raise DataError("--png draws the map of one model; leave it out with --diagnose or several folders.")
    from graftwork.models.files import FILES, model_folder, read_structure

    wanted = [FILES.structure]
    if diagnose or not as_json:
        wanted.append(FILES.report if diagnose else FILES.tasks)
    places = {folder: model_folder(folder, revision, needed=wanted) for folder in folders}
    if diagnose:
        _show_diagnoses(places, as_json)
        return
    from graftwork.structure.drawing import structure_png, structure_table

    structures = [read_structure(places[folder]) for folder in folders]
    if png is not None:
        structure_png(structures[0], png)
    if as_json:
        print(structures[0].to_json() if len(folders) == 1 else json.dumps([s.to_dict() for s in structures]))
        return
    from rich.console import Console

    from graftwork.finished.reports import parting

    for folder, structure in zip(folders, structures, strict=True):
        if len(folders) > 1:
            Console().print(str(folder), style="bold", markup=False, highlight=False)
        Console().print(structure_table(structure))
        alone = _read_alone(places[folder] / FILES.tasks)
        if alone:
            Console().print(f"two texts, each read alone: {', '.join(alone)}", markup=False, highlight=False)
        trunk = parting(places[folder])
        if trunk is not None:
            Console().print(trunk, markup=False, highlight=False)


def _read_alone(path: Path) -> list[str]:
    """The tasks that read their two texts separately; none without the file, which says what tasks are."""
    from graftwork.files.reading import read_json

    tasks = read_json(path)["tasks"] if path.is_file() else []
    return [task["name"] for task in tasks if task.get("pairs") == "separate"]


def _show_diagnoses(folders: Mapping[Path, Path], as_json: bool) -> None:
    """Diagnoses of models by their names, given with the folders they are in."""
    from graftwork.finished.reports import read_diagnoses
    from graftwork.models.files import read_structure
    from graftwork.structure.stability import stability

    found = {str(name): read_diagnoses(folder) for name, folder in folders.items()}
    alike = None
    if len(folders) > 1:
        alike = stability({str(name): read_structure(folder) for name, folder in folders.items()})
    if as_json:
        print(json.dumps({"runs": found, "stability": alike}))
        return
    from rich.console import Console

    from graftwork.diagnosis.findings import print_diagnosis
    from graftwork.structure.stability import print_stability

    console = Console()
    for name, diagnoses in found.items():
        for what, diagnosis in diagnoses.items():
            print_diagnosis(diagnosis, console, f"{name}, {what}")
    if alike is not None:
        print_stability(alike, console)


def extract(
    folder: Path,
    task: str,
    output: Path,
    *,
    opening: Opening,
    overwrite: bool = False,
) -> None:
    """Write the small model of one task, without the adapters only other tasks use.

    Args:
        folder: Written by `graftwork fit`, or USER/MODEL on the hub.
        task: The task to keep.
        output: Folder to write.
        opening: Where its parts are now.
        overwrite: Replace the output folder if it exists.
    """
    from graftwork.finished.extract import extract as run

    stored = run(
        folder,
        task,
        output,
        overwrite=overwrite,
        **opening,
    )
    print(f"{output}: task {task!r}, {stored:,} adapter parameters")


def export(
    folder: Path,
    output: Path,
    format: str = "onnx",
    task: str | None = None,
    *,
    opening: Opening,
    all_tasks: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a saved model in a form that needs no graftwork: ONNX, torch.export, a LoRA, a merged model.

    Args:
        folder: Written by `graftwork fit`, or USER/MODEL on the hub.
        output: Folder to write: the model with its heads, the tokenizer, and export.json.
        format: onnx, pt2 (read by torch.export.load), lora (linear adapters), or for tasks that a language
            model answers merged (a folder of Transformers) or gguf (one file, 16 bits, of a Llama).
        task: Only this task; the last three formats hold no more.
        opening: Where its parts are now.
        all_tasks: One output a task, all of them for every row, in one pass.
        overwrite: Replace the output folder if it exists.
    """
    from graftwork.export.folder import export_folder

    written = export_folder(
        folder,
        output,
        format=format,
        task=task,
        all_tasks=all_tasks,
        overwrite=overwrite,
        **opening,
    )
    names = ", ".join(known["name"] for known in written["tasks"])
    checked = written.get("largest_difference")
    suffix = "" if checked is None else f"; largest difference from the model {checked:.1e}"
    print(f"{output}: {format} of {names}{suffix}")


def add_task(
    folder: Path,
    recipe: Path,
    output: Path,
    *,
    opening: Opening,
    seed: int | None = None,
    set: list[str] | None = None,
    overwrite: bool = False,
    no_probe: bool = False,
    no_diagnosis: bool = False,
) -> None:
    """Add a task to a saved model, whose adapters are frozen and whose tasks keep their outputs to the bit.

    Args:
        folder: Written by `graftwork fit`, or USER/MODEL on the hub.
        recipe: YAML file with the new task and perhaps the sections extend, schedule, training and seed.
        output: Folder to write.
        opening: Where its parts are now.
        seed: Seed, in place of the recipe's.
        set: KEY=VALUE in place of a recipe's value, such as extend.private=1; may be repeated.
        overwrite: Replace the output folder if it exists.
        no_probe: Leave out the linear probe on the frozen backbone that the score is compared with.
        no_diagnosis: Leave out the diagnosis of the search.
    """
    from rich.console import Console

    from graftwork.progress import phase
    from graftwork.recipe.task_recipe import load_task_recipe

    values = overrides(set or [])
    if seed is not None:
        values["seed"] = seed
    loaded = load_task_recipe(recipe, values)
    # Imported here, as it loads torch: a fault of the recipe is reported at once.
    with phase(Console(), "start", "loading torch and transformers"):
        from graftwork.finished.add_task import add_task as run

    run(
        folder,
        loaded,
        output,
        overwrite=overwrite,
        probe=not no_probe,
        diagnosis=not no_diagnosis,
        **opening,
    )


def remove_task(
    folder: Path,
    task: str,
    output: Path,
    *,
    opening: Opening,
    overwrite: bool = False,
) -> None:
    """Remove a task from a saved model, with the adapters that no other task uses.

    Args:
        folder: Written by `graftwork fit`, or USER/MODEL on the hub.
        task: The task to remove.
        output: Folder to write.
        opening: Where its parts are now.
        overwrite: Replace the output folder if it exists.
    """
    from graftwork.finished.remove_task import remove_task as run

    done = run(
        folder,
        task,
        output,
        overwrite=overwrite,
        **opening,
    )
    print(
        f"{output}: without task {task!r}; {done['reclaimed']:,} adapter parameters reclaimed, "
        f"{done['stored']:,} left for {', '.join(done['tasks'])}, whose outputs are the same up to rounding"
    )
