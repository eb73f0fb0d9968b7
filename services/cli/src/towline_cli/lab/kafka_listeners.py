"""Owns the listeners of the lab's Kafka that a production cluster has: TLS, client certificates, logins, permissions.

The plain listener stays, its user is the super user: what a test prepares, it prepares there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from towline_cli.lab.command import run
from towline_cli.lab.kafka_jars import cluster_id

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PART = "kafka"
HOST = "localhost"
"""How the further listeners call themselves, so that a certificate can be for this name and not for the address."""
PROTOCOLS = {"tls": "SSL", "mutual": "SSL", "sasl": "SASL_SSL", "clear": "SASL_PLAINTEXT"}
SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
SESSION_MS = 2000
"""After this long a SCRAM login on `clear` is over and its connection ends, as production clusters set for tokens."""


@dataclass(frozen=True)
class KafkaListeners:
    """What the further listeners need.

    `key_store` is a PEM file of a PKCS #8 key and its certificates, `authorities` one of whom clients may show a
    certificate of. `users` are name and password, for PLAIN and SCRAM alike; OAUTHBEARER takes Kafka's own unsigned
    tokens. Nobody but `super_users` may do anything that no ACL allows.
    """

    key_store: Path
    authorities: Path
    users: Mapping[str, str] = field(default_factory=dict)
    super_users: tuple[str, ...] = ()


def properties(listeners: KafkaListeners, ports: Mapping[str, int]) -> str:
    """Lines behind those of the plain broker; the later line of a key counts."""
    ours = [f"{name.upper()}://127.0.0.1:{ports[f'kafka-{name}']}" for name in PROTOCOLS]
    said = [f"{name.upper()}://{HOST}:{ports[f'kafka-{name}']}" for name in PROTOCOLS]
    plain = f"PLAINTEXT://127.0.0.1:{ports['kafka']}"
    controller = f"CONTROLLER://127.0.0.1:{ports['kafka-controller']}"
    kinds = ["CONTROLLER:PLAINTEXT", "PLAINTEXT:PLAINTEXT", *(f"{n.upper()}:{kind}" for n, kind in PROTOCOLS.items())]
    users = " ".join(f'user_{name}="{password}"' for name, password in listeners.users.items())
    security = "org.apache.kafka.common.security"
    lines = [
        f"listeners={','.join([plain, controller, *ours])}",
        f"advertised.listeners={','.join([plain, *said])}",
        f"listener.security.protocol.map={','.join(kinds)}",
        "ssl.keystore.type=PEM",
        f"ssl.keystore.location={listeners.key_store}",
        "ssl.truststore.type=PEM",
        f"ssl.truststore.location={listeners.authorities}",
        "listener.name.mutual.ssl.client.auth=required",
        f"sasl.enabled.mechanisms=PLAIN,{','.join(SCRAM)},OAUTHBEARER",
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        f"super.users={';'.join(f'User:{name}' for name in ('ANONYMOUS', *listeners.super_users))}",
    ]
    for name in ("sasl", "clear"):
        lines.append(f"listener.name.{name}.plain.sasl.jaas.config={security}.plain.PlainLoginModule required {users};")
        lines.extend(
            f"listener.name.{name}.{each.lower()}.sasl.jaas.config={security}.scram.ScramLoginModule required;"
            for each in SCRAM
        )
        lines.append(
            f"listener.name.{name}.oauthbearer.sasl.jaas.config={security}.oauthbearer.OAuthBearerLoginModule "
            'required unsecuredLoginStringClaim_sub="broker";'
        )
    lines.extend(f"listener.name.clear.{each.lower()}.connections.max.reauth.ms={SESSION_MS}" for each in SCRAM)
    return "\n".join(lines) + "\n"


def format_with_users(libs: Path, config: Path, listeners: KafkaListeners) -> None:
    """Formats the empty log directory that `config` names: SCRAM users stand in it from the start."""
    words: list[str | Path] = ["java", "-cp", f"{libs}/*", "kafka.tools.StorageTool", "format"]
    words += ["-t", cluster_id("towline"), "-c", config]
    for name, password in listeners.users.items():
        for mechanism in SCRAM:
            words += ["--add-scram", f"{mechanism}=[name={name},password={password}]"]
    run(PART, words)
