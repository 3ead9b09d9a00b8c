"""The servers that `benchmarks/serving.py` compares: graftwork's, and three ways of serving LoRA.

    python benchmarks/serving_peers.py VARIANT FOLDER... [--models DIR]

Starts a server of the tasks in the model folders at a free port, and prints its address. VARIANT is

- `graftwork`: as `graftwork serve FOLDER...`;
- `set_adapter`: one LoRA per task on one backbone, which `set_adapter` changes: a pass has rows of one task;
- `adapter_names`: the same, by PEFT's `adapter_names`: a pass mixes tasks;
- `models`: a model with its LoRA merged for each task: passes in turn, and as many backbones in memory.

HTTP, queue, limits and tokenizing are those of `graftwork serve` for all. The LoRA are of rank 1 at all
linear maps of the layers, with random weights, under heads of their own: what they answer is worth nothing,
what they cost is.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers.modeling_outputs import SequenceClassifierOutput

from graftwork.kinds.heads import TaskHead
from graftwork.models.files import Loading
from graftwork.models.multitask import MultiTaskModel
from graftwork.models.pooling import pool
from graftwork.serving.backbones import Backbones
from graftwork.serving.service import load_tasks
from graftwork.serving.tasks import Group, Part, Served, TaskSet
from graftwork.serving.web.server import serve

VARIANTS = ("graftwork", "set_adapter", "adapter_names", "models")
MAPS = r"encoder\.layer\.\d+\..*(query|key|value|dense)"
LORA = LoraConfig(r=1, lora_alpha=1, target_modules=MAPS, init_lora_weights=False)


class LoraTasks(MultiTaskModel):
    """Several LoRA, named as the tasks, on one backbone.

    Args:
        backbone: with the adapters.
        heads: of the tasks.
        mixed: whether a pass may have rows of several of them.
    """

    def __init__(self, backbone: PeftModel, heads: Sequence[TaskHead], mixed: bool, **form: Any) -> None:
        super().__init__(backbone, heads, **form)
        self.mixed = mixed

    def forward(
        self, *, graft_rows: torch.Tensor, attention_mask: torch.Tensor, **inputs: torch.Tensor
    ) -> SequenceClassifierOutput:
        """Logits of rows by the adapters of their tasks."""
        names = [self.heads.heads[task].name for task in graft_rows.tolist()]
        if self.mixed:
            outputs = self.backbone(attention_mask=attention_mask, **inputs, adapter_names=names)
        else:
            self.backbone.set_adapter(names[0], inference_mode=True)
            outputs = self.backbone(attention_mask=attention_mask, **inputs)
        pooled = pool(outputs.last_hidden_state, attention_mask, self.pooling)
        return SequenceClassifierOutput(logits=self.heads(pooled, graft_rows, None))


class LoraSet(TaskSet):
    """The tasks of a task set, answered by groups of another kind."""

    def __init__(self, parts: Sequence[Part], backbones: Backbones, variant: str) -> None:
        self.parts, self._backbones = tuple(parts), backbones
        heads = [head for part in parts for head in part.model.heads.heads]
        first = parts[0]
        form = {"pooling": first.model.pooling, "max_length": first.model.max_length}
        base = backbones.twin_of(first.model)
        assert base is not None
        bare = copy.deepcopy(base)
        models: list[MultiTaskModel]
        if variant == "models":
            models = [MultiTaskModel(_merged(copy.deepcopy(bare)), [head], **form) for head in heads]
        else:
            adapted = get_peft_model(bare, LORA, adapter_name=heads[0].name)
            for head in heads[1:]:
                adapted.add_adapter(head.name, LORA)
            mixed = variant == "adapter_names"
            models = [
                LoraTasks(adapted, own, mixed, **form) for own in ([heads] if mixed else [[h] for h in heads])
            ]
        self.groups = [Group.of(model.eval().requires_grad_(False), first.tokenizer) for model in models]
        owner = {head.name: part for part in parts for head in part.model.heads.heads}
        self.tasks = {
            head.name: Served(head, group, owner[head.name])
            for group in self.groups
            for head in group.model.heads.heads
        }


def _merged(backbone: torch.nn.Module) -> torch.nn.Module:
    return get_peft_model(backbone, LORA).merge_and_unload()


def main() -> None:
    """Serve until told to end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--models", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

    def load(places: Sequence[Path], loading: Loading) -> tuple[TaskSet, Backbones]:
        tasks, backbones = load_tasks(places, loading)
        served = tasks if options.variant == "graftwork" else LoraSet(tasks.parts, backbones, options.variant)
        return served, backbones

    fault = serve(
        options.folders,
        port=0,
        models=options.models,
        ready=lambda said: print(f"serving {said}", flush=True),
        load=load,
    )
    sys.exit(None if fault is None else 1)


if __name__ == "__main__":
    main()
