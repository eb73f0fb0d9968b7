"""What the bus is told besides its URL: how a Kafka cluster is reached, and how this process proves who it is.

A secret stands in no setting: a file or a variable of the environment holds it, and is read for every new client, so
that it can be changed while Towline runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from towline.errors import redact

Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TlsSettings(_Strict):
    """TLS to the brokers; an empty section (`tls: {}`) is enough where the system knows the authority."""

    ca_file: Path | None = Field(
        None, description="PEM file of the authorities that sign the brokers' certificates; left away, the system's."
    )
    cert_file: Path | None = Field(None, description="PEM file of our own certificate, where brokers ask for one.")
    key_file: Path | None = Field(None, description="PEM file of its private key; left away, it is in cert_file.")
    key_password_file: Path | None = Field(None, description="File whose first line is the key's password.")
    verify_host_name: bool = Field(
        True, description="no: any certificate of the authority is taken for any broker. For test clusters."
    )

    @model_validator(mode="after")
    def _key_belongs_to_a_certificate(self) -> TlsSettings:
        if self.cert_file is None and (self.key_file or self.key_password_file):
            raise ValueError("key_file and key_password_file need cert_file beside them")
        return self


class TokenEndpointSettings(_Strict):
    """OAuth client credentials: a token is asked for, kept, and asked for again before it ends."""

    url: str = Field(description="https:// address of the token endpoint.")
    client_id: str = Field(description="Our client id there.")
    client_secret_file: Path | None = Field(None, description="File whose first line is the client's secret.")
    client_secret_env: str | None = Field(None, description="Environment variable that holds it; not named TOWLINE_….")
    scope: str | None = Field(None, description="Scope to ask for.")
    ca_file: Path | None = Field(None, description="PEM file of the authorities that sign the endpoint's certificate.")

    @field_validator("url")
    @classmethod
    def _is_safe(cls, url: str) -> str:
        parts = urlsplit(url)
        local = parts.scheme == "http" and parts.hostname in _LOOPBACK
        if parts.username is not None or not parts.hostname or (parts.scheme != "https" and not local):
            raise ValueError(f"{redact(url)!r} is no https:// address without credentials")
        return url

    @model_validator(mode="after")
    def _has_one_secret(self) -> TokenEndpointSettings:
        if (self.client_secret_file is None) == (self.client_secret_env is None):
            raise ValueError("give exactly one of client_secret_file and client_secret_env")
        return self


class SaslSettings(_Strict):
    """The login. PLAIN and SCRAM take a user name and a password, OAUTHBEARER a token."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        description="What the listener offers."
    )
    username: str | None = Field(None, description="PLAIN and SCRAM: the user.")
    password_file: Path | None = Field(None, description="PLAIN and SCRAM: file whose first line is the password.")
    password_env: str | None = Field(
        None, description="PLAIN and SCRAM: environment variable that holds it; not named TOWLINE_…."
    )
    token_file: Path | None = Field(
        None, description="OAUTHBEARER: file that holds the token; whoever writes it there renews it."
    )
    token_endpoint: TokenEndpointSettings | None = None
    in_the_clear: bool = Field(False, description="yes: send a password or token without TLS. For test clusters.")

    @model_validator(mode="after")
    def _has_what_the_mechanism_takes(self) -> SaslSettings:
        password = (self.username, self.password_file, self.password_env)
        token = (self.token_file, self.token_endpoint)
        if self.mechanism == "OAUTHBEARER":
            if any(password) or sum(each is not None for each in token) != 1:
                raise ValueError("OAUTHBEARER takes exactly one of token_file and token_endpoint, and no password")
        elif any(token) or self.username is None or (self.password_file is None) == (self.password_env is None):
            raise ValueError(
                f"{self.mechanism} takes username and exactly one of password_file and password_env, and no token"
            )
        return self


class KafkaSettings(_Strict):
    """Only for a `kafka://` bus."""

    tls: TlsSettings | None = None
    sasl: SaslSettings | None = None
    compression: Compression = Field("zstd", description="Of what is written; what is read may have any.")

    stay_on_stop: bool = Field(
        False,
        description="yes: a clean stop keeps the member's place for 15 s, so that a restart moves no partition. "
        "Where members are restarted one by one.",
    )

    @model_validator(mode="after")
    def _tells_nobody_the_password(self) -> KafkaSettings:
        sasl = self.sasl
        if sasl and self.tls is None and not sasl.in_the_clear and not sasl.mechanism.startswith("SCRAM"):
            raise ValueError(
                f"{sasl.mechanism} without TLS shows the secret to the network: add tls: {{}}, or in_the_clear: yes"
            )
        return self


class BusSettings(BaseModel):
    """What every command needs that reads the log; the rest of a settings file is not looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    bus: str = Field("sqlite:///towline-data/bus.db", description="`sqlite:///<path>` or `kafka://<host>:<port>,…`.")
    kafka: KafkaSettings = KafkaSettings()
