"""The Kafka consumer between the client's answer and its own, where no broker can be made to stand still."""

from __future__ import annotations

from unittest.mock import sentinel

import aiokafka
from aiokafka import ConsumerRecord

from towline.bus.kafka.connection import Connection
from towline.bus.kafka.consumer import KafkaConsumer
from towline.bus.port import Assignment, TopicPartition

AT = TopicPartition("t", 0)
FOUND = {aiokafka.TopicPartition(*AT): [ConsumerRecord("t", 0, 7, 0, 0, b"k", b"v", None, 1, 1, ())]}


async def test_records_that_come_while_a_loss_is_told_are_handed_to_nobody() -> None:
    """A lane that was just given up would have begun anew, from an empty state."""
    while_told: list[int] = []

    async def on_revoked(lost: Assignment) -> None:
        assert lost == {AT}
        while_told.append(len(consumer._accept(sentinel.client, FOUND)))

    consumer = KafkaConsumer(Connection(("broker:1",)), "group", ["t"], "0", None, on_revoked)
    consumer._gain(frozenset({AT}))
    await consumer._take_over()
    assert len(consumer._accept(sentinel.client, FOUND)) == 1
    await consumer._revoke()
    assert while_told == [0]
    assert consumer.assignment == frozenset()
