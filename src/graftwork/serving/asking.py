"""From the rows of a request to questions, and from what the tasks say to answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graftwork.data.asked_rows import check_row, fields_of, texts_of
from graftwork.errors import DataError
from graftwork.kinds.answers import Answers
from graftwork.kinds.heads import TaskHead
from graftwork.messages import did_you_mean, listed, shown
from graftwork.models.all_tasks import AskedRow, Question, ask, read_row
from graftwork.serving.batching import Said
from graftwork.serving.tasks import Group, TaskSet

__all__ = ["Reading", "UnknownTaskError", "characters", "read_all", "read_tasks"]


class UnknownTaskError(Exception):
    """A request names a task that is not served."""


@dataclass(frozen=True)
class Reading:
    """A request as the engine takes it, and the way back to its rows.

    Attributes:
        rows: as they were read.
        questions: of all rows.
        places: the row of every question.
        answers: how they are given.
        order: of the tasks.
    """

    rows: Sequence[AskedRow]
    questions: Sequence[tuple[Group, Question]]
    places: Sequence[int]
    answers: Answers
    order: Sequence[str]
    tokens: int = field(init=False)
    """What the rows are for the backbone, special tokens included."""

    def __post_init__(self) -> None:
        """Count the tokens."""
        object.__setattr__(self, "tokens", sum(question.size for _, question in self.questions))

    def described(self, said: Said) -> list[dict[str, Any]]:
        """The answers to every row, by task, in the order of the tasks.

        Raises:
            DataError: outputs are not finite.
        """
        found: list[dict[str, Any]] = [{} for _ in self.rows]
        for place, (_, question), outputs in zip(self.places, self.questions, said, strict=True):
            for head in question.heads:
                found[place][head.name] = self.answers.describe(head, outputs[head.name])
        return [{name: mine[name] for name in self.order if name in mine} for mine in found]


def read_tasks(tasks: TaskSet, rows: Sequence[Any], task: str | None, answers: Answers) -> Reading:
    """Rows that one task answers each: the given one, or that which a row names in its field `task`.

    Raises:
        UnknownTaskError: no such task is served.
        DataError: a row names no task, or has other texts than its task.
    """
    read = []
    for number, row in enumerate(rows, 1):
        check_row(row, number)
        head = tasks.tasks[_task_of(tasks, row, number, task)].head
        texts = texts_of(fields_of(row, number, head), number, head)
        read.append(AskedRow({}, [(texts, [head])], {}))
    return _asked(tasks, read, answers)


def read_all(tasks: TaskSet, rows: Sequence[Any], names: Sequence[str] | None, answers: Answers) -> Reading:
    """Rows about which all tasks are asked, or the given ones, as far as they can read them.

    Raises:
        UnknownTaskError: no such task is served.
        DataError: a row can be read by none of them.
    """
    for name in names or ():
        _check(tasks, name)
    heads = tasks.heads(None if names is None else dict.fromkeys(names))
    return _asked(
        tasks, [read_row(row, number, heads, answers) for number, row in enumerate(rows, 1)], answers
    )


def _task_of(tasks: TaskSet, row: Any, number: int, task: str | None) -> str:
    own = row.get("task") if isinstance(row, Mapping) else None
    name = task if task is not None else own
    if name is None and len(tasks.tasks) == 1:
        return next(iter(tasks.tasks))
    if name is None:
        raise DataError(
            f"row {number} names no task; give task, or each row a field task ({listed(tasks.tasks)})."
        )
    _check(tasks, name)
    return str(name)


def _check(tasks: TaskSet, name: object) -> None:
    if not isinstance(name, str) or name not in tasks.tasks:
        hint = did_you_mean(name, tasks.tasks)
        raise UnknownTaskError(
            f"unknown task {shown(name)}{hint} Served are {listed(tasks.tasks) or 'none'}."
        )


def _asked(tasks: TaskSet, rows: Sequence[AskedRow], answers: Answers) -> Reading:
    """Tokenise the rows for each model that is asked about them."""
    wanted: dict[Group, list[tuple[int, tuple[str, ...], list[TaskHead]]]] = {}
    for place, row in enumerate(rows):
        for texts, heads in row.asked():
            by_group: dict[Group, list[TaskHead]] = {}
            for head in heads:
                by_group.setdefault(tasks.tasks[head.name].group, []).append(head)
            for group, own in by_group.items():
                wanted.setdefault(group, []).append((place, texts, own))
    questions: list[tuple[Group, Question]] = []
    places: list[int] = []
    for group, mine in wanted.items():
        asked = [(texts, heads) for _, texts, heads in mine]
        questions += [(group, one) for one in ask(group.tokenizer, asked, group.model.max_length)]
        places += [place for place, _, _ in mine]
    return Reading(rows, questions, places, answers, list(tasks.tasks))


def characters(row: Any) -> int:
    """Characters of the texts of a row, those of fields that no task reads included."""
    if isinstance(row, str):
        return len(row)
    if isinstance(row, Mapping):
        return sum(characters(value) for value in row.values())
    return sum(characters(value) for value in row) if isinstance(row, list | tuple) else 0
