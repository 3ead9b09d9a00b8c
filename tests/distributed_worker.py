"""What `test_runs.py` runs: `torchrun distributed_worker.py FOLDER SCENARIO...`.

Each scenario is a function of a folder; what it returns is saved per process for the test to judge. The same
functions run in the test's own process, as the single process that several are compared with.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType
from peft import PeftModel
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

import graftwork as gw
from graftwork.distributed.processes import (
    any_process,
    from_main,
    main_first,
    on_all,
    on_main,
    several,
    world_size,
)
from graftwork.distributed.shards import whole
from graftwork.errors import DataError, GraftworkError, TrainingError
from graftwork.training.interrupt import InterruptCallback
from toy_heads import HEADS
from toy_search import classifier, rows
from toy_training import collate
from toy_training import rows as task_rows
from toys import graft_layers, grafted, tokens

STEPS = 20
GLOBAL_BATCH = 8
OTHERS = ("gumbel", "shifted_sigmoid", "importance")


class Losses(TrainerCallback):
    """Notes what every step has: the gates' logits, whole, and the loss over all processes."""

    def __init__(self) -> None:
        self.loss: list[float] = []
        self.gates: list[Tensor] = []
        self.last: Tensor | None = None

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs) -> None:
        mean = self.last.clone()
        if several():
            dist.all_reduce(mean)
        self.loss.append(float(mean) / world_size())
        self.gates.append(
            torch.cat(
                [whole(layer.graft_gate_bias["default"].detach()).flatten() for layer in graft_layers(model)]
            )
        )


def watch(trainer: Trainer) -> Losses:
    losses = Losses()
    step = trainer.training_step

    def training_step(*args: Any, **kwargs: Any) -> Tensor:
        losses.last = step(*args, **kwargs)
        return losses.last

    trainer.training_step = training_step
    trainer.add_callback(losses)
    return losses


def arguments(folder: Path, **settings: Any) -> TrainingArguments:
    return TrainingArguments(
        str(folder),
        **{
            "max_steps": STEPS,
            "per_device_train_batch_size": GLOBAL_BATCH // world_size(),
            "learning_rate": 0.01,
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
            "logging_strategy": "no",
            "remove_unused_columns": False,
            "label_names": ["labels", "graft_rows"],
            "dataloader_pin_memory": False,
            "per_device_eval_batch_size": GLOBAL_BATCH // world_size(),
            "ddp_find_unused_parameters": False,
            # The loss of these models is a mean over rows, which Trainer takes for one over all tokens.
            "average_tokens_across_devices": False,
            **settings,
        },
    )


def shard_on_cpu(given: TrainingArguments) -> None:
    """If FSDP is asked for, let Accelerate do as on GPUs: without one it takes DDP, and says nothing."""
    _ = given.device
    if given.fsdp:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def weights(model: nn.Module) -> dict[str, Tensor]:
    """All tensors, whole."""
    return {name: whole(value.detach()).clone() for name, value in model.state_dict().items()}


def search(folder: Path, gates: str) -> dict[str, Any]:
    """A search under plain Trainer, with evaluations on the way."""
    model = classifier(gates=gates)
    trainer = Trainer(
        model,
        arguments(folder, eval_strategy="steps", eval_steps=7),
        train_dataset=rows(),
        eval_dataset=rows(16),
        callbacks=[gw.StructureCallback()],
    )
    losses = watch(trainer)
    trainer.train()
    return {
        "loss": losses.loss,
        "gates": losses.gates,
        "structure": gw.structure_of(model).to_json(),
        "weights": weights(model),
        "evaluation": [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry],
    }


def sigmoid(folder: Path) -> dict[str, Any]:
    return search(folder, "sigmoid")


def hard_concrete(folder: Path) -> dict[str, Any]:
    return search(folder, "hard_concrete")


def families(folder: Path) -> dict[str, Any]:
    return {gates: search(folder, gates) for gates in OTHERS}


