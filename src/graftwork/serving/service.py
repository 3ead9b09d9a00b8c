"""What the server does, without HTTP: answer requests within limits, and change which tasks are served."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from graftwork.errors import ConfigError, DataError, GraftworkError
from graftwork.messages import shown
from graftwork.models.files import Loading
from graftwork.serving.asking import Reading, characters
from graftwork.serving.backbones import Backbones
from graftwork.serving.engine import Engine
from graftwork.serving.limits import Limits
from graftwork.serving.tasks import Part, TaskSet, load_part

__all__ = ["RefusedError", "Service", "load_tasks"]


class RefusedError(Exception):
    """A request that is answered by its status and one line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def load_tasks(folders: Sequence[Path], loading: Loading) -> tuple[TaskSet, Backbones]:
    """The tasks of some model folders.

    Raises:
        ConfigError: two folders have a task of the same name.
        CheckpointError: a folder is no complete model, or belongs to another backbone.
        RecipeError: a backbone or tokenizer cannot be found or read.
    """
    backbones = Backbones(unchecked=loading.get("backbone_unchecked", False))
    return TaskSet([load_part(folder, backbones, **loading) for folder in folders], backbones), backbones


class Service:
    """Answers requests for the tasks that are served.

    Args:
        tasks: that are served at the start.
        backbones: what they stand on.
        engine: not started yet.
        models: the folder below which models may be loaded; None: the tasks stay as they are.
    """

    def __init__(
        self, tasks: TaskSet, backbones: Backbones, engine: Engine, models: Path | None = None
    ) -> None:
        self.tasks = tasks
        self.engine = engine
        self.models = models
        self._backbones = backbones
        # A tokenizer cannot be used by two threads at a time.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="graftwork-reader")
        self._changing = asyncio.Lock()

    @property
    def limits(self) -> Limits:
        """What is taken on."""
        return self.engine.limits

    def close(self) -> None:
        """Answer what was let in, and end."""
        self.engine.stop(self.limits.timeout)
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def answer(
        self,
        rows: Sequence[Any],
        read: Callable[[TaskSet], Reading],
        gone: Callable[[], Awaitable[None]],
    ) -> tuple[Reading, list[dict[str, Any]]]:
        """The answers to every row, by task.

        Args:
            rows: of the request.
            read: makes questions of them.
            gone: ends when who asked has gone; the request is then forgotten.

        Raises:
            RefusedError: the request has no rows or is too large, was not answered in time, or outputs are no
                numbers.
            BusyError: the queue is full.
            ClosedError: the server is ending.
            UnknownTaskError: no such task is served.
            DataError: a row cannot be read.
        """
        self._check(rows)
        job = self.engine.admit(len(rows))
        try:
            async with asyncio.timeout(self.limits.timeout):
                loop = asyncio.get_running_loop()
                reading = await loop.run_in_executor(self._reader, read, self.tasks)
                self.engine.put(job, reading.questions)
                said = asyncio.wrap_future(job.future)
                left = asyncio.ensure_future(gone())
                both: set[asyncio.Future[Any]] = {said, left}
                try:
                    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    left.cancel()
                if not said.done():
                    raise RefusedError(499, "who asked has gone.")
                outputs = await said
                try:
                    return reading, await asyncio.to_thread(reading.described, outputs)
                except DataError as error:
                    raise RefusedError(500, str(error)) from error
        except TimeoutError:
            raise RefusedError(
                504, f"not answered within {self.limits.timeout:g} s; try again, or send fewer rows."
            ) from None
        finally:
            job.future.cancel()

    def _check(self, rows: Sequence[Any]) -> None:
        if not rows:
            raise RefusedError(400, "the request has no rows; give at least one.")
        if len(rows) > self.limits.rows:
            raise RefusedError(
                413,
                f"the request has {len(rows)} rows; give at most {self.limits.rows}, in several requests.",
            )
        for number, row in enumerate(rows, 1):
            if (size := characters(row)) > self.limits.characters:
                raise RefusedError(
                    413, f"row {number} has {size:,} characters; give at most {self.limits.characters:,}."
                )

    async def load(self, folder: str) -> Part:
        """Serve the tasks of one more model; requests that are in are answered by the old set.

        Raises:
            RefusedError: there is no such folder below that of models, it is no model, or one of its tasks
                has a name that is taken.
        """
        async with self._changing:
            place = self._place(folder)
            try:
                part, tasks = await asyncio.to_thread(self._with, place, folder)
            except ConfigError as error:
                raise RefusedError(409, str(error)) from error
            except GraftworkError as error:
                raise RefusedError(400, str(error)) from error
            self.tasks = tasks
        return part

    def _with(self, place: Path, name: str) -> tuple[Part, TaskSet]:
        try:
            part = load_part(place, self._backbones, name)
            return part, self.tasks.with_part(part)
        except GraftworkError:
            self.tasks.forget_others()
            raise

    def _place(self, folder: str) -> Path:
        assert self.models is not None
        root = self.models.resolve()
        try:
            place = (root / folder).resolve()
            inside = place.is_relative_to(root) and place.is_dir()
        except (OSError, ValueError):
            inside = False
        if not inside:
            raise RefusedError(404, f"there is no folder {shown(folder)} below that of --models.")
        return place

    async def unload(self, task: str) -> None:
        """Take a task out of what is served.

        Raises:
            RefusedError: it is not served.
        """
        async with self._changing:
            try:
                self.tasks = await asyncio.to_thread(self.tasks.without, task)
            except ConfigError as error:
                raise RefusedError(404, str(error)) from error
