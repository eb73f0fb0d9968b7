"""How the cluster is reached, and what the client's errors mean for the bus.

Every call to the cluster runs inside `Connection.answering`: it ends in time, and only the bus's own errors leave it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from aiokafka import errors

from towline.bus.port import BusDown, LostAssignment, TooLarge
from towline.errors import BadInput, Permanent, TowlineError

ANSWER_S = 10.0
"""The longest that a call waits for the cluster before it is BusDown."""

_EXPECTED = "kafka://host:port,host:port, optionally with ?replication=3&min_insync=2"
_LOST = (
    errors.CommitFailedError,
    errors.IllegalStateError,
    errors.UnknownMemberIdError,
    errors.IllegalGenerationError,
    errors.RebalanceInProgressError,
)
_TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
_REFUSED = (
    errors.TopicAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    errors.AuthenticationFailedError,
    errors.SaslAuthenticationFailed,
    errors.InvalidTopicError,
    errors.InvalidReplicationFactorError,
    errors.InvalidConfigurationError,
    errors.PolicyViolationError,
)


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the brokers are. `replication` and `min_insync` are for new topics; None follows the cluster's size."""

    servers: tuple[str, ...]
    replication: int | None = None
    min_insync: int | None = None

    @classmethod
    def parse(cls, rest: str) -> Connection:
        """From what stands behind `kafka://`. Raises BadInput."""
        hosts, _, query = rest.partition("?")
        servers = tuple(host.strip() for host in hosts.rstrip("/").split(",") if host.strip())
        if not servers:
            raise BadInput(f"the Kafka bus names no broker: expected {_EXPECTED}")
        for server in servers:
            host, _, port = server.rpartition(":")
            if not host or not port.isdigit():
                raise BadInput(f"a Kafka broker is no host:port: expected {_EXPECTED}")
            if "@" in server:
                raise BadInput("a Kafka bus URL must hold no credentials: a URL ends up in logs")
        return cls(servers, **_options(query))

    def client(self, name: str) -> dict[str, Any]:
        """The settings that every client of this cluster shares."""
        return {
            "bootstrap_servers": list(self.servers),
            "client_id": f"towline-{name}",
            "request_timeout_ms": int(ANSWER_S * 1000),
        }

    @asynccontextmanager
    async def answering(self, seconds: float = ANSWER_S) -> AsyncIterator[None]:
        """Turn a missing answer into BusDown, and the client's errors into the bus's."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TowlineError:
            raise
        except (TimeoutError, OSError) as error:
            raise BusDown(f"Kafka at {','.join(self.servers)} did not answer within {seconds:.0f} s") from error
        except errors.KafkaError as error:
            raise self.explain(error) from error

    def explain(self, error: errors.KafkaError) -> TowlineError:
        said = str(error) or type(error).__name__
        where = ",".join(self.servers)
        if isinstance(error, _LOST):
            return LostAssignment(f"the group gave this member's partitions away: {said}")
        if isinstance(error, _TOO_LARGE):
            return TooLarge(f"Kafka at {where} refuses the record for its size: {said}")
        if isinstance(error, _REFUSED):
            return Permanent(f"Kafka at {where} refuses: {said}")
        return BusDown(f"Kafka at {where} does not answer as it should: {said}")


def _options(query: str) -> dict[str, int]:
    options: dict[str, int] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in ("replication", "min_insync") or not value.isdigit() or int(value) < 1:
            raise BadInput(f"the Kafka bus has the option {name}={value!r}: expected {_EXPECTED}")
        options[name] = int(value)
    return options
