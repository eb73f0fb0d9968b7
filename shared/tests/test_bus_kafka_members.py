"""What a member of a Kafka group believes of others and of the client's inside; the real group is in tests/kafka."""

from __future__ import annotations

import inspect
import logging

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, client
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.producer.message_accumulator import MessageAccumulator
from aiokafka.producer.sender import Sender
from aiokafka.protocol.metadata import MetadataRequest_v5

from towline.bus.kafka.alignment import whole
from towline.bus.kafka.client_log import LOGGERS, Calm
from towline.bus.kafka.peers import Peer, check_name
from towline.bus.port import Assignment, TopicPartition
from towline.errors import BadInput


def parts(*names: str) -> Assignment:
    return frozenset(TopicPartition(name[:-1], int(name[-1])) for name in names)


def test_partitions_that_come_with_every_topic_are_whole() -> None:
    assert whole(parts("a0", "b0", "a1", "b1"), {"a": 3, "b": 3}) == parts("a0", "b0", "a1", "b1")


def test_a_partition_whose_sisters_another_member_has_is_left_alone() -> None:
    """In a rolling update that adds a topic, the inbox's partition may be an old member's."""
    assert whole(parts("a0", "b0", "c0", "c1"), {"a": 3, "b": 3, "c": 3}) == parts("a0", "b0", "c0")


def test_topics_with_other_counts_are_no_sisters() -> None:
    assert whole(parts("a0", "b0", "b1"), {"a": 1, "b": 2}) == parts("a0", "b0", "b1")


def test_a_static_members_name_is_what_stands_before_the_coordinators_uuid() -> None:
    uuid = "3f6c1c1e-98a5-4d4b-9b57-6b2b8a1f0c11"

    assert Peer(f"ci-0-{uuid}").has_name("ci-0")
    assert not Peer(f"ci-0-{uuid}").has_name("ci")
    assert not Peer(f"ci-0-{uuid}").has_name("ci-0-3f6c1c1e")


@pytest.mark.parametrize("name", ["", "a b", "ö", "x" * 201])
def test_a_name_that_kafka_would_refuse_is_refused_before(name: str) -> None:
    with pytest.raises(BadInput, match="member name"):
        check_name(name)


def test_the_installed_client_has_the_inside_that_is_reached_into() -> None:
    """A new version of the client that names it otherwise would hang in `stop` when the cluster is away."""
    assert "self._coordinator = None" in inspect.getsource(AIOKafkaConsumer.__init__)
    assert "self.member_id = " in inspect.getsource(GroupCoordinator.__init__)
    assert "self._client = AIOKafkaClient" in inspect.getsource(AIOKafkaConsumer.__init__)
    assert "self._sender = Sender(" in inspect.getsource(AIOKafkaProducer.__init__)
    assert "self._message_accumulator = MessageAccumulator(" in inspect.getsource(AIOKafkaProducer.__init__)
    assert callable(MessageAccumulator.fail_all)
    assert callable(Sender._fail_all)
    assert isinstance(Sender.sender_task, property)
    assert "MetadataRequest(" in inspect.getsource(AIOKafkaClient._metadata_update)


def test_to_ask_about_a_topic_does_not_make_it() -> None:
    """One that was deleted under a running service came back with one partition."""
    asked = client.MetadataRequest(["t"]).build(MetadataRequest_v5)

    assert "allow_auto_topic_creation=False" in repr(asked)


def test_an_outage_is_no_flood_of_the_clients_lines() -> None:
    """It says several things ten times a second."""
    now = [0.0]
    calm = Calm(lambda: now[0])
    line = logging.LogRecord("aiokafka", logging.ERROR, "client.py", 435, "Unable connect to node", None, None)
    other = logging.LogRecord("aiokafka", logging.ERROR, "client.py", 325, "Unable to update metadata", None, None)

    said = []
    for tick in range(1200):
        now[0] = tick / 10
        said += [each.lineno for each in (line, other) if calm.filter(each)]

    assert said == [435, 325] * 2


def test_every_logger_of_the_installed_client_that_speaks_in_an_outage_is_calmed() -> None:
    known = {name for name in logging.root.manager.loggerDict if name == "aiokafka" or name.startswith("aiokafka.")}
    spoken = {name for name in known if not name.startswith("aiokafka.coordinator")}

    assert set(LOGGERS) <= known
    assert {name for name in spoken if any(isinstance(each, Calm) for each in logging.getLogger(name).filters)} == set(
        LOGGERS
    )
