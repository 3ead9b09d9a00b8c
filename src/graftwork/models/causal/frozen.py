"""`FrozenAnswers`: what a frozen language model has answered before, so that no run asks it again."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from graftwork.models.causal.answering import Prompt, write_answers
from graftwork.models.causal.choosing import Question, log_likelihoods
from graftwork.models.causal.model import language_model
from graftwork.models.identity import identity_of

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

__all__ = ["FrozenAnswers"]

FORMAT = 1
"""Of the files; part of their names."""


class FrozenAnswers:
    """Answers of a frozen backbone, kept in a folder: a file for the prompts of a task.

    Its name is a hash of the weights, of the tokens of all prompts with what is asked of them, of the
    precision, and of the versions of torch and Transformers. So whatever changes an answer asks anew. What is
    kept are tokens and log-likelihoods; they are scored again, for references and metrics may change.

    Args:
        folder: of the files; None: nothing is kept.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def write(
        self,
        backbone: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Prompt],
        **options: Any,
    ) -> list[list[int]]:
        """As `write_answers`; `options` are its own, without settings that change an answer."""

        def ask(some: Sequence[Any]) -> list[list[int]]:
            return write_answers(backbone, tokenizer, some, **options)

        # What pads a batch does not change an answer.
        return self._answered("written", backbone, prompts, ask, options["advance"])

    def choose(self, backbone: nn.Module, questions: Sequence[Question], **options: Any) -> list[list[float]]:
        """As `log_likelihoods`; `options` are its own."""

        def ask(some: Sequence[Any]) -> list[list[float]]:
            return log_likelihoods(backbone, some, **options)

        return self._answered("chosen", backbone, questions, ask, options["advance"])

    def _answered(
        self,
        how: str,
        backbone: nn.Module,
        asked: Sequence[Any],
        ask: Callable[[Sequence[Any]], list[Any]],
        advance: Callable[[int], object],
    ) -> list[Any]:
        """Known answers, and those to the tasks of which there are none, all of these asked together."""
        model = _named(backbone)
        if self.folder is None or model is None:
            return ask(asked)
        rows: dict[int, list[int]] = {}
        for place, one in enumerate(asked):
            rows.setdefault(one.task, []).append(place)
        files = {task: self._file(how, model, [asked[row] for row in own]) for task, own in rows.items()}
        known = {task: _kept(file, len(rows[task])) for task, file in files.items()}
        missing = sorted(row for task, own in rows.items() if known[task] is None for row in own)
        fresh = dict(zip(missing, ask([asked[row] for row in missing]), strict=True)) if missing else {}
        found: list[Any] = [None] * len(asked)
        for task, own in rows.items():
            answers = known[task]
            if answers is None:
                answers = [fresh[row] for row in own]
                _keep(files[task], answers)
            else:
                advance(len(own))
            for row, answer in zip(own, answers, strict=True):
                found[row] = answer
        return found

    def _file(self, how: str, model: Sequence[str], asked: Sequence[Any]) -> Path:
        # The index of a task says only which rows belong together.
        rows = [{key: value for key, value in asdict(one).items() if key != "task"} for one in asked]
        content = json.dumps([FORMAT, how, *model, rows], sort_keys=True)
        assert self.folder is not None
        return self.folder / f"answers-{hashlib.sha256(content.encode()).hexdigest()[:32]}.json"


def _named(backbone: nn.Module) -> list[str] | None:
    """What identifies a frozen backbone and how it computes; None if that is not known."""
    identity = identity_of(backbone)
    if identity is None or identity.missing:
        return None
    model: Any = language_model(backbone)
    device = model.device.type
    half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    versions = [version(name) for name in ("torch", "transformers")]
    return [identity.sha256, str(model.dtype), str(half), device, *versions]


def _kept(file: Path, count: int) -> list[Any] | None:
    """The answers of a file; None if there is none, or one that cannot be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(found, list) and len(found) == count and all(isinstance(one, list) for one in found)
    return found if whole else None


def _keep(file: Path, answers: Sequence[Any]) -> None:
    """Write answers, if there is a place to write in: at once, or not at all."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, staged = tempfile.mkstemp(dir=file.parent, prefix=f".{file.stem}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(answers, stream)
            os.replace(staged, file)
        finally:
            Path(staged).unlink(missing_ok=True)
