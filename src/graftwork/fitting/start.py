"""`Start`: a finished model that is trained further, with its structure as it is."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from transformers import set_seed

from graftwork.data.task import Task
from graftwork.data.tokens import collate
from graftwork.errors import CheckpointError, RecipeError
from graftwork.files.reading import read_regular, user_path
from graftwork.fitting.earlier_rows import EarlierRows
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.scoring.tags import inside_types
from graftwork.messages import listed, shown
from graftwork.models.backbone import load_encoder, saved_reader
from graftwork.models.causal.model import make_model
from graftwork.models.causal.scoring import score_texts
from graftwork.models.files import FILES, read_report
from graftwork.models.first_pass import measure_width_
from graftwork.models.folder import load_model
from graftwork.models.identity import same_weights
from graftwork.models.manifest import fingerprint, read_tasks_file, saved_identity
from graftwork.models.multitask import select_tasks_
from graftwork.models.outputs import forward_rows
from graftwork.noise.applying import noisy_model
from graftwork.recipe.loading import load_recipe
from graftwork.recipe.recipe import Recipe
from graftwork.recipe.schema import joined
from graftwork.recipe.settings import GraftSettings
from graftwork.search.schedule import Schedule
from graftwork.structure.file import named_file
from graftwork.tuner.view import graft_view

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from graftwork.data.images.reader import InputReader
    from graftwork.models.multitask import MultiTaskModel
    from graftwork.noise.kinds import Noise
    from graftwork.training.preparation import Prepared

__all__ = ["Start"]

WEIGHTS = (FILES.adapter_weights, FILES.heads, FILES.structure)
"""Files whose content makes the digest of a model."""


class Start:
    """What a run needs of the finished model that it goes on from.

    Args:
        recipe: of the run, with `start`.

    Attributes:
        sha256: digest of adapters, heads and structure.
        heads: those of the model, by task.

    Raises:
        CheckpointError: the folder is no complete model.
        RecipeError: the recipe asks for what cannot be changed.
    """

    def __init__(self, recipe: Recipe) -> None:
        assert recipe.start is not None
        self.folder = user_path(recipe.start)
        self.described = read_tasks_file(self.folder)
        self.heads: dict[str, TaskHead] = {head.name: head for head in self.described["tasks"]}
        file = self.folder / FILES.recipe
        if not file.is_file():
            raise CheckpointError(f"{self.folder} is no model to go on from: it has no {FILES.recipe}.")
        self.recipe = load_recipe(file, saved=True, places=False)
        report = read_report(self.folder).get("tasks")
        self.report: dict[str, Any] = report if isinstance(report, dict) else {}
        self.sha256 = self._digest()
        faults = list(self._faults(recipe))
        if faults:
            raise RecipeError(f"start {self.folder}: {joined(faults)}.")

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for name in WEIGHTS:
            try:
                content = read_regular(self.folder / name)
            except (OSError, ValueError) as error:
                raise CheckpointError(f"{self.folder} is no model to go on from: {error}.") from error
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()

    def _faults(self, recipe: Recipe) -> Iterator[str]:
        """What the recipe asks for that a model that is trained further cannot have."""
        if user_path(recipe.output).resolve() == self.folder.resolve():
            yield "the output is the same folder; choose another"
        for task in recipe.tasks:
            head = self.heads.get(task.name)
            if head is None:
                yield (
                    f"the model has no task {shown(task.name)} (its tasks: {listed(self.heads)}); add it "
                    "with graftwork add-task, or train without start"
                )
            else:
                yield from _task_faults(task, head)
        pooling = self.described["pooling"]
        if recipe.training.pooling != pooling and not self.described["causal"]:
            yield f"training.pooling is {recipe.training.pooling}, but that of the model is {pooling}"
        sections = ((GraftSettings(), recipe.graft, self.recipe.graft, "graft"),)
        sections += ((Schedule(), recipe.schedule, self.recipe.schedule, "schedule"),)  # type: ignore[assignment]
        for default, asked, own, name in sections:
            changed = _changed(asked, own) if asked != default else []
            if changed:
                yield (
                    f"{name} has other values than the model's ({listed(changed)}), whose structure is kept; "
                    f"leave {name} out, or train without start"
                )

    def settled(self, recipe: Recipe) -> Recipe:
        """The recipe with the adapters of the model, as they are trained and written."""
        graft, names = self.recipe.graft, [task.name for task in recipe.tasks]
        if graft.groups is not None:
            left = (tuple(task for task in group if task in names) for group in graft.groups)
            graft = dataclasses.replace(graft, groups=tuple(group for group in left if group))
        return dataclasses.replace(recipe, graft=graft, schedule=self.recipe.schedule)

    def backbone(self, name: str) -> tuple[PreTrainedModel, InputReader]:
        """The backbone of the run, and the tokenizer of the model.

        Raises:
            CheckpointError: it is another backbone than the model's.
            RecipeError: it cannot be loaded.
        """
        reads = next(iter(self.heads.values())).reads
        base = load_encoder(name, reads, causal=self.described["causal"])
        saved = saved_identity(self.described)
        own = fingerprint(base)
        same = own == {key: self.described["backbone"].get(key) for key in own}
        if not same or (saved is not None and not same_weights(base, saved)):
            raise CheckpointError(
                f"{name} is not the backbone that {self.folder} was trained on; give that one as model, or "
                "train without start."
            )
        tokenizer = saved_reader(self.folder, base, name, None, reads)
        measure_width_(base, tokenizer, name)
        return base, tokenizer

    def notes(self, recipe: Recipe, prepared: Prepared) -> list[str]:
        """What is not as it was when the model was made.

        Raises:
            DataError: rows that the model was trained on would be scored, or the other way round.
        """
        names = [task.name for task in recipe.tasks]
        notes = []
        left = [name for name in self.heads if name not in names]
        if left:
            notes.append(f"{listed(left)} of {self.folder} is left out of the new model")
        before = self.described["max_length"]
        if before is not None and before != prepared.max_length:
            notes.append(f"rows have up to {prepared.max_length} tokens, those of {self.folder} {before}")
        earlier = EarlierRows(self.folder, self.recipe, self.report, self.heads)
        for task, clean, data in zip(recipe.tasks, prepared.clean, prepared.datas, strict=True):
            notes += earlier.check(task, clean, data)
        return notes

    def model(self, recipe: Recipe, heads: Sequence[TaskHead]) -> MultiTaskModel:
        """The model with the tasks of the run, its adapters and heads trainable."""
        loaded, _ = load_model(self.folder, backbone=str(recipe.model))
        names = [head.name for head in heads]
        if names != list(self.heads):
            loaded, _ = select_tasks_(loaded, names)
        view = graft_view(loaded)
        for layer in view.sites.values():
            layer.set_adapter([view.adapter_name], inference_mode=False)
        set_seed(recipe.seed)
        settings = recipe.training
        model = make_model(
            loaded.backbone,
            heads,
            pooling=settings.pooling,
            max_length=settings.max_length,
            causal=loaded.causal,
        )
        model.heads.load(loaded.heads.export())
        return model

    def facts(self, model: MultiTaskModel, prepared: Prepared, noise: Sequence[Noise]) -> dict[str, Any]:
        """For the report: which model it was, and its scores before the first step.

        Args:
            model: as `model` gives it.
            prepared: the rows of the run.
            noise: what is in the model when test rows are scored.

        Returns:
            `folder`, `sha256` and `tasks`: name -> `metric`; `test`, the score on the test rows of this run;
            `reported`, that of its own report; `same_rows`, whether these are the same rows.
        """
        with noisy_model(model, noise, "test", []):
            outputs = forward_rows(model, prepared.tokens["test"], collate(prepared.tokenizer))
            scores = outputs.scores(model)
            if model.causal:
                datas, most = prepared.datas, prepared.most_written
                texts = score_texts(model.backbone, prepared.tokenizer, datas, "test", most=most)
                written = (data.head for data in datas if data.head.metric != "likelihood")
                scores |= {head.name: texts[head.name].score for head in written if head.name in texts}
        tasks = {}
        for data in prepared.datas:
            name = data.head.name
            known = self.report.get(name, {})
            tasks[name] = {
                "metric": data.head.metric,
                "test": scores[name],
                "reported": known.get("test"),
                "same_rows": known.get("sha256", {}).get("test") == data.sha256["test"],
            }
        return {"folder": str(self.folder), "sha256": self.sha256, "tasks": tasks}


def _task_faults(task: Task, head: TaskHead) -> Iterator[str]:
    if task.kind != head.kind:
        yield f"task {task.name!r} is of kind {task.kind}, but in the model {head.kind}"
    elif task.reads != head.reads:
        yield f"task {task.name!r} reads {task.reads}s, but in the model {head.reads}s"
    elif len(task.text_fields) != len(head.text):
        yield (
            f"task {task.name!r} reads {listed(task.text_fields)}, but in the model {len(head.text)} texts "
            f"({listed(head.text)})"
        )
    elif task.pairs not in ("auto", head.pairs):
        yield (
            f"task {task.name!r} has pairs: {task.pairs}, but in the model {head.pairs}; give pairs: "
            f"{head.pairs}, or train without start"
        )
    elif task.labels is not None and set(task.labels) not in (
        set(head.labels),
        set(inside_types(head.labels)),  # of tokens a task may list the types of its spans
    ):
        other = sorted(set(task.labels) ^ set(head.labels))
        yield (
            f"the classes of task {task.name!r} are not those of the model ({listed(head.labels, 20)}): "
            f"{listed(other)}; a new class needs a new training, or a task of its own (graftwork add-task)"
        )


def _changed(asked: Any, own: Any) -> list[str]:
    """Names of the settings with other values; files may be named in different ways."""
    found = {
        entry.name: (getattr(asked, entry.name), getattr(own, entry.name))
        for entry in dataclasses.fields(own)
    }
    return [
        name
        for name, (now, then) in found.items()
        if now != then and not (named_file(now) and named_file(then))
    ]
