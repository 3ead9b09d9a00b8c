"""`lm_eval` (the Language Model Evaluation Harness) with a model of graftwork.

    graftwork-lm-eval --model graftwork --model_args path=DIR,task=T --tasks NAME

The harness finds models in a registry of its own and asks no entry points of packages, so this command enters
one there and hands over to the harness's own command line.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from graftwork.errors import ExportError, GraftworkError
from graftwork.messages import did_you_mean, listed
from graftwork.models.files import Loading

__all__ = ["enter_model", "main", "served_model"]

NAME = "graftwork"
"""Of the model in the registry."""


def served_model(path: str, task: str | None = None, backbone: str | None = None) -> tuple[Any, Any]:
    """The model of one task of a folder, merged into plain weights, and its tokenizer.

    Args:
        path: folder of a language model of several tasks.
        task: which; needed if there are several.
        backbone: where its backbone is now.

    Raises:
        ExportError: the folder is no language model, or the task is not one of its.
    """
    from graftwork.data.images.reader import text_tokenizer
    from graftwork.models.folder import load_model
    from graftwork.models.multitask import select_tasks_

    place: Loading = {} if backbone is None else {"backbone": backbone}
    model, tokenizer = load_model(Path(path), **place)
    names = [head.name for head in model.heads.heads if head.written]
    if not names:
        raise ExportError(f"{path} has no task that a language model answers; lm_eval asks nothing else.")
    if task is None and len(names) > 1:
        raise ExportError(f"{path} has several tasks; add task= with one of {listed(names)} to --model_args.")
    chosen = names[0] if task is None else task
    if chosen not in names:
        raise ExportError(f"{path} has no task {chosen!r}{did_you_mean(chosen, names)} {listed(names)}.")
    alone: Any = select_tasks_(model, [chosen])[0].backbone
    return alone.merge_and_unload().eval(), text_tokenizer(tokenizer)


def enter_model() -> type[Any]:
    """Enter the model in the harness's registry, once; returns its class.

    Raises:
        ExportError: the harness is not installed.
    """
    if find_spec("lm_eval") is None:
        raise ExportError("lm-eval is not installed: pip install 'graftwork[lm-eval]'.")
    from lm_eval.api.registry import model_registry, register_model
    from lm_eval.models.huggingface import HFLM

    if NAME in model_registry:
        known: type[Any] = model_registry.get(NAME)
        return known

    class GraftLM(HFLM):  # type: ignore[misc]
        """One task of a saved model; further settings are those of `hf`."""

        def __init__(
            self, path: str, task: str | None = None, backbone: str | None = None, **settings: Any
        ) -> None:
            model, tokenizer = served_model(path, task, backbone)
            super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", **settings)

    entered: type[Any] = register_model(NAME)(GraftLM)
    return entered


def main() -> None:
    """The command `lm_eval`, with the model entered; a user's error is one line."""
    try:
        enter_model()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except GraftworkError as error:
        print(f"graftwork: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
