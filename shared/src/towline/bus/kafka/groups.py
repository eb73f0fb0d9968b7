"""What groups have committed, asked and set by nobody of them: for a log that moves."""

from __future__ import annotations

from collections.abc import Mapping

import aiokafka
from aiokafka import AIOKafkaConsumer, errors
from aiokafka.admin import AIOKafkaAdminClient

from towline.bus.kafka.connection import Connection
from towline.bus.port import TopicPartition
from towline.errors import Permanent


async def members(admin: AIOKafkaAdminClient, group: str) -> list[str]:
    """Who is in the group now, as `client (host)`."""
    found: list[str] = []
    for response in await admin.describe_consumer_groups([group]):
        for code, _name, _state, _kind, _protocol, those, *_ in response.groups:
            if code:
                raise errors.for_code(code)(f"group {group} cannot be described")
            found += [f"{client} ({host})" for _id, client, host, *_ in those]
    return found


async def offsets(admin: AIOKafkaAdminClient, group: str) -> dict[TopicPartition, int]:
    found = await admin.list_consumer_group_offsets(group)
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
