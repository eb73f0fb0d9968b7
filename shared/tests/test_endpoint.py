"""The small HTTP server of a process: its pages, and what a stranger can do to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from towline.telemetry.endpoint import LONGEST_HEAD, MOST_CONNECTIONS, Endpoint, Page


async def hello() -> Page:
    return Page.text("hello\n")


async def broken() -> Page:
    raise RuntimeError("a bug")


@asynccontextmanager
async def served(*, lives: float = 10.0) -> AsyncIterator[tuple[str, int]]:
    endpoint = Endpoint({"/hello": hello, "/broken": broken}, lives=lives)
    address = await endpoint.open("127.0.0.1", 0)
    try:
        yield address
    finally:
        await endpoint.close()


async def said(address: tuple[str, int], request: bytes) -> bytes:
    """All that is answered, until the server closes the connection."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(request)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        ("GET /hello HTTP/1.1", "200 OK", "hello\n"),
        ("GET /hello?verbose=1 HTTP/1.0", "200 OK", "hello\n"),
        ("HEAD /hello HTTP/1.1", "200 OK", ""),
        ("GET /else HTTP/1.1", "404 Not Found", "there is /hello /broken\n"),
        ("HEAD /else HTTP/1.1", "404 Not Found", ""),
        ("POST /hello HTTP/1.1", "405 Method Not Allowed", "only GET and HEAD\n"),
        ("GET /broken HTTP/1.1", "500 Internal Server Error", "a bug; see the log\n"),
        ("hello", "400 Bad Request", "this is no HTTP request\n"),
        ("GET hello HTTP/1.1", "400 Bad Request", "this is no HTTP request\n"),
    ],
)
async def test_it_answers_what_it_is_asked(request_line: str, status: str, body: str) -> None:
    async with served() as address:
        answer = (await said(address, f"{request_line}\r\nHost: x\r\n\r\n".encode())).decode()
    head, _, got = answer.partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status}\r\n")
    assert got == body
    assert "Connection: close" in head


async def test_a_head_that_is_too_long_is_refused() -> None:
    async with served() as address:
        assert b" 400 " in await said(address, b"GET /hello HTTP/1.1\r\nX: " + b"x" * 3 * LONGEST_HEAD + b"\r\n\r\n")


@pytest.mark.parametrize("sent", [b"", b"GET /hello HTTP/1.1\r\nHost:"], ids=["nothing", "half a head"])
async def test_who_does_not_finish_a_request_is_cut_off(sent: bytes) -> None:
    async with served(lives=0.05) as address:
        assert await asyncio.wait_for(said(address, sent), 10) == b""


async def test_who_holds_many_connections_gets_no_more_and_others_are_served_after_them() -> None:
    async with served() as address:
        held = [await asyncio.open_connection(*address) for _ in range(MOST_CONNECTIONS)]
        assert await asyncio.wait_for(said(address, b""), 10) == b""
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        while not (answer := await said(address, b"GET /hello HTTP/1.1\r\n\r\n")):
            """Their ends were not seen yet."""
        assert answer.endswith(b"hello\n")


async def test_closing_it_ends_the_connections_that_are_held() -> None:
    async with asyncio.timeout(10):
        async with served() as address:
            reader, writer = await asyncio.open_connection(*address)
            await said(address, b"GET /hello HTTP/1.1\r\n\r\n")
        with_nothing = await _rest(reader)
        writer.close()
    assert with_nothing == b""


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_no_bytes_break_it(request: bytes) -> None:
    async def ask() -> bytes:
        async with served() as address:
            await said(address, request + b"\r\n\r\n")
            return await said(address, b"GET /hello HTTP/1.1\r\n\r\n")

    assert asyncio.run(ask()).endswith(b"hello\n")
