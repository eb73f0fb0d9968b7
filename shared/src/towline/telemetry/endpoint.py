"""The small HTTP server of a process: a few pages for probes, Prometheus and people, and nothing else.

It answers GET and HEAD, one request per connection, and is bounded in all that a stranger could make it hold: how many
connections there are, how long a request's head is, and how long a connection lives from its first byte to its last.
A general server has no limit on the time that a head takes, which is what a slow client would use up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

log = logging.getLogger(__name__)
MOST_CONNECTIONS = 64
LONGEST_HEAD = 8 * 1024
LIVES_SECONDS = 10.0
"""A connection, whatever its client does; a page that takes longer is not sent."""


@dataclass(frozen=True, slots=True)
class Page:
    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"

    @classmethod
    def text(cls, text: str, status: HTTPStatus = HTTPStatus.OK) -> Page:
        return cls(text.encode(), status)


Pages = Mapping[str, Callable[[], Awaitable[Page]]]
"""Path → how the page is made."""


class Endpoint:
    def __init__(self, pages: Pages, *, lives: float = LIVES_SECONDS) -> None:
        self._pages = pages
        self._lives = lives
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the address, where `port` 0 takes a free one. Raises OSError."""
        self._server = await asyncio.start_server(self._connected, host, port, limit=LONGEST_HEAD)
        address: tuple[str, int] = self._server.sockets[0].getsockname()[:2]
        return address

    async def close(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MOST_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._lives):
                method, page = await self._answer(await _head(reader))
                writer.write(_written(page, with_body=method != "HEAD"))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            return  # slow, gone, or said nothing: nobody waits for an answer
        finally:
            writer.transport.abort()

    async def _answer(self, head: bytes | None) -> tuple[str, Page]:
        method, path = ("", "") if head is None else _request(head)
        if not path:
            return method, Page.text("this is no HTTP request\n", HTTPStatus.BAD_REQUEST)
        if method not in ("GET", "HEAD"):
            return method, Page.text("only GET and HEAD\n", HTTPStatus.METHOD_NOT_ALLOWED)
        make = self._pages.get(path)
        if make is None:
            return method, Page.text(f"there is {' '.join(self._pages)}\n", HTTPStatus.NOT_FOUND)
        try:
            return method, await make()
        except Exception:
            log.exception("a page cannot be made", extra={"path": path})
            return method, Page.text("a bug; see the log\n", HTTPStatus.INTERNAL_SERVER_ERROR)


async def _head(reader: asyncio.StreamReader) -> bytes | None:
    """The request line and the headers; None when they are too long."""
    with suppress(asyncio.LimitOverrunError):
        return await reader.readuntil(b"\r\n\r\n")
    return None


def _request(head: bytes) -> tuple[str, str]:
    """Method and path without its query; an empty path when it is no request (RFC 9112 §3)."""
    words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    if len(words) != 3 or not words[1].startswith("/") or not words[2].startswith("HTTP/1."):
        return words[0], ""
    return words[0], words[1].partition("?")[0]


def _written(page: Page, *, with_body: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {page.status.value} {page.status.phrase}",
        f"Content-Type: {page.content_type}",
        f"Content-Length: {len(page.body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    if page.status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    head = "\r\n".join([*lines, "", ""])
    return head.encode() + (page.body if with_body else b"")
