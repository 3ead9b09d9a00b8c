"""Models for export, rows for them, and a check that a program has their outputs."""

from __future__ import annotations

import torch
from torch import nn

import graftwork as gw
from toys import grafted, random_structure, tiny, tokens

SIZES = [(4, 5), (1, 7), (7, 3), (3, 1), (1, 1), (9, 9)]


def compacted(
    kind: str = "bert", *, only: list[str] | None = None, small: bool = False, **settings
) -> nn.Module:
    changes = {"num_hidden_layers": 1} if small else {}
    model = grafted(tiny(kind, **changes), **settings)
    gw.set_structure_(model, random_structure(model))
    gw.compact_(model, tasks=only)
    return model


def example(rows: int = 2, length: int = 6, tasks: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """Rows of mixed tasks, the first one padded."""
    ids = tokens(rows, length, seed=seed)
    mask = torch.ones_like(ids)
    if length > 2:
        mask[0, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask, "graft_rows": (torch.arange(rows) + seed) % tasks}


@torch.no_grad()
def first(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    output = model(**inputs)
    return output.logits if hasattr(output, "logits") else output[0]


def same_outputs(run, model: nn.Module, *, tolerance: float = 1e-5, tasks: int = 3) -> None:
    for seed, (rows, length) in enumerate(SIZES):
        inputs = example(rows, length, tasks, seed)
        found = run({key: value for key, value in inputs.items() if key != "graft_rows" or tasks > 1})
        torch.testing.assert_close(found, first(model, inputs), atol=tolerance, rtol=tolerance)
