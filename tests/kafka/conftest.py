"""Owns a Kafka with every kind of listener: TLS, client certificates, logins with and without TLS, permissions."""

from __future__ import annotations

import base64
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from towline.bus.settings import KafkaSettings
from towline_cli import lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USERS = {"alice": "al1ce-secret", "bob": "b0b-secret"}


@dataclass(frozen=True)
class Guarded:
    """The broker, and the files of whoever may come in. alice may do everything, bob nothing."""

    instance: lab.Instance
    folder: Path
    authority: trustme.CA

    def url(self, listener: str) -> str:
        return f"kafka://{self.instance.kafka_listener(listener)}"

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    @property
    def tls(self) -> dict[str, Any]:
        return {"ca_file": str(self.folder / "ca.pem")}

    def login(self, mechanism: str, user: str = "alice", password: str | None = None) -> dict[str, Any]:
        secret = self.file(f"{user}.password", f"{password or USERS[user]}\n")
        return {"mechanism": mechanism, "username": user, "password_file": secret}

    def settings(self, tls: dict[str, Any] | None = None, sasl: dict[str, Any] | None = None) -> KafkaSettings:
        return KafkaSettings.model_validate({"tls": tls, "sasl": sasl})


def key_store(certificate: trustme.LeafCert) -> str:
    """Kafka takes a key as PKCS #8 only."""
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (text + b"".join(each.bytes() for each in certificate.cert_chain_pems)).decode()


def unsigned_token(subject: str, *, life: float = 600.0) -> str:
    """As Kafka's unsecured validator takes it: no signature, for tests alone."""

    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=").decode()

    now = time.time()
    return f"{part({'alg': 'none'})}.{part({'sub': subject, 'iat': now - 60, 'exp': now + life})}."


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    missing = lab.plan({lab.Part.KAFKA})
    if missing:
        pytest.fail("a part is not installed, `make test` does that: " + " ".join(missing), pytrace=False)
    folder = tmp_path_factory.mktemp("guarded")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    (folder / "broker.pem").write_text(key_store(authority.issue_cert("localhost")))
    listeners = lab.KafkaListeners(folder / "broker.pem", folder / "ca.pem", USERS, super_users=("alice",))
    instance = lab.Instance(f"test-{os.getpid()}-guarded")
    instance.start({lab.Part.KAFKA}, listeners)
    try:
        yield Guarded(instance, folder, authority)
    finally:
        instance.remove()
