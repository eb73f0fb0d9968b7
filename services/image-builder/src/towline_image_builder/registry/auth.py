"""Logging in to a registry: which answer to a challenge may carry the credential, and what is kept of it.

Rules that must hold:

- A credential leaves only for the registry's own host, or for a token service that `may_login` accepts.
- Neither credential nor token ever stands in an error, a log line or an address.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from towline.errors import Permanent
from towline_image_builder.settings import RegistryAccess

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PARAMETER = re.compile(r'([A-Za-z]+)="([^"]{0,2048})"')


@dataclass(frozen=True, slots=True)
class Challenge:
    """`basic` or `bearer`, with the parameters of the header."""

    scheme: str
    realm: str
    service: str


def host_of(address: str) -> str:
    """The host of `host[:port]`, in lower case and without brackets."""
    return (urlsplit(f"//{address}").hostname or "").lower()


def is_loopback(address: str) -> bool:
    host = host_of(address)
    return host in LOOPBACK or host.startswith("127.")


def origin_of(access: RegistryAccess) -> str:
    """Where the registry is spoken to; Docker Hub answers elsewhere than its images are named."""
    plain = is_loopback(access.address) if access.plain_http is None else access.plain_http
    address = "registry-1.docker.io" if access.address == "docker.io" else access.address
    return f"{'http' if plain else 'https'}://{address}"


def challenge(headers: Mapping[str, str]) -> Challenge | None:
    header = headers.get("www-authenticate", "")
    scheme, _, rest = header.partition(" ")
    parameters = dict(_PARAMETER.findall(rest[:8192]))
    if scheme.lower() not in {"basic", "bearer"}:
        return None
    return Challenge(scheme.lower(), parameters.get("realm", ""), parameters.get("service", ""))


def may_login(access: RegistryAccess, realm: str) -> bool:
    """Whether a token service belongs to the registry; its address comes from an answer and proves nothing."""
    parts = urlsplit(realm)
    host, own = (parts.hostname or "").lower(), host_of(access.address)
    if parts.username or parts.password or not host:
        return False
    if parts.scheme == "http":
        # without TLS only back to the very same place that is spoken to without TLS anyway
        return origin_of(access) == f"http://{parts.netloc}"
    if parts.scheme != "https":
        return False
    above = "." in host and own.endswith(f".{host}")
    return host == own or above or host in access.token_hosts


def basic(access: RegistryAccess) -> str | None:
    """The header's value; None without a user. Raises Permanent when the file cannot be read."""
    if access.user is None:
        return None
    if access.password_file is None:
        raise Permanent(f"registry {access.address}: a user is set, but no password_file")
    try:
        password = access.password_file.read_text().partition("\n")[0]
    except OSError as error:
        raise Permanent(f"registry {access.address}: cannot read {access.password_file}: {error.strerror}") from None
    return "Basic " + base64.b64encode(f"{access.user}:{password}".encode()).decode()
