"""What is measured of a model when its training has ended: scores, and what the search has decided."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from graftwork.diagnosis.diagnosis import Searched, diagnose
from graftwork.fitting.words import diagnosis_in_words, scores_in_words
from graftwork.models.causal.scoring import losses_of, written_rows
from graftwork.noise.applying import noisy_model
from graftwork.progress import phase
from graftwork.training.answering.trained import trained_answers
from graftwork.training.bars import counted
from graftwork.training.preparation import split_scores

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.console import Console

    from graftwork.noise.kinds import Noise
    from graftwork.structure.structure import Structure
    from graftwork.training.preparation import Prepared
    from graftwork.training.run import TrainingRun

__all__ = ["final_diagnosis", "final_scores", "timed"]


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note how long the context takes."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = time.perf_counter() - start


def final_scores(
    run: TrainingRun, prepared: Prepared, noise: Sequence[Noise], console: Console
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, Any]]]:
    """Scores of the final, compact model: task -> split -> score; and what it has written.

    Tasks that the language model itself answers are scored by what it writes; the second mapping has, for
    each and its splits, all figures, the loss of the right answers, and examples.

    Args:
        run: after `train`.
        prepared: the rows.
        noise: what of it is asked for at test is in the model while it scores the test rows.
        console: where to show how it goes.
    """
    trainer, tokens, names = run.trainer, prepared.tokens, prepared.names
    size = trainer.args.eval_batch_size
    batches = sum(-(-len(tokens[split]) // size) for split in ("validation", "test"))
    doing = "scoring the model on validation and test, batches"
    with phase(console, "test", doing, batches) as now, counted(trainer, now.advance):
        scores = {"validation": split_scores(trainer, tokens["validation"], "validation", names)}
        with noisy_model(run.model, noise, "test", run.noise):
            scores["test"] = split_scores(trainer, tokens["test"], "test", names)
            texts = _written(run, prepared, scores, console) if prepared.causal else {}
        found = {name: {split: values[name] for split, values in scores.items()} for name in names}
        now.found_out(scores_in_words(found))
    return found, texts


def _written(
    run: TrainingRun, prepared: Prepared, scores: dict[str, dict[str, float]], console: Console
) -> dict[str, dict[str, Any]]:
    """What the model writes, with its score in place of the likelihood that it was trained by."""
    written = [data for data in prepared.datas if data.head.written]
    rows = sum(
        len(written_rows(data, split, prepared.most_written.get(data.head.name)))
        for data in written
        for split in scores
    )
    found: dict[str, dict[str, Any]] = {data.head.name: {} for data in written}
    with phase(console, "answers", "answering validation and test, rows", rows) as now:
        for split, values in scores.items():
            texts = trained_answers(
                run.model,
                prepared.tokenizer,
                prepared.datas,
                split,
                most=prepared.most_written,
                advance=now.advance,
            )
            for data in written:
                name = data.head.name
                losses = losses_of(run.model, prepared.tokenizer, data.head, data.splits[split])
                found[name][split] = losses
                if name in texts:
                    found[name][split] = {**losses, **texts[name].as_dict()}
                    if data.head.metric != "likelihood":
                        values[name] = texts[name].score
        now.found_out(f"{rows:,} answers")
    return found


def final_diagnosis(
    run: TrainingRun, structure: Structure, validation: Dataset, of: Searched, console: Console
) -> dict[str, Any]:
    """What the search has decided, and what each adapter is worth (`graftwork.diagnosis`).

    Args:
        run: after `train`.
        structure: as it was decided, with the adapters that were closed.
        validation: rows for the ablation.
        of: what was searched.
        console: where to show how it goes.
    """
    with phase(console, "diagnosis", "closing adapters one by one on validation rows") as now:
        found = diagnose(run.model, structure, run.watch, validation=validation, of=of, progress=now)
        now.found_out(diagnosis_in_words(found))
    return found
