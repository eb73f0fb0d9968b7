"""Raw JSON requests to the API server.

No generated model stands in the path: bytes out, bytes in, orjson between. Every failure becomes one of three:
`Rejected` (this request is wrong, the server says why), `Absent` (404), `DependencyDown` (the server is away or busy).
Messages carry the server's own sentence and never a body, which could hold a Secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson

from towline.errors import DependencyDown, Permanent, redact
from towline_reconciler.cluster.login import Login
from towline_reconciler.projection import MANAGER

Json = dict[str, Any]
_BUSY = frozenset({408, 429, 502, 503, 504})
_UNKNOWN_FIELD = "failed to create typed patch object"
"""Of a server-side apply with a field that the kind has not: the server answers 500, the manifest is at fault."""
_AWAY = (aiohttp.ClientError, asyncio.TimeoutError, OSError)


class Rejected(Permanent):
    """The API server refused the request; `status` is the HTTP status, `reason` its one word."""

    def __init__(self, message: str, *, status: int, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class Absent(Rejected):
    """404: no such object, or no such kind."""


class Expired(Rejected):
    """410: the resource version is older than what the server keeps."""


class Cluster:
    """One API server. Safe for concurrent use; the number of requests at once is the caller's to bound."""

    def __init__(self, login: Login, *, timeout_seconds: float = 30.0) -> None:
        self._login = login
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self.requests = 0
        """Sent so far; a resync without changes must not move it."""

    async def get(self, path: str, **params: str) -> Json:
        return await self._call("GET", path, params)

    async def apply(self, path: str, body: bytes) -> Json:
        """Server-side apply; the answer is the object as it is now, with its managed fields."""
        params = {"fieldManager": MANAGER, "force": "true", "fieldValidation": "Strict"}
        return await self._call("PATCH", path, params, body, "application/apply-patch+yaml")

    async def merge(self, path: str, patch: Mapping[str, Any]) -> Json:
        """JSON merge patch, such as of a status."""
        body = orjson.dumps(patch)
        return await self._call("PATCH", path, {"fieldManager": MANAGER}, body, "application/merge-patch+json")

    async def delete(self, path: str, uid: str) -> None:
        """In the background, and only this very object; Absent when it is gone or another has its name."""
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            await self._call("DELETE", path, {}, orjson.dumps(options), "application/json")
        except Rejected as error:
            if error.status == 409:  # the name belongs to a newer object
                raise Absent(str(error), status=404) from error
            raise

    @asynccontextmanager
    async def watch(
        self, path: str, params: Mapping[str, str], idle_seconds: float
    ) -> AsyncIterator[AsyncIterator[Json]]:
        """The events of a watch; ends when the server ends it. Raises Expired, Absent, Rejected, DependencyDown."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=idle_seconds)
        try:
            async with self._login.session.get(
                self._login.host + path,
                params={**params, "watch": "true"},
                headers=await self._headers(),
                timeout=timeout,
                proxy=self._login.proxy,
            ) as response:
                self.requests += 1
                if response.status != 200:
                    raise _failure(response.status, await response.read(), response.headers)
                yield _events(response)
        except _AWAY as error:
            raise DependencyDown(f"the watch of {path} broke: {_said(error)}") from error

    async def close(self) -> None:
        await self._login.close()

    async def _headers(self) -> dict[str, str]:
        return {"Accept": "application/json", **await self._login.headers()}

    async def _call(
        self, method: str, path: str, params: Mapping[str, str], body: bytes | None = None, content_type: str = ""
    ) -> Json:
        headers = await self._headers()
        if body is not None:
            headers["Content-Type"] = content_type
        self.requests += 1
        try:
            async with self._login.session.request(
                method,
                self._login.host + path,
                params=params,
                data=body,
                headers=headers,
                timeout=self._timeout,
                proxy=self._login.proxy,
            ) as response:
                content = await response.read()
                status, answered = response.status, response.headers
        except _AWAY as error:
            raise DependencyDown(f"the API server at {self._login.host} does not answer: {_said(error)}") from error
        if status >= 400:
            raise _failure(status, content, answered)
        parsed: Json = orjson.loads(content)
        return parsed


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[Json]:
    """One event a line; a line cut off by the end of the stream is dropped, the next watch brings it again."""
    rest = b""
    try:
        async for chunk in response.content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line:
                    yield _event(line)
    except _AWAY as error:
        raise DependencyDown(f"the watch broke: {_said(error)}") from error


def _event(line: bytes) -> Json:
    event: Json = orjson.loads(line)
    if event.get("type") == "ERROR":
        status = event.get("object") or {}
        raise _failure(int(status.get("code") or 500), orjson.dumps(status), {})
    return event


def _failure(status: int, content: bytes, headers: Mapping[str, str]) -> Exception:
    try:
        parsed = orjson.loads(content)
    except orjson.JSONDecodeError:
        parsed = {}
    parsed = parsed if isinstance(parsed, dict) else {}
    message = redact(str(parsed.get("message") or f"HTTP status {status}"))[:2000]
    if status in _BUSY:
        after = headers.get("Retry-After", "")
        return DependencyDown(f"the API server is busy: {message}", after=float(after) if after.isdigit() else None)
    if status == 401:
        return DependencyDown(f"the API server refuses the login: {message}")
    if _UNKNOWN_FIELD in message:
        status = 422
    kind = {404: Absent, 410: Expired}.get(status, Rejected)
    return kind(message, status=status, reason=str(parsed.get("reason") or ""))


def _said(error: BaseException) -> str:
    return redact(str(error)) or type(error).__name__
