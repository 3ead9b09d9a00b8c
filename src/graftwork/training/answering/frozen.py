"""The floor of tasks that a language model answers: what it answers without any training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.data.images.reader import text_tokenizer
from graftwork.models.causal.few_shot import SHOTS, with_examples
from graftwork.models.causal.frozen import FrozenAnswers
from graftwork.models.causal.scoring import TextScore, score_texts
from graftwork.preflight.positions import fitting_lengths

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from graftwork.data.images.reader import InputReader
    from graftwork.data.task_data import TaskData

__all__ = ["frozen_answers", "frozen_scores"]


def frozen_answers(
    backbone: PreTrainedModel,
    tokenizer: InputReader,
    datas: Sequence[TaskData],
    split: str,
    *,
    shots: int,
    most: Mapping[str, int | None],
    folder: Path | None,
    advance: Callable[[int], object] = lambda count: None,
) -> dict[str, TextScore]:
    """What the frozen backbone answers to the prompts of written tasks; other tasks are passed over.

    Args:
        backbone: frozen, its adapters disabled.
        tokenizer: its tokenizer.
        datas: tasks with their train rows.
        split: whose rows are asked.
        shots: train rows that are shown before each, with their answers (`with_examples`).
        most: rows of a task whose answers are written.
        folder: where its answers are kept (`FrozenAnswers`).
        advance: told how many rows were answered since the last time.
    """
    written = [data for data in datas if data.head.written]
    if not written:
        return {}
    reader = text_tokenizer(tokenizer)
    if shots:
        shown = [with_examples(data, split, shots) for data in written]
        written = fitting_lengths(shown, backbone, reader)
    memory = FrozenAnswers(folder)
    return score_texts(
        backbone, reader, written, split, most=most, advance=advance, routed=False, memory=memory
    )


def frozen_scores(
    backbone: PreTrainedModel,
    tokenizer: InputReader,
    datas: Sequence[TaskData],
    *,
    most: Mapping[str, int | None],
    folder: Path | None,
    advance: Callable[[int], object] = lambda count: None,
) -> dict[str, dict[str, float]]:
    """Task -> `{"zero_shot", "few_shot"}`: test scores of `frozen_answers`; the arguments are its own."""
    found: dict[str, dict[str, float]] = {}
    for what, shots in (("zero_shot", 0), ("few_shot", SHOTS)):
        scores = frozen_answers(
            backbone, tokenizer, datas, "test", shots=shots, most=most, folder=folder, advance=advance
        )
        for name, one in scores.items():
            if one.score == one.score:
                found.setdefault(name, {})[what] = one.score
    return found
