"""The run files of a results folder, read and put side by side.

A `Result` is one file. Results that differ in the seed alone are a `Group`: a row of a table, a point of a
figure. Groups that may be compared pairwise (same tasks, data and schedule) are a `Comparison`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graftwork.errors import DataError
from graftwork.experiments.results.names import display, distinct, natural, short_names, told_apart
from graftwork.files.reading import read_json
from graftwork.messages import shown

__all__ = ["Comparison", "Group", "Result", "agreed", "compare", "read_results"]

FORMAT = 1
"""Version of the run files."""
_FILE = re.compile(r"[0-9a-f]{16}\.json")
_TEXTS = ("key", "status", "purpose", "method", "label", "group", "pair")
"""Keys of a run file that must be texts."""


@dataclass(frozen=True)
class Result:
    """One run file.

    Attributes:
        data: the whole file.
    """

    data: Mapping[str, Any]

    key: str = ""
    method: str = ""
    label: str = ""
    seed: int = 0

    @property
    def done(self) -> bool:
        """Whether the run has results; a failed one has an error."""
        return bool(self.data["status"] == "done")

    @property
    def vary(self) -> Mapping[str, Any]:
        """The swept settings and this run's values."""
        return self.data["settings"].get("vary") or {}

    @property
    def tasks(self) -> Mapping[str, Mapping[str, Any]]:
        """Metric, scores and rows of every task; empty for a failed run."""
        return (self.data.get("tasks") or {}) if self.done else {}

    def number(self, path: str) -> float | None:
        """The number at a dotted path of the file; None if it is missing or not finite."""
        value: Any = self.data
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return _finite(value)

    def score(self, task: str, split: str = "test") -> float | None:
        """The score of one task; None if it is missing or not finite."""
        return _finite(self.tasks.get(task, {}).get(split))

    def suite(self, tasks: Sequence[str], split: str = "test") -> float | None:
        """The unweighted mean of the scores of these tasks; None if one of them is missing."""
        scores = [self.score(task, split) for task in tasks]
        known = [score for score in scores if score is not None]
        return sum(known) / len(known) if known and len(known) == len(scores) else None


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone.

    Attributes:
        title: the label and what tells the group from others of its label.
        runs: the runs done, by seed.
        failed: the others, by seed.
        seeds: the seeds expected: all that occur in the comparison.
    """

    id: str
    method: str
    label: str
    title: str
    vary: Mapping[str, Any]
    runs: tuple[Result, ...]
    failed: tuple[Result, ...]
    seeds: tuple[int, ...]

    @property
    def missing(self) -> tuple[int, ...]:
        """Expected seeds without a result."""
        done = {run.seed for run in self.runs}
        return tuple(seed for seed in self.seeds if seed not in done)

    def numbers(self, path: str) -> list[float]:
        """The numbers at a dotted path of the runs that have one."""
        found = (run.number(path) for run in self.runs)
        return [value for value in found if value is not None]

    def mean(self, path: str) -> float | None:
        """The mean of `numbers`."""
        values = self.numbers(path)
        return sum(values) / len(values) if values else None

    def suites(self, tasks: Sequence[str], split: str = "test") -> list[float]:
        """The suite means of the runs that have all tasks."""
        found = (run.suite(tasks, split) for run in self.runs)
        return [value for value in found if value is not None]

    def complete(self, tasks: Sequence[str]) -> bool:
        """Whether every expected seed has every task."""
        return len(self.suites(tasks)) == len(self.seeds)


@dataclass(frozen=True)
class Comparison:
    """Groups with the same tasks, data and schedule.

    Attributes:
        id: the hash the run files call `pair`.
        title: what tells it from other comparisons; may be empty if there is only one.
        tasks: all tasks that occur, with their metrics.
        seeds: all seeds that occur.
        absent: labels found in other comparisons only.
    """

    id: str
    title: str
    tasks: Mapping[str, str]
    seeds: tuple[int, ...]
    groups: tuple[Group, ...]
    absent: tuple[str, ...]


def read_results(folder: Path) -> list[Result]:
    """All run files of a folder (`<16 hexadecimal digits>.json`), by key; other files are left alone.

    Raises:
        DataError: there is no run, or a file is not a run of this format.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder of run files; give the results folder of `graftwork compare`."
        )
    runs = [_read(path) for path in sorted(folder.iterdir()) if _FILE.fullmatch(path.name)]
    if not runs:
        raise DataError(
            f"{folder} holds no run files (<16 hexadecimal digits>.json); run `graftwork compare` first."
        )
    check_distinct(runs)
    return runs


def check_distinct(runs: Iterable[Result]) -> None:
    """Refuse two runs of one group with the same seed.

    Raises:
        DataError: there are two.
    """
    first: dict[tuple[str, str, str, int], str] = {}
    for run in runs:
        place = (run.data["purpose"], run.data["pair"], run.data["group"], run.seed)
        if place in first:
            raise DataError(
                f"runs {first[place]} and {run.key} ({run.label}, seed {run.seed}) have the same group and "
                "seed; delete one of them."
            )
        first[place] = run.key


