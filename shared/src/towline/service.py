"""One process of Towline: start, ready, drain, stop, for one service or for all of them.

`/healthz` says that the process lives, `/readyz` that every service could work (and if not, in one sentence each,
why), `/metrics` is for Prometheus. SIGTERM and SIGINT drain: sources stop, turns finish, offsets are committed;
effects that still run are begun again by the next start.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

from towline import flow
from towline.bus.port import Bus
from towline.delivery.model import Service
from towline.delivery.runtime import Runtime
from towline.delivery.watchdog import Watchdog
from towline.errors import BadInput
from towline.telemetry import metrics, trace
from towline.telemetry.endpoint import Endpoint, Page

log = logging.getLogger(__name__)


class Process:
    """Runs services on one bus until `stop`, a signal, or the end of one of them by a bug."""

    def __init__(
        self,
        services: Sequence[Service[Any]],
        bus: Bus,
        *,
        listen: tuple[str, int] | None = None,
        ready: Callable[[], str | None] | None = None,
        member: str = "0",
        watchdog: bool = False,
    ) -> None:
        """`ready` says what the process waits for besides its services, None for nothing.

        `member` names it among the processes that run the same services; each needs a name of its own, kept over
        its restarts. `watchdog` ends the process when it stops to work (see delivery.watchdog).
        """
        self._bus = bus
        self._listen = listen
        self._ready = ready
        self.runtimes = [Runtime(service, bus, member=member) for service in services]
        self._watchdog = Watchdog(self.runtimes) if watchdog else None
        self._stop = asyncio.Event()
        self.address: tuple[str, int] | None = None
        """Where health and metrics are served, once started."""

    async def run(self, *, signals: bool = True) -> None:
        if signals:
            loop = asyncio.get_running_loop()
            for name in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(name, self._stop.set)
        trace.use_global()
        await self._bus.ensure(flow.topics(runtime.service.name for runtime in self.runtimes))
        server = await self._serve()
        for runtime in self.runtimes:
            metrics.watch(runtime.service.name, runtime.observer.standing)
        watching = asyncio.create_task(self._watchdog.run()) if self._watchdog is not None else None
        running = [asyncio.create_task(runtime.run(), name=runtime.service.name) for runtime in self.runtimes]
        try:
            await self._until_stopped(running)
        finally:
            for runtime in self.runtimes:
                runtime.stop()
                metrics.unwatch(runtime.service.name)
            results = await asyncio.gather(*running, return_exceptions=True)
            if watching is not None:
                watching.cancel()
            if server is not None:
                await server.close()
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def stop(self) -> None:
        self._stop.set()

    async def started(self) -> None:
        """Returns when every service has loaded its state and reads its topics."""
        await asyncio.gather(*(runtime.started.wait() for runtime in self.runtimes))

    def waits(self) -> list[str]:
        """What keeps this process from being ready, one sentence each; empty means ready."""
        said = []
        for runtime in self.runtimes:
            if (reason := runtime.waits()) is not None:
                said.append(f"{runtime.service.name}: {reason}")
        if self._ready is not None and (reason := self._ready()) is not None:
            said.append(reason)
        return said

    def delays(self) -> list[str]:
        """What is outside and tried in vain, one sentence each. It holds up what needs it, and no readiness."""
        return [f"{runtime.service.name}: {said}" for runtime in self.runtimes for said in runtime.delays()]

    async def _until_stopped(self, running: Sequence[asyncio.Task[None]]) -> None:
        stop = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait((stop, *running), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        for task in done - {stop}:
            log.error("a service ended by itself", extra={"service": task.get_name()})

    async def _serve(self) -> Endpoint | None:
        if self._listen is None:
            return None
        endpoint = Endpoint({"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics})
        try:
            self.address = await endpoint.open(*self._listen)
        except OSError as error:
            host, port = self._listen
            known = error.errno is not None and error.errno > 0  # else the name was not resolved
            said = os.strerror(error.errno or 0) if known else error.strerror
            raise BadInput(f"cannot listen on {host}:{port} ({said}); set `listen` otherwise") from None
        return endpoint

    async def _healthz(self) -> Page:
        return Page.text("ok\n")

    async def _readyz(self) -> Page:
        waits = self.waits()
        lines = (*(waits or ["ok"]), *self.delays())
        status = HTTPStatus.SERVICE_UNAVAILABLE if waits else HTTPStatus.OK
        return Page.text("".join(f"{line}\n" for line in lines), status)

    async def _metrics(self) -> Page:
        await asyncio.gather(*(runtime.observer.look() for runtime in self.runtimes))
        return Page(metrics.exposition(), content_type=metrics.CONTENT_TYPE)
