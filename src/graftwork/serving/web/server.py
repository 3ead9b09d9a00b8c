"""The server: one process that listens, answers, and ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from graftwork.errors import ServingError
from graftwork.models.files import Loading
from graftwork.serving.backbones import Backbones
from graftwork.serving.engine import Engine
from graftwork.serving.limits import Limits
from graftwork.serving.service import Service, load_tasks
from graftwork.serving.tasks import TaskSet
from graftwork.serving.web.app import make_app
from graftwork.serving.web.door import Door
from graftwork.serving.web.metrics import Metrics

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["KEY", "serve"]

KEY = "GRAFTWORK_API_KEY"
"""Environment variable of the key for loading and unloading."""
CONNECTIONS = 2048
"""Open connections, each of which may hold one body; more get 503."""
GRACE = 2.0
"""Seconds that connections have to close after the last request that may be answered."""


class _Server(uvicorn.Server):
    """Says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()


def serve(
    folders: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    models: Path | None = None,
    loading: Loading | None = None,
    ready: Callable[[str], None] = lambda line: None,
    load: Callable[[Sequence[Path], Loading], tuple[TaskSet, Backbones]] = load_tasks,
) -> BaseException | None:
    """Serve the tasks of model folders until SIGTERM or Ctrl-C; what was let in is answered.

    Args:
        folders: written by `graftwork fit`, or `user/model` on the hub.
        host: address to listen at.
        port: to listen at; 0: any that is free.
        limits: what is taken on.
        models: the folder below which more models may be loaded by who has the key in `GRAFTWORK_API_KEY`.
        loading: where the parts of the models are now.
        ready: told the address and the tasks, once the server listens.
        load: gives the tasks of the folders, and what they stand on.

    Returns:
        Why the engine died; None if the server ended because it was told to.

    Raises:
        ServingError: the address cannot be had, or `models` is no folder or has no key.
        ConfigError: two folders have a task of the same name.
        CheckpointError: a folder is no complete model, or belongs to another backbone.
        RecipeError: a backbone or tokenizer cannot be found or read.
    """
    limits = limits or Limits()
    key = _key(models)
    listening = _listen(host, port)
    try:
        tasks, backbones = load(folders, loading or {})
        metrics = Metrics()
        engine = Engine(limits, on_death=lambda error: _end(servers), on_pass=metrics.count_pass)
        service = Service(tasks, backbones, engine, models)
        metrics.watch(lambda: engine.rows, lambda: len(service.tasks.tasks), lambda: engine.fault is None)
        app = make_app(service, metrics, key)
        paths = {path for route in app.routes if isinstance(path := getattr(route, "path", None), str)}
        door = Door(app, body=limits.body, seconds=limits.timeout, paths=paths, count=metrics.count_request)
        address = f"http://{_shown(listening)}"
        said = f"{len(tasks.tasks)} tasks ({', '.join(tasks.tasks)}) at {address}"
        server = _Server(_config(door, limits), lambda: ready(said))
        servers = [server]
        engine.start()
        _run(server, listening)
        service.close()
    finally:
        listening.close()
    return engine.fault


def _key(models: Path | None) -> str | None:
    if models is None:
        return None
    if not models.is_dir():
        raise ServingError(f"--models {models} is no folder; give the one below which models lie.")
    key = os.environ.get(KEY)
    if not key:
        raise ServingError(
            f"--models lets others change what is served, and needs a key: set {KEY} in the environment."
        )
    return key


def _listen(host: str, port: int) -> socket.socket:
    """A socket at an address.

    Raises:
        ServingError: the address is not of this machine, or the port is taken or no port.
    """
    if not 0 <= port < 2**16:
        raise ServingError(f"port {port} is none; give one from 1 to 65535, or 0 for any that is free.")
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise ServingError(f"cannot listen at {host}, port {port} ({error.strerror or error}).") from error
    return found


def _shown(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _config(app: ASGIApp, limits: Limits) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        limit_concurrency=CONNECTIONS,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=int(2 * limits.timeout + GRACE) + 1,
    )


def _run(server: _Server, listening: socket.socket) -> None:
    """Run until told to end. uvicorn drains after SIGTERM, and then raises it anew: no clean end."""
    before = signal.signal(signal.SIGTERM, lambda *given: None)
    try:
        asyncio.run(server.serve(sockets=[listening]))
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(servers: Sequence[uvicorn.Server]) -> None:
    for server in servers:
        server.should_exit = True