def trainer_of_tasks(folder: Path, **settings: Any) -> gw.MultiTaskTrainer:
    torch.manual_seed(0)
    model = gw.MultiTaskModel(grafted(gates="sigmoid", budget=300), HEADS, dropout=0.0)
    given = arguments(folder, **settings)
    shard_on_cpu(given)
    return gw.MultiTaskTrainer(
        model,
        given,
        train_dataset=task_rows(48),
        eval_dataset=task_rows(23),
        data_collator=collate,
        callbacks=[gw.StructureCallback(compact=False)],
    )


def several_tasks(folder: Path) -> dict[str, Any]:
    """`MultiTaskTrainer` over two epochs, with checkpoints, in which every row counts once."""
    trainer = trainer_of_tasks(
        folder / "tasks",
        max_steps=-1,
        num_train_epochs=2,
        per_device_eval_batch_size=5,
        save_strategy="epoch",
        eval_strategy="epoch",
    )
    model = trainer.model
    losses = watch(trainer)
    seen: list[list[int]] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: (
            seen.append(kwargs["input_ids"].sum(1).tolist()) if module.training else None
        ),
        with_kwargs=True,
    )
    writes: list[str] = []
    save = trainer._save
    trainer._save = lambda *args, **kwargs: writes.append("asked") or save(*args, **kwargs)
    trainer.train()
    scores = trainer.predict(task_rows(23)).metrics
    checkpoint = get_last_checkpoint(str(folder / "tasks"))
    files = {path.name: path.stat().st_mtime_ns for path in Path(checkpoint).iterdir()}
    trainer.model.heads.weight.data.zero_()
    trainer._load_from_checkpoint(checkpoint)
    return {
        "loss": losses.loss,
        "seen": seen,
        "scores": scores,
        "structure": gw.structure_of(model).to_json(),
        "files": files,
        "weights": weights(model),
    }


def not_wrapped(folder: Path) -> str:
    """A hand-written loop that forgets DDP."""
    model = classifier().train()
    search = gw.StructureSearch(model, total_steps=STEPS)
    search.begin(0.1)
    inputs = tokens(4, 6, seed=dist.get_rank())
    model(input_ids=inputs, labels=inputs[:, 0] % 2, graft_rows=torch.tensor([0, 1, 0, 1])).loss.backward()
    try:
        search.before_step(0)
    except TrainingError as error:
        return str(error)
    return ""


def trained_twice(folder: Path) -> str:
    """A second training with the wrapper of the first, whose parameters are no longer the model's."""
    trainer = Trainer(
        classifier(), arguments(folder, max_steps=4), train_dataset=rows(), callbacks=[gw.StructureCallback()]
    )
    trainer.train()
    try:
        trainer.train()
    except TrainingError as error:
        return str(error)
    return ""


