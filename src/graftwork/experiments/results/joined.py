"""Runs of a single task put together to what they are as a whole: one model per task.

The suite mean of a method that trains a model per task can then stand beside that of a method with one model
for all tasks. The runs of a seed that differ in nothing but their task (and in learning rates, which are
tuned task by task) become one run with all their tasks. It joins the comparison of the runs that have the
same tasks, data, noise and schedule in one model, if there are any; the swept setting `arrangement` tells
them apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from graftwork.experiments.results.collect import Result
from graftwork.experiments.results.store import hash_settings

__all__ = ["ARRANGEMENT", "join_tasks"]

ARRANGEMENT = "arrangement"
"""Name of the swept setting, `multi` or `single`."""
_RATES = ("learning_rate", "head_learning_rate")


def join_tasks(runs: Iterable[Result]) -> list[Result]:
    """The runs, with those of single tasks joined wherever there are several tasks."""
    families: dict[str, list[Result]] = {}
    others = []
    for run in runs:
        if len(_tasks(run)) == 1:
            families.setdefault(_family(run), []).append(run)
        else:
            others.append(run)
    single = {key: members for key, members in families.items() if len({*map(_name, members)}) > 1}
    others += [run for key, members in families.items() if key not in single for run in members]
    if not single:
        return others
    places = _places(single, others)
    joined = [
        _join(parts, group=hash_settings({"joined": key}), pair=places[key])
        for key, members in single.items()
        for seed in sorted({run.seed for run in members})
        if (parts := sorted((run for run in members if run.seed == seed), key=_name))
    ]
    return [_arranged(run, "multi") if len(_tasks(run)) > 1 else run for run in others] + joined


def _tasks(run: Result) -> Sequence[Mapping[str, Any]]:
    found = run.data["settings"].get("tasks")
    return found if isinstance(found, list) else ()


def _name(run: Result) -> str:
    return str(_tasks(run)[0]["name"])


def _schedule(run: Result) -> dict[str, Any]:
    training = run.data["settings"].get("training") or {}
    return {key: value for key, value in training.items() if key not in _RATES}


def _family(run: Result) -> str:
    """What the runs of a method have in common over tasks and seeds."""
    settings = {key: value for key, value in run.data["settings"].items() if key not in ("tasks", "seed")}
    vary = {key: value for key, value in run.vary.items() if key.rpartition(".")[2] not in _RATES}
    return hash_settings({**settings, "training": _schedule(run), "label": run.label, "swept": vary})


def _places(single: Mapping[str, Sequence[Result]], others: Sequence[Result]) -> dict[str, str]:
    """Family -> the comparison it belongs to.

    Families of which some task is in one comparison are in one, which is that of the runs of one model for
    all their tasks, if any of them fits such runs.
    """
    known: dict[tuple[str, str], str] = {}
    places = {}
    for key, members in sorted(single.items(), key=lambda item: (-len({*map(_name, item[1])}), item[0])):
        nodes = sorted({(_name(run), str(run.data["pair"])) for run in members})
        place = next((known[node] for node in nodes if node in known), None)
        place = place or hash_settings({"joined": nodes})
        known.update(dict.fromkeys(nodes, place))
        places[key] = place
    matched: dict[str, str] = {}
    for key, members in sorted(single.items()):
        found = next((str(run.data["pair"]) for run in others if _fits(members, run)), None)
        if found is not None:
            matched.setdefault(places[key], found)
    return {key: matched.get(place, place) for key, place in places.items()}


def _fits(members: Sequence[Result], whole: Result) -> bool:
    """Whether the runs of single tasks have tasks, data, noise and schedule of a run of one model for all."""
    mine, theirs = members[0].data["settings"], whole.data["settings"]
    entries = [json.dumps(task, sort_keys=True) for task in _tasks(whole)]
    schedule, other = _schedule(members[0]), _schedule(whole)
    return (
        len(entries) > 1
        and all(mine.get(key) == theirs.get(key) for key in ("model", "noise", "data_seed", "purpose"))
        and all(json.dumps(_tasks(run)[0], sort_keys=True) in entries for run in members)
        and all(schedule[key] == other[key] for key in schedule.keys() & other.keys())
    )


def _arranged(run: Result, value: str) -> Result:
    settings = {**run.data["settings"], "vary": {**run.vary, ARRANGEMENT: value}}
    return replace(run, data={**run.data, "settings": settings})


def _join(parts: Sequence[Result], *, group: str, pair: str) -> Result:
    """One run of several tasks: sizes and times are sums, memory and what is trained at once the largest."""
    done = [run for run in parts if run.done]
    first = (done or parts)[0]
    data = {
        **{key: first.data[key] for key in ("format", "purpose", "method", "label", "seed", "settings")},
        **{key: first.data[key] for key in ("sources", "versions", "host") if key in first.data},
        "key": hash_settings({"parts": sorted(run.key for run in parts)}),
        "group": group,
        "pair": pair,
        "status": "done" if done else "failed",
        "error": None if done else first.data.get("error"),
        "parts": {
            _name(run): {"key": run.key, **{key: run.data.get(key) for key in ("error", "tuning")}}
            for run in parts
        },
    }
    if done:
        data |= {
            "tasks": {name: task for run in done for name, task in run.tasks.items()},
            "parameters": {
                "backbone": done[0].number("parameters.backbone"),
                **{key: _total(done, f"parameters.{key}") for key in ("stored", "heads")},
                "active": {
                    name: value
                    for run in done
                    for name, value in (run.data["parameters"].get("active") or {}).items()
                },
                "peak_trainable": _most(done, "parameters.peak_trainable"),
            },
            "bytes_on_disk": _total(done, "bytes_on_disk"),
            "memory_peak_bytes": _most(done, "memory_peak_bytes"),
            "seconds": {key: _total(done, f"seconds.{key}") for key in ("train", "total")},
            "train_loss": _mean(done, "train_loss"),
            "forgetting": _mean(done, "forgetting"),
            "structure": None,
            # Each task has a model, so a text goes through all of them.
            "trunk": {"price": float(len(done))} if len(done) == len(parts) else None,
            "noise": [noise for run in done for noise in run.data.get("noise") or []],
        }
    return _arranged(replace(first, data=data, key=data["key"]), "single")


def _numbers(runs: Sequence[Result], path: str) -> list[float]:
    """The numbers of all runs; none if one has none."""
    found = [value for run in runs if (value := run.number(path)) is not None]
    return found if len(found) == len(runs) else []


def _total(runs: Sequence[Result], path: str) -> float | None:
    found = _numbers(runs, path)
    return sum(found) if found else None


def _most(runs: Sequence[Result], path: str) -> float | None:
    return max(_numbers(runs, path), default=None)


def _mean(runs: Sequence[Result], path: str) -> float | None:
    found = _numbers(runs, path)
    return sum(found) / len(found) if found else None
