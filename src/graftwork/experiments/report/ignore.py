"""Runs that differ in a setting that is not to count, such as the number format of their machine."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from graftwork.errors import DataError
from graftwork.experiments.report.tables import Cell, Column, Table, seed_list
from graftwork.experiments.results.collect import Result, check_distinct
from graftwork.experiments.results.store import hash_settings

__all__ = ["ignored_table", "ignoring"]

_MISSING = object()


def ignoring(runs: Iterable[Result], settings: Sequence[str]) -> list[Result]:
    """The runs, with one group for those whose settings differ in these and in the seed alone.

    What such groups are compared with becomes one comparison, too. Within it, a difference still pairs runs
    of the same seed, so a seed should have the same value of the setting for all methods.

    Args:
        runs: as read from a folder.
        settings: dotted names, such as `training.bf16`.

    Raises:
        DataError: no run has such a setting, or two runs now have the same group and seed.
    """
    runs = list(runs)
    if not settings:
        return runs
    for name in settings:
        if all(_value(run, name) is _MISSING for run in runs):
            raise DataError(
                f"no run has the setting {name!r} to ignore; give a dotted name as training.bf16."
            )
    groups = [_group(run, settings) for run in runs]
    root: dict[str, str] = {}

    def find(pair: str) -> str:
        while root.setdefault(pair, pair) != pair:
            pair = root[pair]
        return pair

    first: dict[tuple[str, str], str] = {}
    for run, group in zip(runs, groups, strict=True):
        pair = run.data["pair"]
        one, other = sorted((find(pair), find(first.setdefault((run.data["purpose"], group), pair))))
        root[other] = one
    merged = [
        replace(run, data={**run.data, "group": group, "pair": find(run.data["pair"])})
        for run, group in zip(runs, groups, strict=True)
    ]
    check_distinct(merged)
    return merged


def ignored_table(runs: Sequence[Result], settings: Sequence[str]) -> Table | None:
    """Which seeds had which value of a setting that was ignored; None if nothing was."""
    found: dict[tuple[str, str, str], set[int]] = {}
    for name in settings:
        for run in runs:
            value = _value(run, name)
            shown = "not set" if value is _MISSING else str(value)
            found.setdefault((name, shown, run.label), set()).add(run.seed)
    columns = tuple(Column(name, text=True) for name in ("setting", "value", "method", "seeds"))
    rows = tuple(
        (*map(Cell, texts), Cell(seed_list(sorted(seeds)))) for texts, seeds in sorted(found.items())
    )
    return Table(columns, rows) if rows else None


def _group(run: Result, names: Sequence[str]) -> str:
    settings: dict[str, Any] = copy.deepcopy(run.data["settings"])
    for name in names:
        *parents, last = name.split(".")
        section: Any = settings
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section.pop(last, None)
    return hash_settings(settings, leave_out=("seed",))


def _value(run: Result, name: str) -> Any:
    value: Any = run.data["settings"]
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return _MISSING
        value = value[part]
    return value
