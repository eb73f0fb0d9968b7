"""Where hooks say that something was pushed. Owns the HTTP server of the hints.

Rules that must hold: nothing is parsed before its signature was compared in constant time; a hint is durable in the
inbox before the 202; whoever cannot sign learns nothing, not even which repositories are watched.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping

from aiohttp import web

from towline.bus.port import BusDown
from towline.delivery.model import Source
from towline_git_watcher import secret
from towline_git_watcher.messages import RefsHinted
from towline_git_watcher.watch import stopped

log = logging.getLogger(__name__)
MAX_BYTES = 64 * 1024
TRY_AGAIN_SECONDS = 5.0
_NOBODY = "0" * 64


class Receiver:
    def __init__(self, listen: str | None, keys: Mapping[str, str]) -> None:
        """`keys`: repository → its key."""
        self._listen = listen
        self._keys = keys
        self._source: Source | None = None
        self.address: tuple[str, int] | None = None
        """Where it listens, once `started`; None when it does not."""
        self.started = asyncio.Event()
        self.waits: str | None = None
        if listen is None:
            self.started.set()

    async def run(self, source: Source, stopping: asyncio.Event) -> None:
        if self._listen is None:
            await stopping.wait()
            return
        self._source = source
        app = web.Application(client_max_size=MAX_BYTES)
        app.router.add_post("/hints/plain", self._hint)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            while not stopping.is_set() and not await self._listening(runner, self._listen):
                await stopped(stopping, TRY_AGAIN_SECONDS)
            await stopping.wait()
        finally:
            await runner.cleanup()

    async def _listening(self, runner: web.AppRunner, listen: str) -> bool:
        host, _, port = listen.rpartition(":")
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except OSError as error:
            if self.waits is None:
                self.waits = f"cannot listen on {listen} for hints ({error.strerror}); until it can, polling has to do"
                log.warning("the receiver cannot listen; trying again", extra={"why": self.waits})
            return False
        self.waits = None
        self.address = runner.addresses[0][:2]
        self.started.set()
        return True

    async def _hint(self, request: web.Request) -> web.Response:
        repo = request.headers.get("X-Towline-Repository", "")
        given = request.headers.get("X-Towline-Signature", "").removeprefix("sha256=")
        body = await request.read()  # over MAX_BYTES: 413
        wanted = secret.hint_signature(self._keys.get(repo, _NOBODY), repo, body)
        if not secret.same(wanted, given) or repo not in self._keys:
            return web.Response(status=401, text="the signature does not fit\n")
        assert self._source is not None
        basis = f"hook {hashlib.sha256(body).hexdigest()}"
        try:
            await self._source.emit(repo, basis, RefsHinted(repo=repo, by="hook"))
        except BusDown:
            return web.Response(status=503, text="the bus does not answer; the push is seen by the next poll\n")
        return web.Response(status=202, text="noted\n")
