"""Owns the receiver of the tests: a real HTTP server on loopback that records what it gets and answers as told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """`answers` are used up one by one; then every request gets 200 `ok`."""

    url: str = ""
    port: int = 0
    requests: list[Received] = field(default_factory=list)
    answers: list[web.Response] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    silent: bool = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        async with self.arrived:
            self.requests.append(Received(request.path, headers, await request.read()))
            self.arrived.notify_all()
        if self.silent:
            await asyncio.Event().wait()
        return self.answers.pop(0) if self.answers else web.Response(text="ok")

    async def wait_for(self, count: int, timeout: float = 10.0) -> list[Received]:
        async with asyncio.timeout(timeout), self.arrived:
            await self.arrived.wait_for(lambda: len(self.requests) >= count)
        return self.requests


StartReceiver = Callable[..., Awaitable[Receiver]]


@asynccontextmanager
async def _listening(host: str, port: int, tls: ssl.SSLContext | None) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, port, ssl_context=tls)
    await site.start()
    receiver.port = runner.addresses[0][1]
    receiver.url = f"{'https' if tls else 'http'}://{host}:{receiver.port}/hook/s3cr3t-path?token=s3cr3t-query"
    try:
        yield receiver
    finally:
        await runner.cleanup()


@pytest.fixture
async def start_receiver() -> AsyncIterator[StartReceiver]:
    async with AsyncExitStack() as stack:

        async def start(host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> Receiver:
            return await stack.enter_async_context(_listening(host, port, tls))

        yield start


@pytest.fixture
async def receiver(start_receiver: StartReceiver) -> Receiver:
    return await start_receiver()
