"""How the cluster is reached, and what the client's errors mean for the bus.

Every call to the cluster runs inside `Connection.answering`: it ends in time, and only the bus's own errors leave it.

What is refused for a setting (password, certificate, permission) ends a process that never got in, with a sentence.
One that was in already waits: somebody is changing a password, and files are read again with every new client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

from aiokafka import errors

from towline.bus.kafka import refusal
from towline.bus.kafka.login import Login
from towline.bus.port import BusDown, LostAssignment, TooLarge
from towline.bus.settings import KafkaSettings
from towline.errors import BadInput, Permanent, TowlineError

ANSWER_S = 10.0
"""The longest that a call waits for the cluster before it is BusDown."""
_TOPICS_KNOWN_FOR_S = 30.0
"""A topic that was deleted and made again is found after this; the client's own choice is five minutes."""
_LOOK_S = 4.0
_LOOK_AGAIN_S = 5.0
"""How long a look at the brokers counts, so that many failing calls are no storm of logins."""

_OPTIONS = ("replication", "min_insync")
_EXPECTED = "kafka://host:port,host:port, optionally with ?replication=3&min_insync=2"
_LOST = (
    errors.CommitFailedError,
    errors.IllegalStateError,
    errors.UnknownMemberIdError,
    errors.IllegalGenerationError,
    errors.RebalanceInProgressError,
)
_TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
NOT_ALLOWED = (
    errors.TopicAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
)
_REFUSED = (
    errors.InvalidTopicError,
    errors.InvalidReplicationFactorError,
    errors.InvalidConfigurationError,
    errors.PolicyViolationError,
    errors.InvalidSessionTimeoutError,
)


class Connection:
    """Where the brokers are. `replication` and `min_insync` are for new topics; None follows the cluster's size."""

    def __init__(
        self,
        servers: tuple[str, ...],
        settings: KafkaSettings | None = None,
        *,
        replication: int | None = None,
        min_insync: int | None = None,
    ) -> None:
        self.servers = servers
        self.settings = settings or KafkaSettings()
        self.replication = replication
        self.min_insync = min_insync
        self.proven = False
        """Set once a broker has let us in."""
        self._login = Login(self.settings)
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._found: refusal.Finding | None = None

    @classmethod
    def parse(cls, rest: str, settings: KafkaSettings | None = None) -> Connection:
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
        return cls(servers, settings, **_options(query))

    @property
    def where(self) -> str:
        return ",".join(self.servers)

    def client(self, name: str) -> dict[str, Any]:
        """The settings that every client of this cluster shares. Raises BadInput; BusDown once we have been in."""
        try:
            login = self._login.options()
        except BadInput as error:
            raise self._refused(str(error), error) from error
        return {
            "bootstrap_servers": list(self.servers),
            "client_id": f"towline-{name}",
            "request_timeout_ms": int(ANSWER_S * 1000),
            "metadata_max_age_ms": int(_TOPICS_KNOWN_FOR_S * 1000),
            **login,
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
            raise await self._look(f"did not answer within {seconds:.0f} s") from error
        except errors.KafkaError as error:
            known = self._known(error)
            raise known or await self._look(f"does not answer as it should: {_said(error)}") from error

    def explain(self, error: errors.KafkaError) -> TowlineError:
        """As `answering` does, where nobody can wait for a look at the brokers."""
        said = f"Kafka at {self.where} does not answer as it should: {_said(error)}"
        return self._known(error) or BusDown(said)

    def _known(self, error: errors.KafkaError) -> TowlineError | None:
        said = _said(error)
        if isinstance(error, _LOST):
            return LostAssignment(f"the group gave this member's partitions away: {said}")
        if isinstance(error, _TOO_LARGE):
            return TooLarge(f"Kafka at {self.where} refuses the record for its size: {said}")
        if isinstance(error, NOT_ALLOWED):
            return self._refused(
                f"Kafka at {self.where} does not allow it: {said}; `towline bus acls` lists what is needed"
            )
        if isinstance(error, errors.InconsistentGroupProtocolError):
            return Permanent(
                f"Kafka at {self.where}: other members of the group divide partitions by another rule than `range`; "
                f"nothing but Towline may be in its groups"
            )
        if isinstance(error, _REFUSED):
            return Permanent(f"Kafka at {self.where} refuses: {said}")
        return None

    async def _look(self, otherwise: str) -> TowlineError:
        """What the brokers have against us, else that Kafka `otherwise`."""
        async with self._looking:
            if time.monotonic() - self._looked_at > _LOOK_AGAIN_S:
                self._found = None
                try:
                    async with asyncio.timeout(_LOOK_S):
                        self._found = await refusal.find(self.servers, self._login, self._login.options())
                except BadInput as error:
                    return self._refused(str(error), error)
                except TimeoutError:
                    pass
                self._looked_at = time.monotonic()
        if self._found is None:
            return BusDown(f"Kafka at {self.where} {otherwise}")
        if not self._found.refused:
            return BusDown(f"Kafka at {self.where} does not answer: {self._found.said}")
        return self._refused(f"Kafka refuses us: {self._found.said}")

    def _refused(self, said: str, error: TowlineError | None = None) -> TowlineError:
        return BusDown(said) if self.proven else error or Permanent(said)


def _said(error: errors.KafkaError) -> str:
    return str(error) or type(error).__name__


def _options(query: str) -> dict[str, int]:
    options: dict[str, int] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS or not value.isdigit() or int(value) < 1:
            said = f"{name!r}" if name not in _OPTIONS else f"{name} without a number above 0"
            raise BadInput(f"the Kafka bus has the option {said}: expected {_EXPECTED}")  # a value may be a secret
        options[name] = int(value)
    return options
