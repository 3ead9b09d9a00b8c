"""What requests look like, and how answers and errors are written."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from graftwork.messages import shown

__all__ = [
    "Classify",
    "Json",
    "LoadTask",
    "Predict",
    "PredictAll",
    "SystemOne",
    "UnloadTask",
    "refusal",
    "validation_line",
]

Row = Annotated[Any, Field(description="a text, a pair of texts, or an object of fields")]
_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    409: "ConflictError",
    413: "RequestTooLargeError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
    504: "TimeoutError",
}


class _Form(BaseModel):
    # A field that is passed over would be an answer to another question than the one that was asked.
    model_config = ConfigDict(extra="forbid", strict=True)


class Classify(_Form):
    """As vLLM and SGLang have it; a model is a task."""

    model: str
    input: str | list[Row]
    user: str | None = None


class _Answered(_Form):
    top: int | None = None
    digits: int | None = Field(default=None, ge=0, le=17)


class Predict(_Answered):
    """Rows for one task, or each for its own."""

    rows: list[Row]
    task: str | None = None


class PredictAll(_Answered):
    """Rows about which all tasks are asked, or some."""

    rows: list[Row]
    tasks: list[str] | None = None


class SystemOne(_Form):
    """As `transformers serve` has it: one state, many questions."""

    model: str
    state: str | dict[str, Any] | list[Any]
    questions: dict[str, dict[str, Any]] = Field(min_length=1)
    assets: dict[str, Any] = Field(default_factory=dict)


class LoadTask(_Form):
    """A folder below the folder of models."""

    folder: str = Field(min_length=1)


class UnloadTask(_Form):
    """A task that is served."""

    task: str


class Json(Response):
    """JSON in ASCII: texts may hold half of a surrogate pair, which no encoding has."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Write the content."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> Json:
    """An error as clients of OpenAI read it, in one line."""
    line = " ".join(message.split())
    error = {"message": line, "type": _TYPES.get(status, "Error"), "param": None, "code": status}
    return Json({"error": error}, status, headers)


def validation_line(errors: Any) -> str:
    """The first fault of a body that is not as its form asks."""
    first = errors[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        return f"the body is no JSON ({first.get('ctx', {}).get('error', first['msg'])})."
    given = "" if first["type"] == "missing" or not place else f" (given: {shown(first.get('input'))})"
    return f"{'.'.join(place) or 'the body'}: {first['msg']}{given}."
