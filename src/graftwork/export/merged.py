"""A task that a language model writes, merged into the weights: a plain folder of Transformers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from graftwork.errors import ExportError
from graftwork.models.causal.answering import Prompt, left_padded, write_answers
from graftwork.texts.rendering import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from graftwork.kinds.heads import TaskHead
    from graftwork.models.multitask import MultiTaskModel

__all__ = ["asked", "export_merged"]

ASKED = ("What is the capital of France?", "2 and 3 are", "Write one sentence about a red lamp.")
"""Texts with which the merged model is compared with the routed one."""
NEW_TOKENS = 12
"""Tokens of their answers."""
CLOSE = 1e-3
"""Largest difference of logits, relative to the largest logit, that is rounding."""


def asked(tokenizer: PreTrainedTokenizerBase, head: TaskHead) -> list[Prompt]:
    """The prompts of `ASKED`, as a task puts them."""
    assert head.writing is not None
    renderer = Renderer(tokenizer, head.writing)
    chats = [f'[{{"role": "user", "content": "{text}"}}]' for text in ASKED]
    ids = renderer.prompts(chats if head.writing.is_list else list(ASKED))
    return [Prompt(row, 0, NEW_TOKENS, renderer.ends) for row in ids]


def export_merged(
    model: MultiTaskModel, tokenizer: PreTrainedTokenizerBase, head: TaskHead, folder: Path
) -> float:
    """Merge the adapters of a model of one written task into its backbone, in place, and save that.

    The saved model is loaded again, and must give the logits and the greedy answers of the routed one.

    Args:
        model: of this task alone.
        tokenizer: its tokenizer.
        head: the task.
        folder: gets the files of `save_pretrained`.

    Returns:
        The largest difference of a logit.

    Raises:
        ExportError: the merged model answers otherwise.
        MergeError: adapters are nonlinear, or a site has no weight that could take them.
    """
    from transformers import AutoModelForCausalLM

    assert head.writing is not None
    renderer, prompts = Renderer(tokenizer, head.writing), asked(tokenizer, head)
    ids = [prompt.ids for prompt in prompts]
    before = write_answers(model.backbone, tokenizer, prompts)
    tokens, mask = left_padded(ids, renderer.ends[0])
    rows = torch.zeros(len(ids), dtype=torch.long)
    with torch.no_grad():
        wanted = model.backbone(input_ids=tokens, attention_mask=mask, graft_rows=rows).logits
        backbone: Any = model.backbone
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            merged = backbone.merge_and_unload()
        # So that a plain `generate` ends where this task's answers do.
        merged.generation_config.eos_token_id = list(renderer.ends)
        merged.save_pretrained(str(folder))
        loaded = AutoModelForCausalLM.from_pretrained(str(folder)).eval()
        found = loaded(input_ids=tokens, attention_mask=mask).logits
    told = mask.bool()
    difference = float((found.float() - wanted.float())[told].abs().max())
    after = write_answers(loaded, tokenizer, prompts, routed=False)
    if difference > CLOSE * float(wanted[told].abs().max()) or before != after:
        raise ExportError(
            f"the merged model of task {head.name!r} does not answer as the routed one (logits differ by up "
            f"to {difference:.2g}); its weights have too few digits for the adapters. Export it as a LoRA."
        )
    return difference
