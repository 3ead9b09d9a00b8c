"""What a server tells Prometheus of itself."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from graftwork.serving.engine import Pass

__all__ = ["Metrics"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: Any = {"registry": self.registry, "namespace": "graftwork"}
        self._requests = Counter("requests", "Requests by path and status.", ["path", "status"], **own)
        self._seconds = Histogram("request_seconds", "Time of requests.", ["path"], buckets=SECONDS, **own)
        self._answers = Counter("answers", "Answers by task.", ["task"], **own)
        self._pass_seconds = Histogram("pass_seconds", "Time of passes.", buckets=SECONDS, **own)
        self._pass_rows = Histogram("pass_rows", "Rows of passes, in the widest layer.", buckets=SIZES, **own)
        self._pass_tasks = Histogram("pass_tasks", "Different tasks of passes.", buckets=SIZES, **own)
        self._tokens = Counter("pass_tokens", "Tokens of passes, padding included.", **own)
        self._queue = Gauge("queue_rows", "Rows that are in and not answered yet.", **own)
        self._tasks = Gauge("tasks", "Tasks that are served.", **own)
        self._up = Gauge("up", "1 while the engine lives.", **own)

    def watch(self, rows: Callable[[], int], tasks: Callable[[], int], alive: Callable[[], bool]) -> None:
        """Where to look when somebody asks."""
        self._queue.set_function(rows)
        self._tasks.set_function(tasks)
        self._up.set_function(lambda: float(alive()))

    def count_pass(self, facts: Pass) -> None:
        """A pass has ended."""
        self._pass_seconds.observe(facts.seconds)
        self._pass_rows.observe(facts.rows)
        self._pass_tasks.observe(facts.tasks)
        self._tokens.inc(facts.tokens)

    def count_answers(self, task: str, answers: int) -> None:
        """A task has answered rows."""
        self._answers.labels(task).inc(answers)

    def count_request(self, path: str, status: int, began: float) -> None:
        """A request has ended; `began` is a time of `monotonic`."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(monotonic() - began)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
