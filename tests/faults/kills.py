"""SIGKILL at every kind of moment, and `--resume`."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import toy

if TYPE_CHECKING:
    from child import Ended
    from run import Table

RANDOM_STEPS, RANDOM_WRITES = 10, 6
BOUNDARIES = {
    f"step:{toy.WARM_UP}": "the last step of the warm-up",
    f"backward:{toy.WARM_UP + 1}": "the first step of the search",
    f"step:{toy.DECIDED - 1}": "the last step of the search",
    f"step:{toy.DECIDED}": "the step that decides the structure",
    f"backward:{toy.DECIDED + 1}": "the first step of the tune phase",
    f"step:{toy.STEPS}": "the last step",
    "compact:": "before compacting",
    "compacted:": "after compacting",
}
HALVES = (
    "adapter_model.safetensors",
    "heads.safetensors",
    "optimizer.pt",
    "rng_state.pth",
    "trainer_state.json",
)


def moments(events: list[str]) -> dict[str, int]:
    """Numbered changes of the file system that are moments of their own."""
    wanted = {
        "a checkpoint is written, but not yet in its place": "rename out.partial/.new/checkpoint-",
        "an older checkpoint is half removed": "remove out.partial/checkpoint-14/optimizer.pt",
        "the output is written, but not yet in its place": "rename .out.new",
        "the output is in its place": "remove out.partial/recipe.yaml",
        "the work folder is half removed": "remove out.partial/run.json",
    }
    return {
        name: max(i for i, event in enumerate(events) if event.startswith(start))
        for name, start in wanted.items()
    }


def undisturbed(folder: Path, table: Table, *options: str) -> list[str]:
    """The run that nobody disturbs; returns the changes of the file system that it made."""
    toy.write_toy(folder)
    ended = toy.fit(folder, *options, fault=f"record:{folder.parent / 'events'}")
    if ended.code:
        raise SystemExit(f"the undisturbed run failed: {ended.error}")
    return (folder / "../events").read_text().splitlines()


def kill_runs(folder: Path, draw: random.Random, table: Table) -> None:
    """One run per fault: killed once, resumed once."""
    events = undisturbed(folder / "whole", table)
    wanted = toy.outcome(folder / "whole/out")
    again = toy.copy_toy(folder / "whole", folder / "again")
    toy.fit(again)
    table.title("killed once (SIGKILL), then --resume")
    table.row("nothing: a second run", "-", toy.difference(again / "out", wanted))
    first = next(i for i, event in enumerate(events) if "run.json" in event and event.startswith("remove"))
    steps = sorted(draw.sample(range(1, toy.STEPS), RANDOM_STEPS))
    faults = {f"{draw.choice(['step', 'backward'])}:{step}": f"step {step}, drawn" for step in steps}
    faults |= BOUNDARIES
    saves = range(2 * toy.SAVED_EVERY, toy.STEPS, toy.SAVED_EVERY)
    faults |= {
        f"half:{name}@{(step := draw.choice(saves))}": f"half of {name} of checkpoint {step} written"
        for name in HALVES
    }
    faults |= {f"event:{number}": name for name, number in moments(events).items()}
    faults |= {
        f"event:{i}": "a write, drawn" for i in sorted(draw.sample(range(first, len(events)), RANDOM_WRITES))
    }
    kill_each(folder, faults, wanted, table)


def kill_a_few(folder: Path, draw: random.Random, table: Table) -> None:
    """What a test has the time for."""
    undisturbed(folder / "whole", table)
    wanted = toy.outcome(folder / "whole/out")
    table.title("killed once (SIGKILL), then --resume")
    faults = {
        "half:optimizer.pt@14": "half of optimizer.pt of checkpoint 14 written",
        "compacted:": "at the end",
    }
    faults |= {
        f"backward:{draw.randint(8, 13)}": "a step, drawn",
        f"step:{toy.DECIDED}": "the structure is decided",
    }
    kill_each(folder, faults, wanted, table)


def kill_each(folder: Path, faults: dict[str, str], wanted: dict[str, object], table: Table) -> None:
    """A run per fault, which is killed by it and goes on."""
    for place, (fault, name) in enumerate(faults.items()):
        there = toy.copy_toy(folder / "whole", folder / f"kill-{place}")
        ended = toy.fit(there, fault=fault)
        if ended.code != -signal.SIGKILL:
            table.row(name, "-", f"was not killed, but ended with {ended.code}: {ended.error[-300:]}")
            continue
        if ended.note:
            name += f" ({ended.note.strip()})"
        table.row(name, *resume(there, wanted))


def resume(there: Path, wanted: dict[str, object]) -> tuple[str, str]:
    """Go on with a run that was killed; from where it went on, and what is wrong."""
    ended: Ended = toy.fit(there, "--resume")
    if ended.code:
        return "-", f"exit code {ended.code}: {ended.error[-300:]}"
    faults = toy.difference(there / "out", wanted), toy.left_over(there)
    return toy.resumed_at(there / "out/report.json"), "; ".join(filter(None, faults))


def kill_again_and_again(folder: Path, draw: random.Random, table: Table) -> None:
    """One run, killed at ten steps one after the other."""
    undisturbed(folder / "whole", table)
    wanted = toy.outcome(folder / "whole/out")
    there = toy.copy_toy(folder / "whole", folder / "chain")
    steps = sorted(draw.sample(range(1, toy.STEPS), RANDOM_STEPS))
    fault = ""
    for place, step in enumerate(steps):
        ended = toy.fit(there, *(["--resume"] if place else []), fault=f"backward:{step}")
        if ended.code != -signal.SIGKILL:
            fault = f"at step {step} it was not killed, but ended with {ended.code}: {ended.error[-300:]}"
            break
    table.title("killed and resumed ten times")
    went_on, wrong = resume(there, wanted) if not fault else ("-", fault)
    table.row(f"in steps {', '.join(map(str, steps))}", f"{went_on} at last", wrong)


def kill_family(folder: Path, draw: random.Random, table: Table) -> None:
    """Several budgets from one search."""
    budgets = ("--budgets", "0.05,0.02")
    events = undisturbed(folder / "whole", table, *budgets)
    names = ("0.05", "0.02")
    wanted = {name: toy.outcome(folder / "whole/out" / name) for name in names}
    table.title("several budgets (--budgets), killed once, then --resume")
    first = next(i for i, event in enumerate(events) if "run.json" in event and event.startswith("remove"))
    copied = next(i for i, event in enumerate(events) if event.startswith("open .out.new/0.02/"))
    renamed = next(i for i, event in enumerate(events) if event.startswith("rename .out.new"))
    points = {*draw.sample(range(first, copied), 4), copied, renamed, renamed + 3}
    for place, number in enumerate(sorted(points)):
        there = toy.copy_toy(folder / "whole", folder / f"kill-{place}")
        ended = toy.fit(there, *budgets, fault=f"event:{number}")
        name = f"write {number} ({ended.note.strip()})"
        if ended.code != -signal.SIGKILL:
            table.row(name, "-", f"was not killed, but ended with {ended.code}")
            continue
        ended = toy.fit(there, *budgets, "--resume")
        if ended.code:
            table.row(name, "-", f"exit code {ended.code}: {ended.error[-300:]}")
            continue
        faults = [toy.difference(there / "out" / name, wanted[name]) for name in names]
        went_on = toy.resumed_at(there / "out/0.02/report.json")
        table.row(name, went_on, "; ".join(filter(None, [*faults, toy.left_over(there)])))
