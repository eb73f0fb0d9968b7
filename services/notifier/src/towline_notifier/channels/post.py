"""One POST to a channel, and what its answer means. All channels over HTTP go through here.

2xx            taken, unless the channel's body says otherwise
429            Retryable after Retry-After
500, 501, …    DependencyDown; after POISON_TRIES one notice that breaks its receiver is given up,
               so that it does not hold up those behind it
502–504, none  DependencyDown, for as long as the notice is news
other          Permanent: the status alone is told, for a body may quote the URL or the notice
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from towline.errors import DependencyDown, Permanent, Retryable
from towline_notifier.secret import Secret
from towline_notifier.transport import ALLOW_PRIVATE, Refused

MOST_ANSWER_BYTES = 4096
POISON_TRIES = 10
LONGEST_WAIT = 3600.0
"""Seconds; a Retry-After beyond it is cut to it."""

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one channel posts to."""

    name: str
    url: Secret
    allow_private: bool
    timeout_seconds: float
    client: httpx.AsyncClient
    now: Clock

    async def post(self, content: bytes, headers: Mapping[str, str], tries: int) -> bytes:
        """The first bytes of a 2xx answer. Raises Retryable, DependencyDown or Permanent."""
        try:
            request = self.client.build_request(
                "POST",
                await self.url.read(),
                content=content,
                headers={"user-agent": "towline-notifier", "accept-encoding": "identity", **headers},
                extensions={**_timeout(self.timeout_seconds), ALLOW_PRIVATE: self.allow_private},
            )
        except httpx.InvalidURL:
            raise Permanent(f"channel {self.name}: its URL is not a URL") from None
        try:
            async with asyncio.timeout(self.timeout_seconds):
                status, retry_after, body = await self._exchange(request)
        except Refused as error:
            raise Refused(f"channel {self.name}: {error}") from None
        except (TimeoutError, httpx.TimeoutException):
            raise DependencyDown(f"channel {self.name} did not answer in {self.timeout_seconds:g} s") from None
        except httpx.HTTPError as error:
            raise DependencyDown(f"channel {self.name} does not answer: {type(error).__name__}") from None
        self._judge(status, retry_after, tries)
        return body

    async def _exchange(self, request: httpx.Request) -> tuple[int, str | None, bytes]:
        response = await self.client.send(request, stream=True)
        try:
            body = b""
            async for chunk in response.aiter_raw():  # not unpacked: a small answer may unpack to a huge one
                body += chunk
                if len(body) >= MOST_ANSWER_BYTES:
                    break
            return response.status_code, response.headers.get("retry-after"), body[:MOST_ANSWER_BYTES]
        finally:
            await response.aclose()

    def _judge(self, status: int, retry_after: str | None, tries: int) -> None:
        if 200 <= status < 300:
            return
        after = seconds_of(retry_after, self.now())
        said = f"channel {self.name} answered {status}"
        if status == 429:
            raise Retryable(said, after=after)
        if status in (408, 502, 503, 504):
            raise DependencyDown(said, after=after)
        if status >= 500:
            if tries >= POISON_TRIES:
                raise Permanent(f"{said} to {tries} tries; the notice is given up")
            raise DependencyDown(said, after=after)
        if 300 <= status < 400:
            raise Permanent(f"{said}: redirects are not followed; configure the final URL")
        raise Permanent(said)


def seconds_of(retry_after: str | None, now: datetime) -> float | None:
    """`Retry-After` (RFC 9110 §10.2.3: seconds or a date) as seconds from now; None when absent or neither."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return min(float(text), LONGEST_WAIT)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return min(max(0.0, (date - now).total_seconds()), LONGEST_WAIT)


def _timeout(seconds: float) -> dict[str, dict[str, float | None]]:
    return {"timeout": httpx.Timeout(seconds).as_dict()}
