"""What it costs to train several tasks of a language model, and to let it write, in one run.

    python benchmarks/generation_cost.py [recipes/generation.yaml] [--rows 16] [--repeats 5] [--threads 1]

Prints a table, then JSON as its last line:

- `search_vs_lora`: a training step of the search, tasks mixed, against PEFT LoRA at the same sites with as
  many trainable parameters, in the same model of several tasks;
- `epoch_vs_sft`: an epoch of `fit` over rows of mixed lengths (buckets, the head for words on answers alone),
  without evaluations, and without the look at up to 256 rows after warm-up and ramp, whose cost does not grow
  with the rows, against TRL's SFTTrainer with that LoRA, on the same tokens;
- `mixed_vs_one`, `mixed_vs_backbone`, `merged_vs_backbone`: writing answers to 8 rows of all tasks mixed,
  against the same rows as one task's, and against the bare backbone; and of a merged model against it.

All variants take turns within every repeat, so that a drift of the machine hits them alike; figures are
ratios of medians of processor time (of all threads), which counts no waiting for other processes, though
they disturb caches: on a machine that does other work figures are rough.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from torch import nn

import graftwork as gw
from graftwork.data.targets.written import TRAINED
from graftwork.data.tokens import collate, row_lengths
from graftwork.diagnosis.stalled import StalledCallback
from graftwork.models.causal.answering import Prompt, write_answers
from graftwork.models.causal.model import CausalMultiTaskModel
from graftwork.recipe.loading import load_recipe
from graftwork.recipe.recipe import Recipe
from graftwork.training.build import build_trainer
from graftwork.training.preparation import Prepared, prepare

WRITTEN = 8
"""Rows whose answers are written together."""
BOUNDS = {
    "search_vs_lora": 1.02,
    "epoch_vs_sft": 0.7,
    "mixed_vs_one": 1.05,
    "mixed_vs_backbone": 1.10,
    "merged_vs_backbone": 1.01,
}


def grafted(prepared: Prepared, recipe: Recipe, **changes: Any) -> nn.Module:
    """A copy of the backbone with the recipe's pool."""
    values = recipe.graft_values() | {"tasks": prepared.names, **changes}
    return get_peft_model(copy.deepcopy(prepared.backbone), gw.GraftConfig(**values))


def with_lora(prepared: Prepared, recipe: Recipe) -> nn.Module:
    """A copy of the backbone with a LoRA at the sites of the pool, of as many trainable parameters."""
    adapted = grafted(prepared, recipe)
    sites, wanted = list(gw.structure_of(adapted).sites), trainable(adapted)
    one = get_peft_model(copy.deepcopy(prepared.backbone), LoraConfig(r=1, target_modules=sites))
    rank = max(1, round(wanted / trainable(one)))
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=sites, task_type="CAUSAL_LM")
    return get_peft_model(copy.deepcopy(prepared.backbone), config)


