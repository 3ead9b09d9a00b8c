"""Does the search find a structure that is known? A synthetic teacher in which 3 of 12 sites matter.

The backbone is a frozen chain of 12 residual blocks; the teacher is the same chain with a whole pool
(4 nonlinear adapters) of random weights at 3 of the 12 sites, and noise on its output. The budget is exactly
those 12 adapters. Three students are compared on held-out rows, in mean squared error:

- `search`: the search with its default schedule and gates, or those of the command line;
- `oracle`: the teacher's structure, trained from the first step;
- `random`: a random structure of the same size, likewise.

    python benchmarks/planted.py                        # 20 seeds, about 3 minutes
    python benchmarks/planted.py --seeds 5 --gates sigmoid

Prints a row per seed and a summary, then the summary as JSON in its last line.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import torch
from peft import get_peft_model
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import graftwork as gw
from graftwork.structure.structure import SiteStructure, Structure

SITES, PLANTED, POOL, RANK, WIDTH = 12, 3, 4, 2, 32
COST = RANK * (2 * WIDTH + 1)
STEPS, RATE, BATCH, ROWS = 400, 5e-3, 64, 4096
NOISE = 0.4


class Chain(nn.Module):
    """Residual blocks `h + gelu(W h) / 2`."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(SITES))

    def forward(self, x: Tensor) -> Tensor:
        """The last hidden state."""
        for block in self.blocks:
            x = x + 0.5 * nn.functional.gelu(block(x))
        return x


def grafted(seed: int, **settings: Any) -> nn.Module:
    """The chain of a seed with a pool at every site."""
    torch.manual_seed(seed)
    sites = [f"blocks.{i}" for i in range(SITES)]
    return get_peft_model(
        Chain(),
        gw.GraftConfig(
            pool_size=POOL,
            r=RANK,
            scale=1.0,
            activation="gelu",
            position="sequential",
            target_modules=sites,
            **settings,
        ),
    )


def fixed(seed: int, kept: set[tuple[int, int]]) -> nn.Module:
    """The chain of a seed with a given structure: pairs of block and adapter."""
    model = grafted(seed, gates="fixed")
    tables = {
        f"blocks.{i}": SiteStructure(POOL, RANK, COST, (tuple((i, k) in kept for k in range(POOL)),))
        for i in range(SITES)
    }
    gw.set_structure_(model, Structure(("default",), tables))
    return model


def train(model: nn.Module, x: Tensor, y: Tensor, seed: int, schedule: gw.Schedule) -> gw.StructureSearch:
    """Train a student with AdamW and linear decay, driving its structure."""
    torch.manual_seed(seed)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
    search = gw.StructureSearch(model, STEPS, schedule)
    search.begin(sum(RATE * (1 - step / STEPS) for step in search.window))
    model.train()
    for step in range(STEPS):
        rows = torch.randint(len(x), (BATCH,))
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[rows]), y[rows]).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        search.before_step(step)
        optimizer.step()
        decay.step()
        search.after_step(step + 1)
    return search


@torch.no_grad()
def error(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Mean squared error on rows the student has not seen."""
    return float(nn.functional.mse_loss(model.eval()(x), y))


def one_seed(seed: int, schedule: gw.Schedule, **settings: Any) -> dict[str, float]:
    """The errors of the three students, and what the search found."""
    draw = torch.Generator().manual_seed(1000 + seed)
    planted = torch.randperm(SITES, generator=draw)[:PLANTED].tolist()
    oracle = {(i, k) for i in planted for k in range(POOL)}
    places = [(i, k) for i in range(SITES) for k in range(POOL)]
    chosen = torch.randperm(len(places), generator=draw)[: len(oracle)].tolist()
    teacher = fixed(seed, oracle).eval()
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if "graft_up" in name or "graft_down" in name:
                scale = 1.0 if "up" in name else WIDTH**-0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=draw))
        x = torch.randn(2 * ROWS, WIDTH, generator=draw)
        y = teacher(x) + NOISE * torch.randn(2 * ROWS, WIDTH, generator=draw)
    errors = {}
    model = grafted(seed, budget=len(oracle) * COST, **settings)
    search = train(model, x[:ROWS], y[:ROWS], seed, schedule)
    students = {
        "search": model,
        "oracle": fixed(seed, oracle),
        "random": fixed(seed, {places[i] for i in chosen}),
    }
    for name, student in students.items():
        if name != "search":
            train(student, x[:ROWS], y[:ROWS], seed, schedule)
        errors[name] = error(student, x[ROWS:], y[ROWS:])
    found = {(int(site.split(".")[1]), k) for site, k in gw.structure_of(model).paths("default")}
    return {
        **errors,
        "sites": float(len({i for i, _ in found} & set(planted))),
        "groups": float(len(found & oracle)),
        "stored": float(len(found)),
        "expected": (search.soft_size or 0.0) / COST,
    }


def main() -> None:
    """Run all seeds and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--gates", default="auto")
    parser.add_argument("--rank-by", default="prob_open")
    parser.add_argument("--schedule", type=float, nargs=3, metavar=("WARMUP", "RAMP", "DISCRETISE"))
    arguments = parser.parse_args()
    schedule = gw.Schedule(*arguments.schedule) if arguments.schedule else gw.Schedule()
    console = Console()
    names = ("search", "oracle", "random", "sites", "groups", "stored", "expected")
    table = Table(title=f"planted structure, {arguments.gates}, ranked by {arguments.rank_by}, {schedule}")
    for column in ("seed", *names):
        table.add_column(column, justify="right")
    rows = []
    for seed in range(arguments.seeds):
        rows.append(one_seed(seed, schedule, gates=arguments.gates, rank_by=arguments.rank_by))
        table.add_row(str(seed), *(f"{rows[-1][name]:.3f}".rstrip("0").rstrip(".") for name in names))
    console.print(table)
    mean = {name: statistics.fmean(row[name] for row in rows) for name in names}
    summary = {
        "gates": arguments.gates,
        "rank_by": arguments.rank_by,
        "seeds": len(rows),
        "all_sites_kept": sum(row["sites"] == PLANTED for row in rows),
        "groups_kept": mean["groups"],
        "mse": {name: mean[name] for name in names[:3]},
        "loss_to_oracle": mean["search"] / mean["oracle"] - 1,
        "collapsed": sum(not 0 < row["stored"] <= PLANTED * POOL for row in rows),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