def old_fsdp(folder: Path) -> str:
    """FSDP 1 around a model whose gates are to be learned."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    cpu = torch.device("cpu")
    model = FullyShardedDataParallel(classifier().train(), device_id=cpu, use_orig_params=True)
    try:
        gw.StructureSearch(model, total_steps=STEPS)
    except TrainingError as error:
        return str(error)
    return ""


def sharing(folder: Path) -> dict[str, Any]:
    """Values and errors that processes tell each other."""
    rank = dist.get_rank()

    def fail(where: int) -> str:
        if rank == where:
            raise DataError(f"process {rank} has no data.")
        return "fine"

    def caught(work: Callable[[], Any]) -> str:
        try:
            return str(work())
        except GraftworkError as error:
            return f"{type(error).__name__} {error.shared}: {error}"

    def first_then_others() -> bool:
        path = folder / "first"
        found = path.is_file()
        path.touch()
        return found

    def early_or_nested() -> str:
        fail(1)
        return on_all(lambda: fail(1))

    return {
        "value": from_main(rank + 5),
        "on_main": on_main(lambda: rank),
        "any": (any_process(rank == 1), any_process(False)),
        "first": main_first(first_then_others),
        "other": caught(lambda: on_all(lambda: fail(1))),
        "main": caught(lambda: on_main(lambda: fail(0))),
        "nested": caught(lambda: on_all(early_or_nested)),
        "after": on_all(lambda: "fine"),
    }


def interrupted(folder: Path) -> dict[str, Any]:
    """Only the last process hears of the Ctrl-C, on its sixth step."""
    interrupt = InterruptCallback()

    class Signal(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            if state.global_step == 6 and dist.get_rank() == 1:
                interrupt.heard = True

    trainer = Trainer(
        classifier(),
        arguments(folder / "interrupted"),
        train_dataset=rows(),
        callbacks=[gw.StructureCallback(), Signal(), interrupt],
    )
    trainer.train()
    return {
        "steps": trainer.state.global_step,
        "checkpoint": get_last_checkpoint(str(folder / "interrupted")),
    }


def sharded_trainer(
    folder: Path, gates: str, resume: str | None = None, **settings: Any
) -> tuple[Trainer, Any]:
    """A search under Trainer with FSDP 2."""
    fsdp = {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["BertLayer"]}}
    given = arguments(folder, **fsdp, **settings)
    shard_on_cpu(given)
    model = classifier(gates=gates)
    trainer = Trainer(
        model, given, train_dataset=rows(), eval_dataset=rows(8), callbacks=[gw.StructureCallback()]
    )
    gw.track(trainer)
    losses = watch(trainer)
    trainer.train(resume_from_checkpoint=resume)
    assert trainer.accelerator.is_fsdp2
    return trainer, losses


def fsdp(folder: Path) -> dict[str, Any]:
    found = {}
    for gates in ("sigmoid", "hard_concrete", *OTHERS):
        settings = {
            "eval_strategy": "steps",
            "eval_steps": 7,
            "logging_strategy": "steps",
            "logging_steps": 5,
        }
        trainer, losses = sharded_trainer(
            folder / gates, gates, save_strategy="steps", save_steps=8, **settings
        )
        model = trainer.model
        trainer.save_model(str(folder / gates / "saved"))
        structure = gw.save_compact(model, folder / gates / "compact")
        inputs = {"input_ids": tokens(4, 6), "graft_rows": torch.tensor([0, 1, 0, 1])}
        model.eval()
        with torch.no_grad():
            logits = model(**inputs).logits
        found[gates] = {
            "loss": losses.loss,
            "gates": losses.gates,
            "structure": structure.to_json(),
            "weights": weights(model),
            "logits": logits,
        }
    for step in (8, 16):
        last = str(folder / "hard_concrete" / f"checkpoint-{step}")
        trainer, _ = sharded_trainer(folder / "resumed", "hard_concrete", last)
        found[f"resumed {step}"] = weights(trainer.model)
    try:
        gw.compact_(trainer.model)
    except TrainingError as error:
        found["refused"] = str(error)
    try:
        trainer_of_tasks(folder / "tasks", fsdp=True, fsdp_config={"version": 2})
    except TrainingError as error:
        found["several tasks"] = str(error)
    return found


def fsdp_by_hand(folder: Path) -> dict[str, Any]:
    """`fully_shard` and a hand-written loop, with gates that start private."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model: PeftModel = classifier(gate_start="private", pool_size=4).train()
    if several():
        mesh = init_device_mesh("cpu", (world_size(),))
        for layer in model.base_model.model.bert.encoder.layer:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    search = gw.StructureSearch(model, total_steps=STEPS)
    search.begin(0.01 * len(search.window))
    start = torch.stack([layer.prob_open("default").detach() for layer in graft_layers(model)])
    size = GLOBAL_BATCH // world_size()
    for step in range(STEPS):
        torch.manual_seed(step)
        rank = dist.get_rank() if several() else 0
        inputs = tokens(GLOBAL_BATCH, 6, seed=step)[rank * size : (rank + 1) * size]
        model(
            input_ids=inputs, labels=inputs[:, 0] % 2, graft_rows=torch.arange(len(inputs)) % 2
        ).loss.backward()
        search.before_step(step)
        optimizer.step()
        optimizer.zero_grad()
        search.after_step(step + 1)
    return {
        "start": start,
        "structure": search.structure.to_json(),
        "weights": weights(model),
        "sharded": type(next(model.parameters())).__name__,
    }


def main() -> None:
    folder, *names = sys.argv[1:]
    PartialState(cpu=True)
    for name in names:
        result = globals()[name](Path(folder))
        torch.save(result, Path(folder) / f"{name}-{dist.get_rank()}.pt")
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
