"""Making topics and checking those that exist: what Towline relies on is written down here, once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from towline.bus.kafka.connection import Connection
from towline.bus.port import MAX_APPEND_BYTES, Cleanup, Topic
from towline.errors import Permanent

MAX_BATCH_BYTES = MAX_APPEND_BYTES + 512 * 1024
"""An append travels as one batch; the rest is room for framing."""

_DAY_MS = 24 * 3600 * 1000
_SEEN_EVERY_S = 0.02


async def describe(admin: AIOKafkaAdminClient) -> dict[str, int]:
    """Each topic with its number of partitions. Never creates one."""
    return {name: len(leaders) for name, leaders in (await _leaders(admin)).items()}


async def _leaders(admin: AIOKafkaAdminClient) -> dict[str, list[int]]:
    """The leading broker of each partition, below 0 where there is none now."""
    return {
        topic["topic"]: [partition["leader"] for partition in topic["partitions"]]
        for topic in await admin.describe_topics()
        if topic["error_code"] == 0 and not topic["is_internal"]
    }


async def ensure(admin: AIOKafkaAdminClient, connection: Connection, topics: Sequence[Topic]) -> dict[str, int]:
    """Create what is missing, wait until every partition has a leader, check the rest; returns what `describe` does."""
    present = await describe(admin)
    if missing := [topic for topic in topics if topic.name not in present]:
        await _create(admin, connection, missing)
        present = await _when_seen(admin, missing)
    for topic in topics:
        if present[topic.name] != topic.partitions:
            raise Permanent(
                f"topic {topic.name} exists with partitions {present[topic.name]}, wanted is {topic.partitions}"
            )
    if existing := [topic for topic in topics if topic not in missing]:
        await _check_settings(admin, existing)
    return present


async def _create(admin: AIOKafkaAdminClient, connection: Connection, missing: Sequence[Topic]) -> None:
    brokers = len((await admin.describe_cluster())["brokers"])
    replication = connection.replication or min(3, brokers)
    min_insync = connection.min_insync or (2 if replication >= 3 else 1)
    response = await admin.create_topics(
        [
            NewTopic(
                topic.name,
                topic.partitions,
                replication,
                topic_configs={
                    **_settings(topic),
                    **_tuning(topic),
                    "min.insync.replicas": str(min_insync),
                    "max.message.bytes": str(MAX_BATCH_BYTES),
                },
            )
            for topic in missing
        ]
    )
    for name, code, message in response.topic_errors:
        error = errors.for_code(code)
        if error not in (errors.NoError, errors.TopicAlreadyExistsError):
            raise error(f"topic {name} cannot be made: {message}")


def _settings(topic: Topic) -> dict[str, str]:
    """What a topic must have, also when somebody else made it."""
    retention_ms = -1 if topic.retention is None else int(topic.retention.total_seconds() * 1000)
    settings = {"cleanup.policy": topic.cleanup.value}
    if topic.cleanup is Cleanup.DELETE:
        settings["retention.ms"] = str(retention_ms)
    return settings


def _tuning(topic: Topic) -> dict[str, str]:
    """What a new topic gets beyond: state is loaded from its first offset, so it is compacted early."""
    if topic.cleanup is Cleanup.DELETE:
        return {}
    return {
        "delete.retention.ms": str(_DAY_MS),
        "min.cleanable.dirty.ratio": "0.1",
        "segment.bytes": str(16 * 1024 * 1024),
        "segment.ms": str(3600 * 1000),
    }


async def _when_seen(admin: AIOKafkaAdminClient, topics: Sequence[Topic]) -> dict[str, int]:
    while True:
        leaders = await _leaders(admin)
        if all(sum(leader >= 0 for leader in leaders.get(topic.name, [])) >= topic.partitions for topic in topics):
            return {name: len(partitions) for name, partitions in leaders.items()}
        await asyncio.sleep(_SEEN_EVERY_S)


async def _check_settings(admin: AIOKafkaAdminClient, topics: Sequence[Topic]) -> None:
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in topics]
    found: dict[str, dict[str, str]] = {}
    for response in await admin.describe_configs(resources):
        for code, message, _kind, name, entries in response.resources:
            if code:
                raise errors.for_code(code)(f"topic {name} cannot be checked: {message}")
            found[name] = {entry[0]: entry[1] for entry in entries}
    for topic in topics:
        _check(topic, found[topic.name])


def _check(topic: Topic, found: dict[str, Any]) -> None:
    for setting, wanted in _settings(topic).items():
        if found[setting] != wanted:
            raise Permanent(f"topic {topic.name} exists with {setting} {found[setting]}, wanted is {wanted}")
    if int(found["max.message.bytes"]) < MAX_BATCH_BYTES:
        raise Permanent(
            f"topic {topic.name} exists with max.message.bytes {found['max.message.bytes']}, "
            f"wanted is at least {MAX_BATCH_BYTES}"
        )
