"""Why no broker lets us in: the client logs what it met and raises one error for everything, so we look ourselves.

A connection is made to each broker in turn, as the client makes its own, and what ends it becomes one sentence. A
broker that cannot be reached is no refusal: that passes by itself, a wrong password does not.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiokafka import errors
from aiokafka.conn import create_conn
from aiokafka.protocol.metadata import MetadataRequest

from towline.bus.kafka.login import Login
from towline.bus.kafka.token import NoToken
from towline.errors import BadInput

_PROBE_S = 3.0
# Numbers of OpenSSL's X509_V_ERR_*.
_NAME_DIFFERS = (62, 64)
_EXPIRED = (9, 10)

_NO_TLS = "{} does not speak TLS: leave kafka.tls away, or take the port of its TLS listener"


@dataclass(frozen=True, slots=True)
class Finding:
    """`refused`: a setting, here or there, must change before it works."""

    said: str
    refused: bool


async def find(servers: Sequence[str], login: Login, options: Mapping[str, Any]) -> Finding | None:
    """The first refusal of any broker; else why the last one is not reached; None where one lets us in."""
    found: Finding | None = None
    for server in servers:
        found = await _look_at(server, login, options)
        if found is None or found.refused:
            return found
    return found


async def _look_at(server: str, login: Login, options: Mapping[str, Any]) -> Finding | None:
    host, _, port = server.rpartition(":")
    host = host.strip("[]")
    try:
        async with asyncio.timeout(_PROBE_S):
            connection = await create_conn(host, int(port), request_timeout_ms=int(_PROBE_S * 1000), **options)
    except (errors.KafkaError, OSError, TimeoutError, BadInput) as error:
        await asyncio.sleep(0)  # the failed connection's socket is closed in the loop's next round
        return await _explain(host, int(port), login, error)
    try:
        async with asyncio.timeout(_PROBE_S):
            cluster = await connection.send(MetadataRequest([]))
        if not cluster.brokers:  # what a broker answers before it closes the connection of a refused token
            raise errors.KafkaConnectionError(f"Connection at {server} closed")
    except (errors.KafkaError, OSError, TimeoutError) as error:
        return await _explain(host, int(port), login, error, connected=True)
    finally:
        with suppress(TimeoutError):
            await asyncio.wait_for(connection.close(), 1.0)
    return None


async def _explain(host: str, port: int, login: Login, error: Exception, *, connected: bool = False) -> Finding:
    where = f"{host}:{port}"
    chain = list(_chain(error))
    if tls := next((each for each in chain if isinstance(each, ssl.SSLError)), None):
        return Finding(_of_tls(where, tls), refused=True)
    if isinstance(error, NoToken):
        return Finding(str(error), refused=True)
    if (said := _of_login(where, login, error)) is not None:
        return Finding(said, refused=True)
    closed = any(isinstance(each, errors.KafkaConnectionError | EOFError | ConnectionResetError) for each in chain)
    if closed or isinstance(error, TimeoutError):
        if connected and login.mechanism is None:
            return Finding(f"{where} wants a login: set kafka.sasl, or take the port of its plain listener", True)
        if connected and login.mechanism == "OAUTHBEARER":
            return Finding(f"{where} refuses the token (OAUTHBEARER): is it for this cluster, and not expired?", True)
        if login.protocol.endswith("PLAINTEXT") and await _speaks_tls(host, port):
            return Finding(f"{where} speaks TLS, and kafka.tls is not set: add tls: {{}} with its ca_file", True)
        if not login.protocol.endswith("PLAINTEXT") and await _speaks_plainly(host, port):
            return Finding(_NO_TLS.format(where), True)
    if isinstance(error, TimeoutError):
        return Finding(f"{where} does not answer", refused=False)
    return Finding(f"{where} is not reached: {_plain(error)}", refused=False)


def _of_tls(where: str, error: ssl.SSLError) -> str:
    reason = (error.reason or str(error)).upper()
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _NAME_DIFFERS:
            return f"the certificate of {where} is for another host: {error.verify_message}"
        if error.verify_code in _EXPIRED:
            return f"the certificate of {where} is not valid now: {error.verify_message}"
        return f"the certificate of {where} is of no authority in kafka.tls.ca_file: {error.verify_message}"
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason or "BAD_CERTIFICATE" in reason:
        return f"{where} wants a certificate of ours: set kafka.tls.cert_file and key_file ({reason})"
    if "UNKNOWN_CA" in reason or "CERTIFICATE_UNKNOWN" in reason or "CERTIFICATE_EXPIRED" in reason:
        return f"{where} does not take the certificate in kafka.tls.cert_file ({reason})"
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER_FAILURE" in reason or "UNEXPECTED" in reason:
        return _NO_TLS.format(where)
    return f"TLS with {where} fails: {reason}"


def _of_login(where: str, login: Login, error: Exception) -> str | None:
    who = f"user {login.user!r} by {login.mechanism}" if login.user else f"the login by {login.mechanism}"
    if isinstance(error, errors.SaslAuthenticationFailed | errors.AuthenticationFailedError):
        return f"{where} refuses {who}: {_plain(error)}"
    if isinstance(error, errors.UnsupportedSaslMechanismError):
        return f"{where} does not offer {login.mechanism}: set kafka.sasl.mechanism to one it has"
    if isinstance(error, errors.IllegalSaslStateError):
        return f"{where} takes no login: leave kafka.sasl away, or take the port of its SASL listener"
    if isinstance(error, BadInput):
        return str(error)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _plain(error: BaseException) -> str:
    """The broker's or the system's own words, without the client's numbering."""
    words = error.args[0] if error.args and isinstance(error.args[0], str) else None
    return getattr(error, "strerror", None) or words or type(error).__name__


async def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(_PROBE_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


async def _speaks_plainly(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_PROBE_S):
            await (await create_conn(host, port)).close()
    except (errors.KafkaError, OSError, TimeoutError):
        return False
    return True
