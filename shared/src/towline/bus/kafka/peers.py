"""Who is in a group, as its coordinator sees it.

Members are static (KIP-345): a process that comes back under its member's name takes the place of the one that was
killed, at once. The client sends the name only when it joins, so a process that was replaced hears "unknown member",
would join again, and the two would replace each other for ever. We look at who has the name, and the older one ends.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.protocol.group import LeaveGroupRequest

from towline.bus.kafka.connection import Connection
from towline.errors import BadInput

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_UUID = 36


@dataclass(frozen=True, slots=True)
class Peer:
    """`id` is the coordinator's: a static member's is its name, a dash and a UUID, another one after each join that did
    not say which it had. `client` and `host` are those of the process that had the name first."""

    id: str
    client: str = ""
    host: str = ""

    def has_name(self, member: str) -> bool:
        return len(self.id) == len(member) + 1 + _UUID and self.id.startswith(f"{member}-")


Peers = Callable[[str], Awaitable[Sequence[Peer]]]


def check_name(member: str) -> str:
    """Raises BadInput for a name that Kafka would refuse."""
    if not _NAME.fullmatch(member):
        raise BadInput(f"the member name {member[:200]!r} is none: expected letters, digits, dots, dashes, 200 at most")
    return member


async def peers(admin: AIOKafkaAdminClient, group: str) -> list[Peer]:
    """Raises the client's errors."""
    found = []
    for response in await admin.describe_consumer_groups([group]):
        for code, _name, _state, _kind, _protocol, those, *_ in response.groups:
            if code:
                raise errors.for_code(code)(f"group {group} cannot be described")
            found += [Peer(id, client, host) for id, client, host, *_ in those]
    return found


async def leave(connection: Connection, group: str, member_id: str) -> None:
    """Take a member out at once: the client never does that for a static one. Raises the client's errors."""
    client = AIOKafkaClient(**connection.client("leaver"))
    try:
        await client.bootstrap()
        node = await client.coordinator_lookup(CoordinationType.GROUP, group)
        await client.send(node, LeaveGroupRequest(group, member_id), group=ConnectionGroup.COORDINATION)
    finally:
        await client.close()
