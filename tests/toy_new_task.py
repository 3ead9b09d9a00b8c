"""A trained model of three tasks, and new tasks for it."""

from __future__ import annotations

import torch

import graftwork as gw
from graftwork.finished.new_task import NewTask
from graftwork.kinds.heads import TaskHead
from graftwork.models.multitask import MultiTaskModel
from toy_heads import HEADS
from toys import grafted, random_structure, tokens

FISH = TaskHead("fish", ("text",), "label", "classification", "accuracy", tuple("abcdefg"))


FROGS = TaskHead("frogs", ("text",), "label", "classification", "accuracy", tuple("ab"))


def trained(heads=HEADS, *, share: float = 0.4, **settings) -> MultiTaskModel:
    adapted = grafted(tasks=[head.name for head in heads], **settings)
    gw.set_structure_(adapted, random_structure(adapted, share))
    gw.compact_(adapted)
    torch.manual_seed(5)
    return MultiTaskModel(adapted, heads, pooling="mean").eval()


def train(new: NewTask, steps: int = 20) -> None:
    """Search, decide, tune, with plain AdamW and weight decay."""
    new.learner.train()
    parameters = [p for p in new.learner.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1)
    searches = [gw.StructureSearch(new.learner, steps, adapter_name=name) for name in new.searched]
    for search in searches:
        search.begin(0.01 * steps * 0.45)
    labels = torch.arange(6) % len(FROGS.labels)
    for step in range(steps):
        loss = new.learner(input_ids=tokens(6, 9, seed=step), labels=labels.float()).loss
        optimizer.zero_grad()
        loss.backward()
        for search in searches:
            search.before_step(step)
        optimizer.step()
        for search in searches:
            search.after_step(step + 1)
