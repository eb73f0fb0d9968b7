"""What groups have committed, asked and set by nobody of them: for a log that moves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import aiokafka
from aiokafka import AIOKafkaConsumer, errors
from aiokafka.admin import AIOKafkaAdminClient

from towline.bus.kafka.connection import Connection
from towline.bus.kafka.peers import peers
from towline.bus.port import TopicPartition
from towline.errors import Permanent

T = TypeVar("T")
_AGAIN_S = 0.2
_NOT_YET = (
    errors.GroupCoordinatorNotAvailableError,
    errors.GroupLoadInProgressError,
    errors.NotCoordinatorForGroupError,
)


async def members(admin: AIOKafkaAdminClient, group: str) -> list[str]:
    """Who is in the group now, as `client (host)`."""
    found = await _coordinated(lambda: peers(admin, group))
    return [f"{peer.client} ({peer.host})" for peer in found]


async def offsets(admin: AIOKafkaAdminClient, group: str) -> dict[TopicPartition, int]:
    await members(admin, group)  # the client takes a coordinator that is not ready for one that knows no offsets
    found = await _coordinated(lambda: admin.list_consumer_group_offsets(group))
    return {TopicPartition(*at): each.offset for at, each in found.items() if each.offset >= 0}


async def commit(connection: Connection, group: str, wanted: Mapping[TopicPartition, int]) -> None:
    """Commit as somebody who was never a member; the broker refuses that while there are members."""
    consumer = AIOKafkaConsumer(**connection.client("mover"), group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([aiokafka.TopicPartition(*at) for at in wanted])
        await consumer.commit({aiokafka.TopicPartition(*at): next_ for at, next_ in wanted.items()})
    except (errors.CommitFailedError, errors.UnknownMemberIdError, errors.IllegalGenerationError) as error:
        raise Permanent(f"group {group} has a member: stop it first") from error
    finally:
        await consumer.stop()


async def _coordinated(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer, once there is a coordinator: a new cluster makes the topic of offsets when it is first asked for one.

    For ever, if it gets none: the caller sets the time.
    """
    while True:
        try:
            return await ask()
        except _NOT_YET:
            await asyncio.sleep(_AGAIN_S)
