"""What a training step takes on an idle machine and beside a busy process, with and without a spin limit.

    python benchmarks/contention.py [--repeats 5] [--steps 20] [--threads 2] [--limits 10000]

Idle threads of OpenMP spin before they sleep (`graftwork.cli.spin`), which takes the cores from whoever else
needs them: from another process, and then from the threads that everybody waits for. Every figure is from a
process of its own, which trains a MiniLM with 8 tasks in the search phase; the other process multiplies
matrices with as many threads, all the time, with the library's own spinning. Prints a table, then JSON as its
last line:

- `milliseconds`: time per step, idle and busy, without a limit and with each of those asked for;
- `idle_ratio`: the time on an idle machine with the limit of the command line over that without;
- `busy_speedup`: the time beside the busy process without a limit over that with it.

All variants take turns within every repeat, so that a drift of the machine hits them alike; figures are
medians of the repeats, of the mean over the steps of a process. Run it on a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from graftwork.cli.spin import CHOSEN, SPIN_LIMITS

TASKS, WARM = 8, 3
NONE = "none"
BUSY = """
import sys, torch
torch.set_num_threads(int(sys.argv[1]))
a = torch.randn(256, 256)
print("ready", flush=True)
while True:
    a @ a
"""


def train(steps: int, threads: int) -> None:
    """Print the mean milliseconds of a training step in this process."""
    import torch
    from step_cost import MODEL, search_step

    from graftwork.models.backbone import load_backbone

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    step, _ = search_step(load_backbone(MODEL)[0], TASKS)
    for _ in range(WARM):
        step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    print(1e3 * (time.perf_counter() - start) / steps)


def environment(limit: str) -> dict[str, str]:
    """The environment of a process with a limit, or with none."""
    names = {*CHOSEN, "OMP_NUM_THREADS"}
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return kept if limit == NONE else {**kept, **SPIN_LIMITS, "GOMP_SPINCOUNT": limit}


def measure(limit: str, steps: int, threads: int) -> float:
    """Milliseconds per step in a fresh process."""
    command = [sys.executable, __file__, "--child", "--steps", str(steps), "--threads", str(threads)]
    done = subprocess.run(
        command,
        env=environment(limit),
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return float(done.stdout.split()[-1])


@contextmanager
def busy_process(threads: int) -> Iterator[None]:
    """Another process keeps as many threads busy."""
    other = subprocess.Popen(
        [sys.executable, "-c", BUSY, str(threads)], env=environment(NONE), stdout=subprocess.PIPE
    )
    try:
        assert other.stdout is not None
        other.stdout.readline()
        yield
    finally:
        other.kill()
        other.wait()


def main() -> None:
    """Measure, print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    default = SPIN_LIMITS["GOMP_SPINCOUNT"]
    parser.add_argument("--limits", nargs="+", default=[default], help="of GOMP_SPINCOUNT")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        train(options.steps, options.threads)
        return
    limits = [NONE, *dict.fromkeys([default, *options.limits])]
    times: dict[tuple[str, str], list[float]] = {}
    for repeat in range(options.repeats):
        for limit in limits[repeat % len(limits) :] + limits[: repeat % len(limits)]:
            idle = measure(limit, options.steps, options.threads)
            with busy_process(options.threads):
                busy = measure(limit, options.steps, options.threads)
            times.setdefault((limit, "idle"), []).append(idle)
            times.setdefault((limit, "busy"), []).append(busy)
    medians = {key: statistics.median(values) for key, values in times.items()}
    table = Table(
        title=f"ms per step, MiniLM-L6, {options.threads} threads, medians of {options.repeats} processes"
    )
    for column in ("spin limit", "idle", "least-most", "busy", "least-most"):
        table.add_column(column, justify="left" if column == "spin limit" else "right")
    for limit in limits:
        cells = []
        for state in ("idle", "busy"):
            values = times[limit, state]
            cells += [f"{medians[limit, state]:.1f}", f"{min(values):.1f}-{max(values):.1f}"]
        table.add_row(limit, *cells)
    Console().print(table)
    print(
        json.dumps(
            {
                "milliseconds": {
                    limit: {state: round(medians[limit, state], 2) for state in ("idle", "busy")}
                    for limit in limits
                },
                "limit": default,
                "idle_ratio": round(medians[default, "idle"] / medians[NONE, "idle"], 4),
                "busy_speedup": round(medians[NONE, "busy"] / medians[default, "busy"], 4),
                "threads": options.threads,
            }
        )
    )


if __name__ == "__main__":
    main()