def trainable(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def several(prepared: Prepared, adapted: nn.Module) -> CausalMultiTaskModel:
    """The model of all tasks."""
    return CausalMultiTaskModel(adapted, [data.head for data in prepared.datas])


def training_step(
    prepared: Prepared, recipe: Recipe, adapted: nn.Module, *, search: bool
) -> Callable[[], None]:
    """One training step on a batch of rows of all tasks."""
    model = several(prepared, adapted).train()
    tokens = prepared.tokens["train"]
    places = np.linspace(0, len(tokens) - 1, min(len(tokens), recipe.training.batch_size))
    batch = collate(prepared.tokenizer)([tokens[int(place)] for place in places])
    driver = None
    if search:
        driver = gw.StructureSearch(model, total_steps=10_000, schedule=gw.Schedule(0.0, 0.5, 1.0))
        driver.begin(learning_rates=10.0)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
    done = 0

    def step() -> None:
        nonlocal done
        with precision(recipe):
            loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if driver is not None:
            driver.before_step(done)
        optimizer.step()
        optimizer.zero_grad()
        done += 1
        if driver is not None:
            driver.after_step(done)

    return step


def precision(recipe: Recipe) -> Any:
    """As in training."""
    return torch.autocast("cpu", torch.bfloat16, enabled=recipe.training.bf16)


def fit_epoch(prepared: Prepared, recipe: Recipe, folder: Path) -> Callable[[], None]:
    """An epoch of `fit` over the training rows."""
    alone = dataclasses.replace(prepared, tokens={"train": prepared.tokens["train"]})
    settings = dataclasses.replace(recipe.training, epochs=1, min_steps=None, patience=0, eval_steps=None)

    def epoch() -> None:
        trainer = build_trainer(
            several(prepared, grafted(prepared, recipe)),
            alone,
            settings,
            folder=folder / "fit",
            seed=0,
            callbacks=[gw.StructureCallback(**dataclasses.asdict(recipe.schedule))],
            schedule=recipe.schedule,
            stop_stalled=False,
            changes={"disable_tqdm": True},
        )
        trainer.remove_callback(StalledCallback)
        timed.begin()
        trainer.train()
        timed.end()

    return epoch


def sft_epoch(prepared: Prepared, recipe: Recipe, folder: Path) -> Callable[[], None]:
    """An epoch of TRL's SFTTrainer over the same tokens, with the LoRA."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tokens = prepared.tokens["train"]
    rows = Dataset.from_dict(
        {"input_ids": list(tokens["input_ids"]), "completion_mask": list(tokens[TRAINED])}
    )
    reader = copy.deepcopy(prepared.tokenizer)
    reader.pad_token = reader.pad_token or reader.eos_token
    arguments = SFTConfig(
        output_dir=str(folder / "sft"),
        num_train_epochs=1,
        per_device_train_batch_size=recipe.training.batch_size,
        learning_rate=recipe.training.learning_rate,
        max_length=None,
        completion_only_loss=True,
        gradient_checkpointing=False,
        bf16=recipe.training.bf16,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        dataloader_pin_memory=False,
    )

    def epoch() -> None:
        trainer = SFTTrainer(
            with_lora(prepared, recipe), args=arguments, train_dataset=rows, processing_class=reader
        )
        timed.begin()
        trainer.train()
        timed.end()

    return epoch


class _Timed:
    """The seconds of the part of a variant that counts; without `begin` all of it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.start: float | None = None

    def begin(self) -> None:
        """The part begins."""
        self.start = time.process_time()

    def end(self) -> None:
        """It ends."""
        assert self.start is not None
        self.seconds = time.process_time() - self.start

    def of(self, variant: Callable[[], None]) -> float:
        """Run a variant."""
        self.start, start = None, time.process_time()
        variant()
        return time.process_time() - start if self.start is None else self.seconds


timed = _Timed()


def writer(
    prepared: Prepared, recipe: Recipe, model: nn.Module, tasks: int, new: int, *, routed: bool
) -> Callable[[], None]:
    """Writing as many tokens for each of some rows, which are the same for every number of tasks."""
    tokens = prepared.tokens["train"]
    rows = np.linspace(0, len(tokens) - 1, WRITTEN).astype(int)
    prompts = []
    for index, row in enumerate(rows):
        ids, learned = tokens[int(row)]["input_ids"], tokens[int(row)][TRAINED]
        ends = (int(prepared.tokenizer.eos_token_id),)
        prompts.append(Prompt(ids[: learned.index(1)], index % tasks, new, ends))

    def write() -> None:
        with precision(recipe):
            write_answers(
                model, prepared.tokenizer, prompts, batch_size=WRITTEN, routed=routed, min_new_tokens=new
            )

    return write


def served(prepared: Prepared, recipe: Recipe, tasks: int) -> nn.Module:
    """A compact model of the first tasks at the recipe's budget, with random weights in its adapters."""
    values = {"tasks": prepared.names[:tasks], "groups": None, "init_weights": False}
    model = grafted(prepared, recipe, **values)
    gw.compact_(model)
    return model.eval()


def measure(
    prepared: Prepared, recipe: Recipe, folder: Path, *, repeats: int, new: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of processor time of every variant, and what is to be said of it."""
    search, lora = grafted(prepared, recipe), with_lora(prepared, recipe)
    every = len(prepared.names)
    model, bare = served(prepared, recipe, every), copy.deepcopy(prepared.backbone).eval()
    merged: Any = served(prepared, recipe, 1)
    stored = gw.structure_of(model).parameters()
    notes = {
        "search step": f"{trainable(search):,} trainable",
        "LoRA step": f"{trainable(lora):,} trainable",
        "fit, epoch": f"{prepared.rows} rows",
        "SFTTrainer, epoch": f"{prepared.rows} rows",
        "write, tasks mixed": f"{stored:,} stored, {WRITTEN} rows of {every} tasks, {new} tokens each",
    }
    variants = {
        "search step": training_step(prepared, recipe, search, search=True),
        "LoRA step": training_step(prepared, recipe, lora, search=False),
        "fit, epoch": fit_epoch(prepared, recipe, folder),
        "SFTTrainer, epoch": sft_epoch(prepared, recipe, folder),
        "write, tasks mixed": writer(prepared, recipe, model, every, new, routed=True),
        "write, one task": writer(prepared, recipe, model, 1, new, routed=True),
        "write, backbone": writer(prepared, recipe, bare, 1, new, routed=False),
        "write, merged": writer(prepared, recipe, merged.merge_and_unload(), 1, new, routed=False),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for repeat in range(-1, repeats):  # the first one warms up
        shift = repeat % len(names)
        for name in names[shift:] + names[:shift]:
            if repeat < 0 and name.endswith("epoch"):
                continue
            seconds = timed.of(variants[name])
            if repeat >= 0:
                times[name].append(seconds)
    return times, notes


def main(words: list[str] | None = None) -> dict[str, Any]:
    """Measure, print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="recipes/generation.yaml")
    parser.add_argument("--rows", type=int, default=16, help="training rows of every task")
    parser.add_argument("--new", type=int, default=24, help="tokens that are written for a row")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(words)
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    recipe = load_recipe(options.recipe)
    tasks = [
        dataclasses.replace(task, max_train=options.rows, max_validation=1, max_test=1)
        for task in recipe.tasks
        if task.kind in ("generation", "choice")
    ]
    prepared = prepare(recipe.model, tasks, max_length=recipe.training.max_length)
    with tempfile.TemporaryDirectory() as folder:
        times, notes = measure(prepared, recipe, Path(folder), repeats=options.repeats, new=options.new)
    medians = {name: statistics.median(values) for name, values in times.items()}
    lengths = row_lengths(prepared.tokens["train"])
    table = Table(
        title=f"rows of {lengths.min()} to {lengths.max()} tokens, {options.threads} threads, "
        f"{options.repeats} repeats"
    )
    for column in ("variant", "median s", "least s", "most s", "of what"):
        table.add_column(column, justify="left" if column in ("variant", "of what") else "right")
    for name, values in times.items():
        table.add_row(
            name, f"{medians[name]:.2f}", f"{min(values):.2f}", f"{max(values):.2f}", notes.get(name, "")
        )
    Console().print(table)
    bare = medians["write, backbone"]
    ratios = {
        "search_vs_lora": medians["search step"] / medians["LoRA step"],
        "epoch_vs_sft": medians["fit, epoch"] / medians["SFTTrainer, epoch"],
        "mixed_vs_one": medians["write, tasks mixed"] / medians["write, one task"],
        "mixed_vs_backbone": medians["write, tasks mixed"] / bare,
        "merged_vs_backbone": medians["write, merged"] / bare,
    }
    found = {
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "bounds": BOUNDS,
        "seconds": {name: [round(value, 3) for value in values] for name, values in times.items()},
        "rows": prepared.rows,
        "new_tokens": options.new,
        "threads": options.threads,
    }
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
