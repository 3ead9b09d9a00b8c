"""Two processes at one output, and readers beside a writer."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import child
import toy

import toyrun

if TYPE_CHECKING:
    from run import Table

SECONDS = 8
"""How long a reader reads beside a writer."""
AT_ONCE = 10.0
"""Seconds in which a second process has to give up, on a busy machine."""


def crowd(folder: Path, draw: random.Random, table: Table) -> None:
    """All of it."""
    whole = folder / "whole"
    toy.write_toy(whole)
    toy.fit(whole)
    second_writers(folder, whole, table)
    read_and_write(folder, whole, table)
    compare_twice(folder, whole, table)


def second_writers(folder: Path, whole: Path, table: Table) -> None:
    """While a run works, all else that would write its output is refused; once it is dead, nothing is."""
    table.title("a second process at the same output", "command | seconds to refusal | as it should be")
    there = toy.copy_toy(whole, folder / "second")
    (there / "task.yaml").write_text("tasks: [{name: hue, train: data/colour}]\n")
    model = str(whole / "out")
    first = child.Child(there, ["fit", "recipe.yaml"], "slow:2")
    first.wait_for(there / "out.partial/checkpoint-7")
    for command in (
        ["fit", "recipe.yaml"],
        ["fit", "recipe.yaml", "--resume"],
        ["fit", "recipe.yaml", "--overwrite"],
        ["fit", "recipe.yaml", "--budgets", "0.05,0.02"],
        ["add-task", model, "task.yaml", "-o", "out"],
        ["remove-task", model, "colour", "-o", "out", "--overwrite"],
        ["extract", model, "colour", "out"],
    ):
        began = time.monotonic()
        ended = child.run(there, *command)
        spent = time.monotonic() - began
        wrong = "" if spent < AT_ONCE else "too slow"
        expected = f"graftwork: another process (process {first.process.pid}) is writing "
        if ended.code != 2 or not ended.error.startswith(expected) or ended.error.count("\n") != 1:
            wrong = f"exit code {ended.code}: {ended.error[-300:]}"
        table.row(
            " ".join([command[0], *(word for word in command if word.startswith("--"))]),
            f"{spent:.2f}",
            wrong,
        )
    first.process.kill()
    killed = first.end().code == -signal.SIGKILL
    ended = toy.fit(there, "--resume")
    wrong = f"exit code {ended.code}: {ended.error[-300:]}" if ended.code or not killed else ""
    wrong = (
        wrong
        or toy.difference(there / "out", toy.outcome(whole / "out"))
        or toy.left_over(there, ("task.yaml",))
    )
    table.row("fit --resume, when the first was killed", "-", wrong)


def write_loop(sources: list[Path], target: Path, results: Path) -> None:
    """Write one model after the other to the same place, and a result file beside it."""
    from graftwork.experiments.results.store import FORMAT, Store
    from graftwork.files.writing import staged_folder

    store, count = Store(results), 0
    while True:
        source = sources[count % len(sources)]
        with staged_folder(target, overwrite=True) as staged:
            shutil.copytree(source, staged, dirs_exist_ok=True)
        store.write({"format": FORMAT, "key": "k", "count": count, "values": [count] * 20000})
        count += 1
        time.sleep(0.3 * (count % 3))  # two at once, then a while to read


def read_and_write(folder: Path, whole: Path, table: Table) -> None:
    """Whatever is read while it is being replaced is the old or the new."""
    from graftwork.experiments.results.store import Store
    from graftwork.models.files import read_structure
    from graftwork.models.folder import load_model

    ended = toy.fit(whole, "--output", "other", "--seed", "1")
    assert ended.code == 0, ended.error
    sources, backbone = [whole / "out", whole / "other"], str(whole / "backbone")
    target, store = folder / "read/model", Store(folder / "read/results")
    known = [tensors(load_model(source, backbone=backbone)[0]) for source in sources]
    reports = [json.loads((source / "report.json").read_text()) for source in sources]
    structures = [read_structure(source) for source in sources]
    writer = child.CONTEXT.Process(target=write_loop, args=(sources, target, store.folder), daemon=True)
    writer.start()
    while not store.path("k").exists():
        time.sleep(0.01)
    counts = dict.fromkeys(("report.json", "structure.json", "model", "result"), 0)
    seen: dict[str, set[int]] = {name: set() for name in counts}
    faults = dict.fromkeys(counts, "")
    began = time.monotonic()
    while time.monotonic() - began < SECONDS:
        for name in counts:
            try:
                if name == "report.json":
                    place = reports.index(json.loads((target / name).read_text()))
                elif name == "structure.json":
                    place = structures.index(read_structure(target))
                elif name == "model":
                    place = known.index(tensors(load_model(target, backbone=backbone)[0]))
                else:
                    found: Any = store.read("k")
                    place = found["count"]
                    assert found["values"] == [place] * 20000
                seen[name].add(place)
                counts[name] += 1
            except Exception as error:
                faults[name] = f"{type(error).__name__}: {error}"
    writer.kill()
    writer.join()
    table.title(
        f"read for {SECONDS} s while another process replaces it", "what | reads, and versions seen | whole"
    )
    for name, count in counts.items():
        few = "" if len(seen[name]) > 1 else "the reader saw one version only"
        table.row(name, f"{count}, {len(seen[name])}", faults[name] or few)


def tensors(model: Any) -> dict[str, bytes]:
    """The bytes of what was trained."""
    from peft import get_peft_model_state_dict

    found = {**get_peft_model_state_dict(model.backbone), **model.heads.export()}
    return {name: tensor.numpy().tobytes() for name, tensor in found.items()}


def compare_twice(folder: Path, whole: Path, table: Table) -> None:
    """Two `graftwork compare` of one grid at once: each run has one whole result, the same as alone."""
    grid = toyrun.recipe_dict(whole)
    del grid["output"]
    grid |= {
        "results": "results",
        "methods": ["lora", "graft", "linear_probe"],
        "seeds": [0, 1],
        "tune": None,
    }
    grid["training"] |= {"epochs": 1}
    found = []
    for name, processes in (("alone", 1), ("together", 2)):
        there = folder / name
        there.mkdir()
        toyrun.write_recipe(there, grid, "grid.yaml")
        running = [child.Child(there, ["compare", "grid.yaml"]) for _ in range(processes)]
        codes = [one.end().code for one in running]
        results = [json.loads(path.read_text()) for path in sorted((there / "results").glob("*.json"))]
        found.append([(one["key"], one["status"], one["tasks"], one["structure"]) for one in results])
        rest = [
            path.name
            for path in (there / "results").iterdir()
            if path.suffix != ".json" or path.name[0] == "."
        ]
        assert not any(codes), codes
    table.title("two compares of one grid at once", "what | results | as it should be")
    wrong = "other results than alone" if found[0] != found[1] else f"left behind: {rest}" if rest else ""
    table.row("compare", str(len(found[1])), wrong)
