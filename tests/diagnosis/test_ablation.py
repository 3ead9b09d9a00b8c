"""Ablation: the loss with adapters closed, adapter by adapter and all the idle ones at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import graftwork as gw
from graftwork.diagnosis.ablation import ablate
from graftwork.errors import StructureError
from graftwork.models.outputs import RowSample
from toyrun import run_model, run_parts, write_run
from toys import random_structure


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ablation")
    write_run(folder)
    return folder


def test_ablation_is_the_loss_with_one_adapter_closed(folder: Path) -> None:
    tokens, tokenizer, heads = run_parts(folder)
    model = run_model(folder, heads)
    gw.set_structure_(model, random_structure(model, 0.6))
    structure = gw.structure_of(model)
    sample = RowSample(tokens["validation"], tokenizer, most=60)
    result = ablate(model, sample, adapters=len(structure.sites) * 3)
    assert gw.structure_of(model) == structure
    stored = {place for task in structure.tasks for place in structure.paths(task)}
    assert {(entry["site"], entry["adapter"]) for entry in result["adapters"]} == stored
    losses = []
    places = [(entry["site"], entry["adapter"]) for entry in result["adapters"]]
    small = 1e-3 * result["loss"]
    idle = [(entry["site"], entry["adapter"]) for entry in result["adapters"] if entry["increase"] <= small]
    assert result["idle"]["adapters"] == len(idle) > 1
    for away in ([], *([place] for place in places), idle):
        closed = structure.to_dict()
        for site, k in away:
            for row in closed["sites"][site]["open"]:
                row[k] = 0
        gw.set_structure_(model, gw.Structure.from_dict(closed))
        outputs = sample.run(model)
        assert outputs is not None
        by_task = [
            model.heads.loss(outputs.logits[mine], outputs.labels[mine], outputs.rows[mine])
            for mine in (outputs.rows == task for task in range(3))
        ]
        losses.append(float(torch.stack(by_task).mean()))
    assert result["loss"] == pytest.approx(losses[0])
    increases = [*(entry["increase"] for entry in result["adapters"]), result["idle"]["increase"]]
    assert increases == pytest.approx([loss - losses[0] for loss in losses[1:]], abs=1e-6)


def test_ablation_is_bounded_and_seeded(folder: Path) -> None:
    tokens, tokenizer, heads = run_parts(folder)
    model = run_model(folder, heads)
    gw.set_structure_(model, random_structure(model, 0.6))
    sample = RowSample(tokens["validation"], tokenizer, most=12)
    few = ablate(model, sample, adapters=3, seed=1)
    assert len(few["adapters"]) == 3 < few["stored"]
    assert few == ablate(model, sample, adapters=3, seed=1)
    assert few["adapters"] != ablate(model, sample, adapters=3, seed=2)["adapters"]


def test_what_is_not_decided_cannot_be_closed(folder: Path) -> None:
    tokens, tokenizer, heads = run_parts(folder)
    with pytest.raises(StructureError, match=r"still being learned; decide them first, with gw\.discretise_"):
        ablate(run_model(folder, heads), RowSample(tokens["validation"], tokenizer, most=12))
