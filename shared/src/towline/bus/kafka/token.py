"""Tokens for OAUTHBEARER: from a file that somebody else renews, or from a token endpoint.

The client asks for one with every connection it makes. It does not log in again on an open one: where the brokers end
a connection with its token, the next one is made with a new token.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import orjson
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaError

from towline.bus.settings import TokenEndpointSettings
from towline.errors import BadInput, redact

_ANSWER_S = 5.0
_UNSAID_LIFE_S = 300.0
"""How long a token counts as good whose endpoint does not say."""


class NoToken(KafkaError):  # type: ignore[misc]
    """There is no token to log in with. One of the client's own errors, because it must pass through it."""


class FileToken(AbstractTokenProvider):  # type: ignore[misc]
    def __init__(self, file: Path) -> None:
        self._file = file

    async def token(self) -> str:
        try:
            token = self._file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise NoToken(f"kafka.sasl.token_file {self._file} cannot be read: {type(error).__name__}") from None
        if not token:
            raise NoToken(f"kafka.sasl.token_file {self._file} is empty")
        if (over := expired_for(token)) is not None:
            raise NoToken(f"the token in kafka.sasl.token_file {self._file} expired {over:.0f} s ago: renew it")
        return token


class EndpointToken(AbstractTokenProvider):  # type: ignore[misc]
    """The client credentials grant (RFC 6749, section 4.4), the client named as in section 2.3.1."""

    def __init__(
        self,
        endpoint: TokenEndpointSettings,
        secret: Callable[[], str],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint = endpoint
        self._secret = secret
        self._now = now
        self._token = ""
        self._good_until = 0.0
        self._asking = asyncio.Lock()

    async def token(self) -> str:
        async with self._asking:
            if self._now() >= self._good_until:
                asked_at = self._now()
                self._token, life = await self._ask()
                self._good_until = asked_at + life * 0.8  # renewed while the old one still counts
            return self._token

    async def _ask(self) -> tuple[str, float]:
        import aiohttp  # `towline status` has no need of it

        where = redact(self._endpoint.url)
        form = {"grant_type": "client_credentials"} | ({"scope": scope} if (scope := self._endpoint.scope) else {})
        try:
            name = f"{quote_plus(self._endpoint.client_id)}:{quote_plus(self._secret())}"
            headers = {"authorization": f"Basic {base64.b64encode(name.encode()).decode()}"}
            context = ssl.create_default_context(cafile=self._endpoint.ca_file)
            connector = aiohttp.TCPConnector(ssl=context)
            timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.post(self._endpoint.url, data=form, headers=headers, allow_redirects=False) as response,
            ):
                body = await response.content.read(64 * 1024)
        except BadInput as error:
            raise NoToken(str(error)) from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            said = redact(str(error) or type(error).__name__)
            raise NoToken(f"the token endpoint {where} does not answer: {said}") from None
        return _token_in(where, response.status, body)


def _token_in(where: str, status: int, body: bytes) -> tuple[str, float]:
    answer: Any = None
    with suppress(orjson.JSONDecodeError):
        answer = orjson.loads(body)
    if not isinstance(answer, dict):
        raise NoToken(f"the token endpoint {where} answers {status} without a JSON object")
    token = answer.get("access_token")
    if status != 200 or not isinstance(token, str):
        said = redact(f"{answer.get('error', 'no access_token')} {answer.get('error_description', '')}".strip())[:200]
        raise NoToken(f"the token endpoint {where} refuses with {status}: {said}")
    life = answer.get("expires_in")
    return token, float(life) if isinstance(life, int | float) and life > 0 else _UNSAID_LIFE_S


def expired_for(token: str) -> float | None:
    """Seconds since a JWT's end; None where it has not come, or the token is not to be read. Nothing is verified."""
    try:
        payload = token.split(".")[1]
        ends = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"]
        over = time.time() - float(ends)
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return None
    return over if over >= 0 else None
