"""The ways in that no event caused: receivers in every member, watches only where partition 0 of the inbox is held.

Rules that must hold:

- A source that ends before it was told to, by an error or without one, is begun again with back-off: without it the
  service would be deaf.
- A watch looks at the world for the whole group, so one member runs it: it begins with partition 0 and ends with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Any

from towline.delivery.model import Source, SourceRun
from towline.delivery.retry import backoff
from towline.errors import Retryable

log = logging.getLogger(__name__)
WATCHES_FROM = 0
"""The partition whose owner watches."""

_ASKED = 0.7
"""Share of the time to stop that a source has before it is cancelled."""

Fail = Callable[[BaseException], None]


class Runs:
    """Sources that run together, until they are stopped together."""

    def __init__(self, service: str, source: Source, runs: Iterable[SourceRun], fail: Fail) -> None:
        self._service = service
        self._source = source
        self._runs = tuple(runs)
        self._fail = fail
        self._stopping: asyncio.Event | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Nothing happens when they run already."""
        if self._stopping is not None:
            return
        self._stopping = stopping = asyncio.Event()
        self._tasks = [asyncio.create_task(self._run(run, stopping)) for run in self._runs]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def stop(self, seconds: float) -> None:
        """Ask them to end, end them when most of the time has passed, and leave them when all of it has."""
        if self._stopping is None:
            return
        self._stopping.set()
        tasks, self._tasks, self._stopping = self._tasks, [], None
        if tasks:
            await asyncio.wait(tasks, timeout=max(0.0, seconds) * _ASKED)
        await cancelled(tasks, max(0.0, seconds) * (1 - _ASKED))
        if any(not task.done() for task in tasks):
            log.warning("a source does not end when told to", extra={"service": self._service})

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    async def _run(self, run: SourceRun, stopping: asyncio.Event) -> None:
        tries = 0
        while not stopping.is_set():
            tries += 1
            extra = {"service": self._service, "tries": tries}
            try:
                await run(self._source, stopping)
                if stopping.is_set():
                    return
                log.warning("a source ended early and begins again", extra=extra)
            except Retryable as error:
                log.warning("a source begins again", extra={**extra, "error": str(error)})
            except Exception as error:
                log.exception("a source ended by a bug", extra={**extra, "error": str(error)})
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff(tries, self._service)):
                    await stopping.wait()


async def cancelled(tasks: Collection[asyncio.Task[Any]], seconds: float | None = None) -> None:
    """Cancel them all and wait for their end, for ever or for `seconds`."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=seconds)
