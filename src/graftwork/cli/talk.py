"""`chat`: talking to a language model in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from graftwork.cli.opening import Opening

__all__ = ["chat"]

HELP = (
    "/task NAME: another task; /tasks: which there are; /clear: forget what was said; /quit, or Ctrl-D: end"
)


def chat(
    folder: Path,
    task: str | None = None,
    *,
    opening: Opening,
    max_new_tokens: int | None = None,
) -> None:
    """Talk to a model that writes: a line is asked, and its answer is printed as it comes.

    Args:
        folder: Written by `graftwork fit`, or USER/MODEL on the hub.
        task: Task to begin with; default the first one that writes.
        opening: Where its parts are now.
        max_new_tokens: Tokens of an answer at most, in place of those of the task.
    """
    from graftwork.data.images.reader import text_tokenizer
    from graftwork.errors import DataError
    from graftwork.models.causal.talk import Talk
    from graftwork.models.folder import load_model

    model, reader = load_model(folder, **opening)
    talk = Talk(model, text_tokenizer(reader), task=task, max_new_tokens=max_new_tokens)
    if sys.stdin.isatty():
        print(f"task {talk.task}; {HELP}")
    for line in _lines(lambda: talk.task):
        word, _, rest = line.partition(" ")
        if word in ("/quit", "/exit"):
            return
        try:
            if word == "/task":
                talk.choose(rest.strip())
            elif word == "/tasks":
                print(", ".join(talk.names))
            elif word == "/clear":
                talk.clear()
            elif word.startswith("/"):
                print(HELP)
            else:
                talk.ask(line, lambda piece: print(piece, end="", flush=True))
                print(flush=True)
        except DataError as error:
            print(f"graftwork: {error}", file=sys.stderr)


def _lines(task: object) -> Iterator[str]:
    """What is typed, without empty lines; on a terminal behind the name of the task."""
    assert callable(task)
    while True:
        try:
            line = input(f"{task()}> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if line:
            yield line
