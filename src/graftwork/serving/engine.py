"""The engine: one thread that answers the questions of all requests, in batches that mix them."""

from __future__ import annotations

import math
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from time import monotonic

from graftwork.errors import DataError, ServingError
from graftwork.kinds.scoring.tags import Tagged
from graftwork.models.all_tasks import Outputs, Question, branching_pass, leaves, routed_pass
from graftwork.serving.batching import Item, Job, Said, choose
from graftwork.serving.limits import Limits
from graftwork.serving.tasks import Group

__all__ = ["BusyError", "ClosedError", "Engine", "Pass"]

REMEMBERED = 0.9
"""Part of the mean time of a row that is kept when a new one comes in."""


class BusyError(Exception):
    """The queue is full.

    Attributes:
        after: seconds after which there may be room.
    """

    def __init__(self, after: int) -> None:
        super().__init__(f"the queue is full; try again in {after} s")
        self.after = after


class ClosedError(Exception):
    """Nothing is answered any more: the server is ending, or the engine is dead."""


@dataclass(frozen=True)
class Pass:
    """What one pass was, for measurement.

    Attributes:
        questions: how many.
        tasks: how many different ones.
        rows: in its widest layer.
        tokens: padding included.
        seconds: it took.
    """

    questions: int
    tasks: int
    rows: int
    tokens: int
    seconds: float


class Engine:
    """Answers questions in a thread of its own. All methods may be called from any thread.

    A question whose pass fails is asked again alone, so that it harms no other. If then a row that the model
    could answer before fails as well, the engine is dead.

    Args:
        limits: of passes and of the queue.
        on_death: called in the engine's thread once it is dead.
        on_pass: called after every pass.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        on_death: Callable[[BaseException], None] = lambda error: None,
        on_pass: Callable[[Pass], None] = lambda facts: None,
    ) -> None:
        self.limits = limits
        self.fault: BaseException | None = None
        """Why it is dead."""
        self._on_death, self._on_pass = on_death, on_pass
        self._changed = threading.Condition()
        self._waiting: deque[Item] = deque()
        self._open: set[Future[Said]] = set()
        self._rows = 0
        self._closing = False
        self._row_seconds = 0.0
        self._began: float | None = None
        self._thread = threading.Thread(target=self._run, name="graftwork-engine", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self, seconds: float | None = None) -> None:
        """Let no request in, answer those that are in, and end.

        Args:
            seconds: to wait for the end; default as long as it takes.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def rows(self) -> int:
        """Rows of all requests that are in."""
        return self._rows

    @property
    def busy_for(self) -> float:
        """Seconds since the present pass began; 0 between passes."""
        began = self._began
        return 0.0 if began is None else monotonic() - began

    def admit(self, rows: int) -> Job:
        """Let a request in; it counts until its future is done, or cancelled.

        Args:
            rows: of the request.

        Raises:
            BusyError: there is no room.
            ClosedError: no request is let in any more.
        """
        with self._changed:
            if self._closing or self.fault is not None:
                raise ClosedError(self._why_closed())
            if self._rows + rows > self.limits.queue:
                raise BusyError(max(1, math.ceil(self._rows * self._row_seconds)))
            self._rows += rows
            job = Job(rows)
            self._open.add(job.future)
        job.future.add_done_callback(lambda future: self._release(job))
        return job

    def _release(self, job: Job) -> None:
        with self._changed:
            self._rows -= job.rows
            self._open.discard(job.future)

    def put(self, job: Job, asked: Sequence[tuple[Group, Question]]) -> None:
        """Give the questions of a request that was let in; its future ends with what they say.

        Raises:
            ClosedError: the engine has died meanwhile.
        """
        job.expect(len(asked))
        items = [
            Item(question, group, leaves(question, group.tree, group.index_of), job, place)
            for place, (group, question) in enumerate(asked)
        ]
        with self._changed:
            if self.fault is not None or not (self._thread.is_alive() or self._thread.ident is None):
                raise ClosedError(self._why_closed())
            self._waiting.extend(items)
            self._changed.notify_all()

    def _why_closed(self) -> str:
        return "the server is ending" if self.fault is None else f"the engine is dead: {self.fault}"

    def _run(self) -> None:
        try:
            while (batch := self._next()) is not None:
                self._answer(batch)
        except BaseException as error:
            self._die(error)

    def _die(self, error: BaseException) -> None:
        """Fail all requests, and say so: nobody else notices the end of a thread."""
        with self._changed:
            self.fault = error
            left = list(self._open)
            self._waiting.clear()
        for future in left:
            Job(0, future).fail(ClosedError(self._why_closed()))
        self._on_death(error)

    def _next(self) -> list[Item] | None:
        """Wait for the next batch; None at the end."""
        with self._changed:
            while True:
                if any(item.job.future.done() for item in self._waiting):
                    self._waiting = deque(item for item in self._waiting if not item.job.future.done())
                if not self._waiting:
                    # A request that was let in may still be read.
                    if self._closing and not self._open:
                        return None
                    self._changed.wait(0.05 if self._closing else None)
                    continue
                batch, full = choose(self._waiting, self.limits)
                left = self._waiting[0].since + self.limits.wait - monotonic()
                if full or left <= 0 or self._closing:
                    taken = set(map(id, batch))
                    self._waiting = deque(item for item in self._waiting if id(item) not in taken)
                    return batch
                self._changed.wait(left)

    def _answer(self, batch: Sequence[Item]) -> None:
        self._began = began = monotonic()
        try:
            said = _pass(batch[0].group, [item.question for item in batch])
        except Exception as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                self._answer(batch[:middle])
                self._answer(batch[middle:])
                return
            if not isinstance(error, DataError):
                traceback.print_exc(file=sys.stderr)
            batch[0].job.fail(error)
            _probe(batch[0].group)
            return
        finally:
            self._began = None
        self._measure(batch, monotonic() - began)
        for item, outputs in zip(batch, said, strict=True):
            item.job.hear(item.place, outputs)

    def _measure(self, batch: Sequence[Item], seconds: float) -> None:
        rows = sum(item.rows for item in batch)
        longest = max(len(item.question) for item in batch)
        share = seconds / len(batch)
        old = self._row_seconds or share
        self._row_seconds = REMEMBERED * old + (1 - REMEMBERED) * share
        tasks = {head.name for item in batch for head in item.question.heads}
        self._on_pass(Pass(len(batch), len(tasks), rows, rows * longest, seconds))


def _pass(group: Group, questions: Sequence[Question]) -> Said:
    if all(len(question.heads) == 1 for question in questions):
        return routed_pass(group.model, group.tokenizer, questions)
    return branching_pass(group.model, group.tokenizer, questions, group.tree)


def _probe(group: Group) -> None:
    """See whether a model still answers.

    Raises:
        ServingError: it does not.
    """
    try:
        (said,) = _pass(group, [group.probe])
        right = all(math.isfinite(value) for outputs in said.values() for value in _numbers(outputs))
    except Exception as error:
        raise ServingError(f"a row that it could answer fails ({type(error).__name__}: {error})") from error
    if not right:
        raise ServingError("a row that it could answer has no finite outputs any more")


def _numbers(outputs: Outputs) -> Iterable[float]:
    rows = outputs.logits if isinstance(outputs, Tagged) else [outputs]
    return (value for row in rows for value in row)
