"""Who has gone is not answered, and a body that does not come is not waited for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from graftwork.kinds.answers import Answers
from graftwork.serving.asking import read_tasks
from graftwork.serving.engine import Engine
from graftwork.serving.limits import Limits
from graftwork.serving.service import RefusedError, Service, load_tasks
from graftwork.serving.web.door import Door
from toy_served import TRUE, write_served
from toyrun import write_backbone


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    folder = write_served(tmp_path / "one", write_backbone(tmp_path / "backbone"), [TRUE])
    service = Service(*load_tasks([folder], {}), Engine(Limits()))
    yield service
    service.engine.start()
    service.close()


def test_who_has_gone_leaves_the_queue(service: Service) -> None:
    """The engine is not started, so that the request can only end because its client has gone."""

    async def gone() -> None:
        while not service.engine._waiting:
            await asyncio.sleep(0.001)

    read = partial(read_tasks, rows=["red"] * 3, task="true", answers=Answers())
    with pytest.raises(RefusedError, match="gone") as refused:
        asyncio.run(service.answer(["red"] * 3, read, gone))
    assert refused.value.status == 499
    assert service.engine.rows == 0


def through_the_door(messages: list[dict[str, Any]], headers: list[tuple[bytes, bytes]] | None = None) -> Any:
    """What is sent back, what the application has read, and what was counted."""
    sent: list[dict[str, Any]] = []
    read: list[bytes] = []
    counted: list[tuple[str, int]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        read.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.sleep(60)
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    door = Door(
        app, body=10, seconds=0.05, paths={"/a"}, count=lambda path, status, _: counted.append((path, status))
    )
    scope = {"type": "http", "method": "POST", "path": "/a", "headers": headers or []}
    asyncio.run(door(scope, receive, send))
    return sent, read, counted


def part(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_in_parts_is_one() -> None:
    _, read, counted = through_the_door([part(b"12345", True), part(b"67890")])
    assert read == [b"1234567890"]
    assert counted == [("/a", 200)]


@pytest.mark.parametrize(
    ("messages", "headers", "status", "message"),
    [
        ([part(b"123456", True), part(b"78901")], [], 413, "more than 10 bytes"),
        ([], [(b"content-length", b"11")], 413, "more than 10 bytes"),
        ([part(b"1", True)], [], 408, "not there within 0.05 s"),
        ([part(b"1", True), {"type": "http.disconnect"}], [], 400, "closed before"),
    ],
)
def test_a_body_that_is_too_large_or_too_slow_is_refused(
    messages: list[dict[str, Any]], headers: list[tuple[bytes, bytes]], status: int, message: str
) -> None:
    sent, read, counted = through_the_door(messages, headers)
    assert sent[0]["status"] == status
    assert message in json.loads(sent[1]["body"])["error"]["message"]
    assert read == []
    assert counted == [("/a", status)]
