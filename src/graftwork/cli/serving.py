"""The command `serve`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from graftwork.cli.opening import Opening

__all__ = ["serve"]

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
"""Modules of the extra `serve`."""


def serve(
    folders: list[Path],
    *,
    opening: Opening,
    host: str = "127.0.0.1",
    port: int = 8000,
    models: Path | None = None,
    batch_rows: int = 64,
    batch_tokens: int = 8192,
    wait: float = 0.002,
    queue: int = 1024,
    rows: int = 256,
    characters: int = 100_000,
    body: int = 2**20,
    timeout: float = 30.0,
) -> None:
    """Answer the tasks of one or several models over HTTP; models on one backbone share it, and batches.

    Args:
        folders: Written by `graftwork fit`, or USER/MODEL on the hub.
        opening: Where its parts are now.
        host: Address to listen at; 0.0.0.0 is open to everybody who can reach this machine.
        port: To listen at; 0 is any that is free.
        models: Let who has the key in GRAFTWORK_API_KEY load models below this folder, and unload tasks.
        batch_rows: Rows of one pass.
        batch_tokens: Tokens of one pass, padding included.
        wait: Seconds for which a row waits for others while nothing is running.
        queue: Rows that are in at a time; more get 429.
        rows: Rows of one request.
        characters: Characters of one row.
        body: Bytes of one request.
        timeout: Seconds within which a request is answered.
    """
    from graftwork.errors import ServingError

    missing = [name.replace("_", "-") for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ServingError(f"serving needs {', '.join(missing)}; run: pip install 'graftwork[serve]'")
    from graftwork.models.files import Loading
    from graftwork.serving.limits import Limits
    from graftwork.serving.web.server import serve as run

    limits = Limits(
        batch_rows=batch_rows,
        batch_tokens=batch_tokens,
        wait=wait,
        queue=queue,
        rows=rows,
        characters=characters,
        body=body,
        timeout=timeout,
    )
    fault = run(
        folders,
        host=host,
        port=port,
        limits=limits,
        models=models,
        loading=Loading(**opening),
        ready=lambda said: print(f"serving {said}", flush=True),
    )
    if fault is not None:
        print(f"graftwork: the engine has died ({fault}).", file=sys.stderr)
        sys.exit(1)
