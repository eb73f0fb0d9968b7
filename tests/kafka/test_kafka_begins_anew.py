"""Somebody deletes a topic of a real Kafka and makes it again: offsets begin at 0, and lanes remember higher ones."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from shared.tests.test_delivery_dead import Stage, staged, until

from towline import flow
from towline.bus.kafka import KafkaBus
from towline.testing import running

pytestmark = pytest.mark.kafka


async def test_events_of_a_topic_that_was_made_again_are_handled(kafka_address: str) -> None:
    """Each was taken for one that was handled, until the new offsets had passed the old ones."""
    async with staged(f"kafka://{kafka_address}") as stage:
        async with running(stage.bus, stage.new):
            await stage.say(*"abcdefgh")
            await said(stage, "abcdefgh")
        await delete(kafka_address, flow.inbox_of(stage.name))
        again = await KafkaBus.open(kafka_address)
        try:
            await again.ensure(flow.topics((stage.name,)))
        finally:
            await again.close()
        async with running(stage.bus, stage.new):
            await stage.say(*"ijk")
            await said(stage, "abcdefghijk")


async def said(stage: Stage, words: Sequence[str]) -> None:
    async def all_of_them() -> bool:
        return await stage.words() == tuple(words)

    await until(all_of_them)


async def delete(address: str, topic: str) -> None:
    """Returns when no broker knows it any more."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address)

    async def gone() -> bool:
        return topic not in await admin.list_topics()

    await admin.start()
    try:
        await admin.delete_topics([topic])
        await until(gone)
    finally:
        await admin.close()
