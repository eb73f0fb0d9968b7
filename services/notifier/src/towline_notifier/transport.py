"""An HTTP transport that connects to nothing but addresses it has checked.

Rules that must hold:

- A name is resolved once per request, every answer is checked, and the connection goes to a checked address: there
  is no second look-up that could answer otherwise. TLS still proves the name.
- No connection is kept: one that was proven for one name must not carry another channel's secret to the same address.
- No proxy and no credentials are taken from the environment; redirects are nobody's to follow.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path

import httpx

from towline.errors import DependencyDown, Permanent
from towline_notifier.address import Address, is_private, refusal

ALLOW_PRIVATE = "towline_allow_private"
"""Extension of a request: True lets it go to private addresses."""

Resolve = Callable[[str, int], Awaitable[list[Address]]]


class Refused(Permanent):
    """The guard let the request not go out."""


async def resolve(host: str, port: int) -> list[Address]:
    """Every address of the name, each once. Raises DependencyDown, without the name."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise DependencyDown("the host's name cannot be resolved") from None
    return list(dict.fromkeys(ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))


class GuardedTransport(httpx.AsyncBaseTransport):
    def __init__(self, inner: httpx.AsyncBaseTransport, resolve: Resolve = resolve) -> None:
        self._inner = inner
        self._resolve = resolve

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises Refused, DependencyDown, or what httpx raises."""
        allow_private = bool(request.extensions.get(ALLOW_PRIVATE, False))
        host, scheme = request.url.host, request.url.scheme
        port = request.url.port or {"https": 443, "http": 80}.get(scheme, 0)
        if scheme not in ("https", "http") or not host:
            raise Refused("the URL is neither https nor http")
        addresses = await self._resolve(host, port)
        for address in addresses:
            if (reason := refusal(address, allow_private=allow_private)) is not None:
                raise Refused(f"the URL leads to {reason}{_hint(address)}")
            if scheme == "http" and not is_private(address):
                raise Refused("the URL is plain http; only https leaves for a public address")
        failed: httpx.TransportError | None = None
        for address in addresses:
            try:
                return await self._inner.handle_async_request(_pinned(request, host, address))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failed = error
        raise failed or DependencyDown("the host's name has no address")

    async def aclose(self) -> None:
        await self._inner.aclose()


def client(ca_file: Path | None = None, resolve: Resolve = resolve) -> httpx.AsyncClient:
    """The one client of the service. Creating it reads the certificate authorities, some tens of milliseconds."""
    _keep_urls_out_of_logs()
    trusted = httpx.create_ssl_context(trust_env=False)
    if ca_file is not None:
        trusted.load_verify_locations(cafile=str(ca_file))
    inner = httpx.AsyncHTTPTransport(
        verify=trusted, trust_env=False, limits=httpx.Limits(max_connections=100, max_keepalive_connections=0)
    )
    return httpx.AsyncClient(
        transport=GuardedTransport(inner, resolve), follow_redirects=False, trust_env=False, timeout=httpx.Timeout(10.0)
    )


def _pinned(request: httpx.Request, host: str, address: Address) -> httpx.Request:
    """The same request to the address; `Host` and the name that TLS proves stay what they were."""
    return httpx.Request(
        request.method,
        request.url.copy_with(host=str(address)),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": host},
    )


def _hint(address: Address) -> str:
    return "; a receiver of your own needs allow_private: true" if is_private(address) else ""


def _keep_urls_out_of_logs() -> None:
    """httpx logs every URL at INFO, and the URL of a chat's webhook is its credential."""
    for name in ("httpx", "httpcore"):
        logger = logging.getLogger(name)
        if _is_quiet not in logger.filters:
            logger.addFilter(_is_quiet)


def _is_quiet(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