def _read(path: Path) -> Result:
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); delete it and run it again.") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise DataError(f"{path} is not a run of format {FORMAT}: found {shown(found)}.")
    faults = [name for name in _TEXTS if not isinstance(data.get(name), str)]
    faults += ["seed"] if not isinstance(data.get("seed"), int) else []
    faults += ["settings"] if not isinstance(data.get("settings"), dict) else []
    settings = data.get("settings")
    swept = settings.get("vary") if isinstance(settings, dict) else None
    faults += [] if isinstance(swept, dict | None) else ["settings.vary"]
    faults += ["status"] if data.get("status") not in ("done", "failed") else []
    tasks = data.get("tasks") if data.get("status") == "done" else {}
    whole = isinstance(tasks, dict) and all(isinstance(task, dict) for task in tasks.values())
    faults += [] if whole else ["tasks"]
    if faults:
        raise DataError(f"{path} is not a run: {', '.join(dict.fromkeys(faults))} missing or wrong.")
    if data["key"] != path.stem:
        raise DataError(f"{path} holds run {shown(data['key'])}; a run file is named after its key.")
    return Result(data, key=data["key"], method=data["method"], label=data["label"], seed=data["seed"])


def compare(runs: Iterable[Result]) -> tuple[Comparison, ...]:
    """Group runs into comparisons, in the order of their titles."""
    runs = agreed(runs)
    names = short_names(runs)
    pairs: dict[str, list[Result]] = {}
    for run in runs:
        pairs.setdefault(run.data["pair"], []).append(run)
    labels = {run.label for run in runs}
    common = {pair: _common(members) for pair, members in pairs.items()}
    tasks = {pair: _tasks(members) for pair, members in pairs.items()}
    titles = {pair: display(vary, names) for pair, vary in common.items()}
    if len({tuple(each) for each in tasks.values()}) > 1:
        titles = {pair: " · ".join(filter(None, (_words(tasks[pair]), titles[pair]))) for pair in pairs}
    titles = {pair: distinct(title, titles.values(), pair) for pair, title in titles.items()}
    comparisons = [
        Comparison(
            id=pair,
            title=titles[pair],
            tasks=tasks[pair],
            seeds=tuple(sorted({run.seed for run in members})),
            groups=_groups(members, common[pair], names),
            absent=tuple(sorted(labels - {run.label for run in members})),
        )
        for pair, members in pairs.items()
    ]
    return tuple(sorted(comparisons, key=lambda each: (natural(each.title), each.id)))


def agreed(runs: Iterable[Result]) -> list[Result]:
    """The runs with all swept settings that any run of their group names.

    A run that several grids share may have been told of a sweep after the others of its group were done.
    """
    runs = list(runs)
    vary: dict[str, dict[str, Any]] = {}
    for run in runs:
        vary.setdefault(run.data["group"], {}).update(run.vary)
    return [replace(run, data={**run.data, "settings": _swept(run, vary[run.data["group"]])}) for run in runs]


def _swept(run: Result, vary: Mapping[str, Any]) -> dict[str, Any]:
    return {**run.data["settings"], "vary": vary}


def _words(tasks: Mapping[str, str]) -> str:
    return ", ".join(tasks) if len(tasks) <= 3 else f"{len(tasks)} tasks"


def _groups(runs: Sequence[Result], common: Mapping[str, Any], names: Mapping[str, str]) -> tuple[Group, ...]:
    members: dict[str, list[Result]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        members.setdefault(run.data["group"], []).append(run)
    own = {
        group: {key: value for key, value in each[0].vary.items() if key not in common}
        for group, each in members.items()
    }
    titles = {
        group: " · ".join(filter(None, (each[0].label, display(own[group], names))))
        for group, each in members.items()
    }
    titles = told_apart(titles, {group: each[0].data["settings"] for group, each in members.items()})
    seeds = tuple(sorted({run.seed for run in runs}))
    groups = [
        Group(
            id=group,
            method=each[0].method,
            label=each[0].label,
            title=distinct(titles[group], titles.values(), group),
            vary=each[0].vary,
            runs=tuple(run for run in each if run.done),
            failed=tuple(run for run in each if not run.done),
            seeds=seeds,
        )
        for group, each in members.items()
    ]
    return tuple(sorted(groups, key=lambda group: (natural(group.title), group.id)))


def _common(runs: Sequence[Result]) -> dict[str, Any]:
    """Swept settings that all these runs have with the same value."""
    first = runs[0].vary
    return {k: v for k, v in first.items() if all(k in run.vary and run.vary[k] == v for run in runs)}


def _tasks(runs: Iterable[Result]) -> dict[str, str]:
    """Tasks and metrics, in the order of the files."""
    return {name: str(task.get("metric", "")) for run in runs for name, task in run.tasks.items()}


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
