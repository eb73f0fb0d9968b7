"""TLS and login as the client wants them. Files are read anew for every client, so what was renewed is used."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

from aiokafka.abc import AbstractTokenProvider

from towline.bus.kafka.token import EndpointToken, FileToken
from towline.bus.settings import KafkaSettings, SaslSettings, TlsSettings
from towline.errors import BadInput


class Login:
    def __init__(self, settings: KafkaSettings) -> None:
        self._tls = settings.tls
        self._sasl = settings.sasl
        self._token = None if settings.sasl is None else _token_of(settings.sasl)

    @property
    def protocol(self) -> str:
        """Kafka's name for the kind of listener that is expected."""
        encrypted = "SSL" if self._tls else "PLAINTEXT"
        return f"SASL_{encrypted}" if self._sasl else encrypted

    @property
    def mechanism(self) -> str | None:
        return self._sasl.mechanism if self._sasl else None

    @property
    def user(self) -> str | None:
        return self._sasl.username if self._sasl else None

    def options(self) -> dict[str, Any]:
        """Arguments of any of the client's classes. Raises BadInput for a file or variable that is not as it should."""
        options: dict[str, Any] = {"security_protocol": self.protocol}
        if self._tls is not None:
            options["ssl_context"] = _context(self._tls)
        if self._sasl is not None:
            options["sasl_mechanism"] = self._sasl.mechanism
        if self._token is not None:
            options["sasl_oauth_token_provider"] = self._token
        elif self._sasl is not None:
            options["sasl_plain_username"] = self._sasl.username
            options["sasl_plain_password"] = secret(
                "kafka.sasl.password", self._sasl.password_file, self._sasl.password_env
            )
        return options


def secret(what: str, file: Path | None, variable: str | None) -> str:
    """From the file's first line or the environment. Raises BadInput that names the setting, never the value."""
    if variable is not None:
        found = os.environ.get(variable, "")
        if not found:
            raise BadInput(f"{what}_env names the variable {variable}, which is not set")
        return found
    try:
        lines = (file or Path()).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{what}_file {file} cannot be read: {_said(error)}") from None
    if not lines or not lines[0].strip():
        raise BadInput(f"{what}_file {file} is empty: expected the secret on its first line")
    return lines[0].strip()


def _token_of(sasl: SaslSettings) -> AbstractTokenProvider | None:
    if sasl.token_file is not None:
        return FileToken(sasl.token_file)
    if (endpoint := sasl.token_endpoint) is not None:

        def client_secret() -> str:
            return secret(
                "kafka.sasl.token_endpoint.client_secret", endpoint.client_secret_file, endpoint.client_secret_env
            )

        return EndpointToken(endpoint, client_secret)
    return None


def _context(tls: TlsSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise BadInput(f"kafka.tls.ca_file {tls.ca_file} holds no PEM certificates: {_said(error)}") from None
    context.check_hostname = tls.verify_host_name
    if tls.cert_file is None:
        return context

    def password() -> str:
        """Without this the library would ask for it on the terminal."""
        if tls.key_password_file is None:
            raise BadInput(f"the key of kafka.tls.cert_file {tls.cert_file} has a password: set key_password_file")
        return secret("kafka.tls.key_password", tls.key_password_file, None)

    try:
        context.load_cert_chain(tls.cert_file, tls.key_file, password)
    except OSError as error:
        key = f" with key_file {tls.key_file}" if tls.key_file else ""
        raise BadInput(f"kafka.tls.cert_file {tls.cert_file}{key} cannot be used: {_said(error)}") from None
    return context


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or type(error).__name__
