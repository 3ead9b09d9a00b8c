"""Many requests at a server whose tasks come and go: is an answer wrong, a request lost, does memory grow?

    python benchmarks/soak.py --work DIR [--data ../shared/data] [--requests 100000] [--clients 32]
                              [--output results/soak.json]

The folders are those of `benchmarks/serving.py`, made in DIR if they are not there. Clients ask for one to
four rows of tasks drawn at random, every eighth about all tasks; of a hundred requests one is bad, of the ten
kinds in `BAD`. All the while the last folder is loaded, asked and unloaded again. Every answer is compared
with what `gw.load(FOLDER).predict` says of that row (probabilities to 1e-4, and the same label unless two are
as close), every bad request must get the status of its kind, and no request may get none. Memory is that of
the server after a tenth of the requests, and its highest after. Prints JSON as its last line, and ends with 1
if anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.progress import Progress

import graftwork as gw
from graftwork.serving.web.server import KEY
from serving import TASKS, digest, make_folders, rows_of, server

Offline = dict[tuple[str, Any], dict[str, float]]
"""Task and row -> probability of every label."""
BAD: dict[str, tuple[int, Callable[[], dict[str, Any]]]] = {
    "no JSON": (400, lambda: {"content": b'{"rows": ['}),
    "no object": (400, lambda: {"json": ["trec"]}),
    "no such task": (404, lambda: {"json": {"task": "tree", "rows": ["a"]}}),
    "no rows": (400, lambda: {"json": {"task": "trec", "rows": []}}),
    "a field too much": (400, lambda: {"json": {"task": "trec", "rows": ["a"], "rwos": 1}}),
    "a number for a text": (400, lambda: {"json": {"task": "trec", "rows": [7]}}),
    "a pair for one text": (400, lambda: {"json": {"task": "trec", "rows": [["a", "b"]]}}),
    "too many rows": (413, lambda: {"json": {"task": "trec", "rows": ["a"] * 257}}),
    "a row too long": (413, lambda: {"json": {"task": "trec", "rows": ["a" * 100_001]}}),
    "a body too large": (413, lambda: {"content": b" " * (2**20 + 1)}),
}
"""Kind -> the status that it must get, and the request."""


class Soak:
    """What is asked, and what came of it."""

    def __init__(
        self, client: httpx.AsyncClient, rows: dict[str, list[Any]], offline: Offline, seed: int = 0
    ) -> None:
        self.client, self.rows, self.offline = client, rows, offline
        self.dice = random.Random(seed)
        self.stable = list(rows)[:-1]
        self.count: Counter[str] = Counter()
        self.faults: list[str] = []

    async def one(self) -> None:
        """One request, good or bad."""
        try:
            if self.dice.random() < 0.01:
                await self.bad(self.dice.choice(list(BAD)))
            elif self.dice.random() < 1 / 8:
                await self.all_tasks()
            else:
                names = self.dice.choices(self.stable, k=self.dice.randint(1, 4))
                await self.good([(name, self.dice.choice(self.rows[name])) for name in names])
        except Exception as error:
            self.faults.append(f"lost: {type(error).__name__}: {error}")

    async def good(self, asked: list[tuple[str, Any]]) -> None:
        """Rows, each of its own task; their answers are compared."""
        rows = [{"task": name, **fields(name, row)} for name, row in asked]
        answer = await self.client.post("/v1/predict", json={"rows": rows})
        self.count["good"] += 1
        if answer.status_code != 200:
            self.faults.append(f"refused: {answer.status_code} {answer.text[:200]}")
            return
        for (name, row), said in zip(asked, answer.json()["answers"], strict=True):
            self.compare(name, row, said)

    async def all_tasks(self) -> None:
        """One text, about which all are asked that can read it."""
        text = self.dice.choice(self.rows[self.dice.choice([n for n in self.stable if TASKS[n] == "text"])])
        answer = await self.client.post("/v1/predict_all", json={"rows": [text]})
        self.count["all tasks"] += 1
        if answer.status_code != 200:
            self.faults.append(f"refused: {answer.status_code} {answer.text[:200]}")
            return
        for name, said in answer.json()["answers"][0]["answers"].items():
            if (name, text) in self.offline:
                self.compare(name, text, said)

    async def bad(self, kind: str) -> None:
        """A request that must be refused."""
        status, request = BAD[kind]
        answer = await self.client.post("/v1/predict", **request())
        self.count["bad"] += 1
        if answer.status_code != status or "\n" in answer.json()["error"]["message"]:
            self.faults.append(f"{kind}: {answer.status_code} {answer.text[:200]}")

    def compare(self, name: str, row: Any, said: dict[str, Any]) -> None:
        """An answer with that of the offline predictor."""
        self.count["answers"] += 1
        right = self.offline[name, key(row)]
        given = said["probabilities"]
        close = all(abs(given[label] - value) < 1e-4 for label, value in right.items())
        if not close or right[said["label"]] < max(right.values()) - 1e-4:
            self.faults.append(f"wrong: {name}: {row!r}: {said} for {right}")

    async def come_and_go(self, headers: dict[str, str]) -> None:
        """Load the last task, ask it, unload it."""
        name = list(self.rows)[-1]
        loaded = await self.client.post("/v1/load_task", json={"folder": name}, headers=headers)
        if loaded.status_code != 200:
            self.faults.append(f"load: {loaded.status_code} {loaded.text[:200]}")
        for _ in range(20):
            await self.good([(name, self.dice.choice(self.rows[name]))])
        gone = await self.client.post("/v1/unload_task", json={"task": name}, headers=headers)
        if gone.status_code != 200:
            self.faults.append(f"unload: {gone.status_code} {gone.text[:200]}")
        self.count["loads"] += 1


def key(row: Any) -> Any:
    """A row as a key."""
    return tuple(row) if isinstance(row, list) else row


def fields(name: str, row: Any) -> dict[str, str]:
    """A row as an object."""
    text = TASKS[name]
    return {text: row} if isinstance(text, str) else dict(zip(text, row, strict=True))


def answers_of(folders: list[Path], rows: dict[str, list[Any]]) -> Offline:
    """What the offline predictor says of every row."""
    found: Offline = {}
    for folder in folders:
        given = [key(row) for row in rows[folder.name]]
        for row, said in zip(given, gw.load(folder).predict(given, task=folder.name), strict=True):
            found[folder.name, row] = said["probabilities"]
    # One text of several tasks' files is asked of all of them.
    singles = [name for name in rows if TASKS[name] == "text"]
    texts = [text for name in singles for text in rows[name]]
    for folder in (folder for folder in folders if folder.name in singles):
        for text, said in zip(texts, gw.load(folder).predict(texts, task=folder.name), strict=True):
            found[folder.name, text] = said["probabilities"]
    return found


async def run(
    address: str, process: psutil.Process, options: argparse.Namespace, soak_of: Callable[..., Soak]
) -> dict[str, Any]:
    """Ask until all requests are asked."""
    headers = {"authorization": f"Bearer {os.environ[KEY]}"}
    memory: list[int] = []
    asked = iter(range(options.requests))
    limits = httpx.Limits(max_connections=options.clients + 2)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
        soak = soak_of(client)
        with Progress(transient=True) as bar:
            shown = bar.add_task("requests", total=options.requests)

            async def ask() -> None:
                for number in asked:
                    await soak.one()
                    bar.advance(shown)
                    if number % max(1, options.requests // 200) == 0:
                        memory.append(process.memory_info().rss)

            async def change() -> None:
                while True:
                    await soak.come_and_go(headers)

            start = time.perf_counter()
            changing = asyncio.create_task(change())
            await asyncio.gather(*(ask() for _ in range(options.clients)))
            changing.cancel()
            await asyncio.gather(changing, return_exceptions=True)
            seconds = time.perf_counter() - start
    early = memory[len(memory) // 10]
    return {
        "requests": dict(soak.count),
        "faults": len(soak.faults),
        "first_faults": soak.faults[:5],
        "seconds": round(seconds),
        "memory_mb": [round(early / 2**20), round(max(memory[len(memory) // 10 :]) / 2**20)],
    }


def main() -> None:
    """Ask, and tell what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=32)
    options = parser.parse_args()
    os.environ.setdefault(KEY, "soak")
    folders = make_folders(options.data, options.work)
    rows = rows_of(options.data)
    offline = answers_of(folders, rows)
    with server("graftwork", folders[:-1], "--models", str(options.work)) as (address, process):
        result = asyncio.run(run(address, process, options, lambda client: Soak(client, rows, offline)))
    result |= {"structures": digest(folders), "clients": options.clients}
    line = json.dumps(result)
    if options.output is not None:
        options.output.write_text(line + "\n", encoding="utf-8")
    print(line)
    sys.exit(1 if result["faults"] else 0)


if __name__ == "__main__":
    main()
