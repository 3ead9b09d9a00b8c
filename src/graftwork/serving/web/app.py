"""The HTTP application: which path asks what of the service, and what its answers look like."""

from __future__ import annotations

import hmac
import time
import uuid
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import anyio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from graftwork.data.asked_rows import check_row, lacking
from graftwork.errors import DataError
from graftwork.kinds.answers import Answers
from graftwork.messages import shown
from graftwork.serving.asking import Reading, UnknownTaskError, read_all, read_tasks
from graftwork.serving.engine import BusyError, ClosedError
from graftwork.serving.service import RefusedError, Service
from graftwork.serving.tasks import Served, TaskSet
from graftwork.serving.web.forms import (
    Classify,
    Json,
    LoadTask,
    Predict,
    PredictAll,
    SystemOne,
    UnloadTask,
    refusal,
    validation_line,
)
from graftwork.serving.web.metrics import Metrics
from graftwork.serving.web.systemone import available, typed, typed_answer

__all__ = ["ALL", "make_app"]

ALL = "graftwork"
"""Name under which all tasks together are one model."""
STUCK = 2.0
"""Time-outs of a request after which a pass that has not ended makes the server unhealthy."""
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may do in a browser: no more than what it has inside, and requests to this server."""


def make_app(service: Service, metrics: Metrics, key: str | None = None) -> FastAPI:
    """The application around a service.

    Args:
        service: answers.
        metrics: counts.
        key: that loading and unloading ask for, if the service allows them.
    """
    # The pages of documentation that FastAPI offers load their scripts from elsewhere.
    app = FastAPI(title="graftwork", docs_url=None, redoc_url=None)
    _refuse_in_one_line(app)
    began = int(time.time())

    async def ask(
        request: Request, rows: Any, read: Callable[[TaskSet], Reading]
    ) -> tuple[Reading, list[dict[str, Any]]]:
        reading, answers = await service.answer(rows, read, partial(_gone, request))
        for row in answers:
            for task in row:
                metrics.count_answers(task, 1)
        return reading, answers

    @app.post("/v1/classify")
    @app.post("/classify")
    async def classify(form: Classify, request: Request) -> Response:
        rows = [form.input] if isinstance(form.input, str) else form.input

        def read(tasks: TaskSet) -> Reading:
            head = _task(tasks, form.model).head
            if head.kind != "classification":
                raise RefusedError(
                    400, f"task {head.name!r} is of kind {head.kind}, which has no class; ask /v1/predict."
                )
            return read_tasks(tasks, rows, form.model, Answers())

        reading, answers = await ask(request, rows, read)
        data = []
        for index, row in enumerate(answers):
            answer = row[form.model]
            probs = list(answer["probabilities"].values())
            data.append({"index": index, "label": answer["label"], "probs": probs, "num_classes": len(probs)})
        return Json(
            {
                "id": f"classify-{uuid.uuid4().hex}",
                "object": "list",
                "created": int(time.time()),
                "model": form.model,
                "data": data,
                "usage": _usage(reading),
            }
        )

    @app.post("/v1/predict")
    async def predict(form: Predict, request: Request) -> Response:
        answers = Answers(top=form.top, digits=form.digits)
        read = partial(read_tasks, rows=form.rows, task=form.task, answers=answers)
        reading, found = await ask(request, form.rows, read)
        return Json({"answers": [next(iter(row.values())) for row in found], "usage": _usage(reading)})

    @app.post("/v1/predict_all")
    async def predict_all(form: PredictAll, request: Request) -> Response:
        answers = Answers(top=form.top, digits=form.digits)
        read = partial(read_all, rows=form.rows, names=form.tasks, answers=answers)
        reading, found = await ask(request, form.rows, read)
        rows = [
            {"answers": answer, "skipped": row.skipped}
            for answer, row in zip(found, reading.rows, strict=True)
        ]
        return Json({"answers": rows, "usage": _usage(reading)})

    if available():

        @app.post("/v1/systemone")
        async def systemone(form: SystemOne, request: Request) -> Response:
            if form.model != ALL:
                raise RefusedError(404, f"unknown model {shown(form.model)}; all tasks together are {ALL!r}.")
            if form.assets:
                raise RefusedError(422, "assets are given, but the tasks read texts alone.")
            questions: dict[str, Any] = {}

            def read(tasks: TaskSet) -> Reading:
                check_row(form.state, 1)
                for name, question in form.questions.items():
                    head = _task(tasks, name).head
                    questions[name] = typed(name, question, head)
                    if lack := lacking(form.state, head):
                        raise RefusedError(422, f"question {name!r}: the state has {lack}.")
                return read_all(tasks, [form.state], list(questions), Answers())

            reading, (found,) = await ask(request, [form.state], read)
            said = {name: typed_answer(question, found[name]) for name, question in questions.items()}
            usage = {"input_tokens": reading.tokens, "output_tokens": 0}
            return Json({"model": form.model, "answers": said, "usage": usage})

    @app.get("/v1/models")
    async def models() -> Response:
        data = [_described(name, task, began) for name, task in service.tasks.tasks.items()]
        return Json({"object": "list", "data": data})

    @app.get("/v1/structure")
    async def structure() -> Response:
        return Json(await anyio.to_thread.run_sync(_structures, service.tasks))

    @app.get("/health")
    async def health() -> Response:
        if service.engine.fault is not None:
            return refusal(503, "the engine is dead.")
        if service.engine.busy_for > STUCK * service.limits.timeout:
            return refusal(503, f"a pass has not ended for {service.engine.busy_for:.0f} s.")
        return Json({"status": "ok", "tasks": len(service.tasks.tasks)})

    @app.get("/metrics")
    async def measured() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/")
    async def page() -> Response:
        text = files("graftwork.serving.web").joinpath("page/index.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"content-security-policy": POLICY})

    if service.models is not None and key:

        @app.post("/v1/load_task")
        async def load_task(form: LoadTask, request: Request) -> Response:
            _check_key(request, key)
            part = await service.load(form.folder)
            return Json({"folder": part.name, "loaded": part.offered})

        @app.post("/v1/unload_task")
        async def unload_task(form: UnloadTask, request: Request) -> Response:
            _check_key(request, key)
            await service.unload(form.task)
            return Json({"unloaded": form.task})

    return app


def _refuse_in_one_line(app: FastAPI) -> None:
    """Make every error of a request its status and one line."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        return refusal(error.status, str(error))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return refusal(400, validation_line(error.errors()))

    async def plain(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return refusal(error.status_code, f"{request.url.path}: {error.detail}.", dict(error.headers or {}))

    async def busy(request: Request, error: Exception) -> Response:
        assert isinstance(error, BusyError)
        return refusal(429, str(error), {"retry-after": str(error.after)})

    async def broken(request: Request, error: Exception) -> Response:
        return refusal(500, "a fault of the server; its log says more.")

    def of(status: int) -> Callable[[Request, Exception], Any]:
        async def answered(request: Request, error: Exception) -> Response:
            return refusal(status, str(error))

        return answered

    for kind, handler in (
        (RefusedError, refused),
        (RequestValidationError, invalid),
        (HTTPException, plain),
        (BusyError, busy),
        (ClosedError, of(503)),
        (UnknownTaskError, of(404)),
        (DataError, of(400)),
        (Exception, broken),
    ):
        app.add_exception_handler(kind, handler)


async def _gone(request: Request) -> None:
    """End when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _task(tasks: TaskSet, name: str) -> Served:
    if name not in tasks.tasks:
        raise UnknownTaskError(f"unknown model {shown(name)}; a model is a task: {', '.join(tasks.tasks)}.")
    return tasks.tasks[name]


def _check_key(request: Request, key: str) -> None:
    given = request.headers.get("authorization", "")
    if not hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
        raise RefusedError(401, "loading and unloading need the header Authorization: Bearer KEY.")


def _usage(reading: Reading) -> dict[str, Any]:
    return {
        "prompt_tokens": reading.tokens,
        "total_tokens": reading.tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
    }


def _described(name: str, task: Served, created: int) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "graftwork",
        "kind": task.head.kind,
        "text": list(task.head.text),
        "fields": list(task.head.fields),
        "labels": list(task.head.labels),
        "folder": Path(task.part.name).name,
    }


def _structures(tasks: TaskSet) -> dict[str, Any]:
    """The paths of all tasks, one map for each model whose tasks share passes."""
    maps = []
    for group in tasks.groups:
        found, names = group.structure, [name for name, task in tasks.tasks.items() if task.group is group]
        sites = [] if found is None else list(found.sites.items())
        rows = {} if found is None else {name: found.tasks.index(name) for name in names}
        maps.append(
            {
                "tasks": names,
                "price": round(group.price, 2),
                "sites": [
                    {
                        "name": name,
                        "stored": site.pool_size,
                        "open": {
                            task: [k for k, gate in enumerate(site.open[row]) if gate]
                            for task, row in rows.items()
                        },
                    }
                    for name, site in sites
                ],
            }
        )
    return {"groups": maps}
