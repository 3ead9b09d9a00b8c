"""`/v1/systemone`: typed questions about one state, in the shapes of `transformers serve`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from graftwork.kinds.heads import TaskHead
from graftwork.messages import listed, shown
from graftwork.serving.service import RefusedError

__all__ = ["available", "typed", "typed_answer"]


def available() -> bool:
    """Whether the installed Transformers knows the questions."""
    return find_spec("transformers.decision") is not None  # since 5.23


def typed(name: str, question: Mapping[str, Any], head: TaskHead) -> Any:
    """A question as Transformers reads it, if its answers are the labels of its task.

    Raises:
        RefusedError: it is no such question, or its criteria are not the labels.
    """
    from transformers.decision import DecisionConfig
    from transformers.decision.template_utils import Question

    if head.kind != "classification":
        raise RefusedError(422, f"question {name!r}: the task is of kind {head.kind}; ask it by /v1/predict.")
    criteria = question.get("criteria")
    most = [str(place) for place in range(len(criteria))] if isinstance(criteria, dict | list) else []
    try:
        found = Question.from_request(
            name, dict(question), DecisionConfig(labels={"choice": most, "score": most})
        )
    except (ValueError, TypeError) as error:
        raise RefusedError(422, str(error)) from error
    if sorted(found.options) != sorted(head.labels):
        given = listed(found.options, 20)
        raise RefusedError(
            422,
            f"question {name!r}: its answers are {given}, but the task has the labels "
            f"{listed(head.labels, 20)}; criteria must be these, of a score their number from 0 on "
            f"(given: {shown(criteria)}).",
        )
    return found


def typed_answer(question: Any, answer: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of a task in the form of its question."""
    probabilities = [answer["probabilities"][option] for option in question.options]
    found: dict[str, Any] = question.answer(probabilities)
    return found
