"""What stands before the application: bodies are read within a size and a time, and requests counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from time import monotonic
from typing import TYPE_CHECKING

from graftwork.serving.web.forms import refusal

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Door"]


class Door:
    """An ASGI application around another one.

    Args:
        app: the application.
        body: largest body, in bytes.
        seconds: within which a body has to be there.
        paths: names that are counted; others count as `other`, so that nobody can make up names without end.
        count: told path, status and beginning of every request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        body: int,
        seconds: float,
        paths: Collection[str],
        count: Callable[[str, int, float], None],
    ) -> None:
        self.app = app
        self._body, self._seconds = body, seconds
        self._paths, self._count = paths, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = monotonic(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            body = await self._read(scope, receive)
            if isinstance(body, bytes):
                await self.app(scope, _again(body, receive), counted)
            else:
                status, line = body
                await refusal(status, line, {"connection": "close"})(scope, receive, counted)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._count(path, status, began)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | tuple[int, str]:
        """The body, or why it is not taken."""
        too_large = (413, f"the body has more than {self._body:,} bytes; send fewer rows at a time.")
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if said.isdigit() and int(said) > self._body:
            return too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return 400, "the connection was closed before the body had come."
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._body:
                        return too_large
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            return 408, f"the body was not there within {self._seconds:g} s."


def _again(body: bytes, receive: Receive) -> Receive:
    """Hands out a body that was read, then whatever comes."""
    given = False

    async def handing() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return handing
