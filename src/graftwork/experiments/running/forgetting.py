r"""How much of the backbone's original ability a trained model has lost, on text that no task is about.

.. math::
    F = \frac{1}{T} \sum_t \left(1 - r(S, S_t)\right)

S has the cosine similarities of all pairs of `texts/general.txt` (96 plain English sentences) under the
original backbone, S_t those under the trained model as it serves task t, and r is Pearson's correlation. 0:
the model still finds the same texts alike; 1: nothing of that is left. Rotations and scalings of the vectors,
which a new head undoes, do not count.

As in PEFT's `method_comparison`, the model is measured with its adapters on, and lower is better; there the
ability is the loss on Wikipedia, here, where there is no language-model head, the similarity of texts. With
the adapters off it is 0 for every method that leaves the backbone's weights alone; full fine-tuning and
BitFit have no such way back.

Source: the comparison of similarities is Kriegeskorte et al. 2008, "Representational similarity analysis".
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graftwork.data.images.reader import ImageReader
from graftwork.data.pairs.second import with_itself
from graftwork.data.tokens import encode, pad, row_lengths
from graftwork.models.causal.model import language_model
from graftwork.models.first_pass import hidden_part
from graftwork.models.pooling import embed, pool

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from graftwork.models.multitask import MultiTaskModel
    from graftwork.recipe.settings import TrainingSettings
    from graftwork.training.preparation import Prepared

__all__ = ["embed_general", "forgetting", "general_texts", "lost_similarity"]


@functools.cache
def general_texts() -> tuple[str, ...]:
    """The sentences."""
    path = resources.files("graftwork.experiments.running") / "texts" / "general.txt"
    return tuple(path.read_text(encoding="utf-8").splitlines())


def embed_general(prepared: Prepared, training: TrainingSettings) -> NDArray[np.float32] | None:
    """The sentences under the backbone before it is adapted, [sentences, d]; None if it reads images."""
    if isinstance(prepared.tokenizer, ImageReader):
        return None
    vectors: NDArray[np.float32] = embed(
        hidden_part(prepared.backbone),
        prepared.tokenizer,
        general_texts(),
        _most_tokens(prepared),
        pooling="last" if prepared.causal else training.pooling,
    )
    return vectors


def forgetting(
    model: MultiTaskModel, prepared: Prepared, training: TrainingSettings, before: NDArray[np.float32] | None
) -> float | None:
    """F of a trained model; None if it reads images, or even the original backbone finds all sentences alike.

    Args:
        model: as it is served.
        prepared: for its tokenizer.
        training: how rows are cut and pooled.
        before: what `embed_general` returned.
    """
    if before is None:
        return None
    tokens = encode(prepared.tokenizer, [list(general_texts())], _most_tokens(prepared))
    rows = [{name: tokens[name][i] for name in tokens} for i in range(len(before))]
    device = next(model.parameters()).device
    batch = {name: value.to(device) for name, value in pad(prepared.tokenizer, rows).items()}
    given = with_itself(batch) if model.heads.reads_separately else batch
    hidden: list[torch.Tensor] = []

    def take(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        hidden[:] = [output.last_hidden_state]

    was_training = model.training
    model.train(False)
    part = hidden_part(language_model(model.backbone)) if model.causal else model.backbone
    hook = part.register_forward_hook(take)
    lost = []
    try:
        with torch.inference_mode():
            for task in range(len(model.heads.heads)):
                model(**given, graft_rows=torch.full((len(rows),), task, device=device))
                after = (
                    pool(hidden[0][: len(rows)], batch["attention_mask"], model.pooling).float().cpu().numpy()
                )
                lost.append(lost_similarity(before, after))
    finally:
        hook.remove()
        model.train(was_training)
    known = [each for each in lost if each is not None]
    return float(np.mean(known)) if known else None


def _most_tokens(prepared: Prepared) -> int:
    """No sentence is longer than what the model was trained on, so that none is beyond its positions."""
    return min(prepared.max_length, int(row_lengths(prepared.tokens["train"]).max()))


def lost_similarity(before: NDArray[np.float32], after: NDArray[np.float32]) -> float | None:
    """1 - r of the cosine similarities of all pairs of rows; 1 if the rows have become all alike.

    None if they were all alike before.
    """
    pairs = np.triu_indices(len(before), 1)
    first, second = (_cosines(vectors)[pairs] for vectors in (before, after))
    if np.ptp(first) < 1e-6:
        return None
    if not np.isfinite(second).all() or np.ptp(second) < 1e-6:
        return 1.0
    # What is left of rounding when nothing has changed would be shown as a tiny loss.
    return max(0.0, round(1.0 - float(np.corrcoef(first, second)[0, 1]), 6))


def _cosines(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    unit = vectors.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    product: NDArray[np.float64] = unit @ unit.T
    return product
