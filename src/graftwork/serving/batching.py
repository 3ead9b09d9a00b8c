"""Which of the waiting questions make the next batch."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

from graftwork.models.all_tasks import Outputs, Question
from graftwork.serving.limits import Limits
from graftwork.serving.tasks import Group

__all__ = ["Item", "Job", "Said", "choose"]

WASTE = 2.0
"""Most tokens of a pass, padding included, per token of its texts: beyond it a row waits for others of its
length."""

Said = list[dict[str, Outputs]]
"""What the tasks of every question of a request say, in the order of the questions."""


@dataclass(eq=False)
class Job:
    """A request that was let in.

    Attributes:
        rows: what it counts in the queue.
        future: what its questions say, or why not. Cancelled, it is forgotten.
    """

    rows: int
    future: Future[Said] = field(default_factory=Future)
    _said: dict[int, dict[str, Outputs]] = field(default_factory=dict)
    _wanted: int = 0

    def expect(self, questions: int) -> None:
        """So many questions belong to it."""
        self._wanted = questions

    def hear(self, place: int, outputs: dict[str, Outputs]) -> None:
        """Take down what was said of one question; the last one ends the request."""
        self._said[place] = outputs
        if len(self._said) == self._wanted:
            with suppress(InvalidStateError):  # given up by who asked
                self.future.set_result([self._said[index] for index in range(self._wanted)])

    def fail(self, error: BaseException) -> None:
        """End the request with an error."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)


@dataclass(eq=False)
class Item:
    """A question that waits.

    Attributes:
        question: texts and the tasks that read them.
        group: the model that answers it.
        rows: it has in the widest layer of a pass.
        job: the request that it belongs to.
        place: its number in the request.
        since: when it came.
    """

    question: Question
    group: Group
    rows: int
    job: Job
    place: int
    since: float = field(default_factory=monotonic)


def choose(waiting: Iterable[Item], limits: Limits) -> tuple[list[Item], bool]:
    """The next batch, of one model: the oldest question, and in their order all that fit to it.

    A question that does not fit is left for a later batch. The oldest is always taken: none waits for ever.

    Args:
        waiting: questions, the oldest first.
        limits: rows and tokens of a pass.

    Returns:
        The batch, and whether a question of its model was left over: then nothing is gained by waiting.
    """
    chosen: list[Item] = []
    rows = longest = tokens = 0
    left = False
    for item in waiting:
        if chosen and item.group is not chosen[0].group:
            continue
        size = len(item.question)
        longer, more = max(longest, size), rows + item.rows
        padded, real = more * longer, tokens + item.rows * size
        if chosen and (more > limits.batch_rows or padded > limits.batch_tokens or padded > WASTE * real):
            left = True
            if rows >= limits.batch_rows:
                break
            continue
        chosen.append(item)
        rows, longest, tokens = more, longer, real
    return chosen, left or rows >= limits.batch_rows
