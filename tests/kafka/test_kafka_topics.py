"""What a real cluster says of topics that others made, and to a user who may not make any."""

from __future__ import annotations

import shlex
import subprocess
import uuid
from datetime import timedelta

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from tests.kafka.conftest import Guarded

from towline.bus.kafka import KafkaBus
from towline.bus.kafka.topics import WrongTopics
from towline.bus.port import Cleanup, NewRecord, Topic, TopicPartition
from towline.bus.settings import KafkaSettings

pytestmark = pytest.mark.kafka


async def make(address: str, *topics: NewTopic) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.create_topics(list(topics))
    finally:
        await admin.close()


async def test_all_wrong_settings_are_named_at_once_and_the_commands_mend_them(guarded: Guarded) -> None:
    prefix = f"t{uuid.uuid4().hex[:8]}"
    facts, state = Topic(f"{prefix}.facts", 2), Topic(f"{prefix}.state", 2, Cleanup.COMPACT)
    wrong = {"retention.ms": "60000", "max.message.bytes": "1000", "unclean.leader.election.enable": "true"}
    address = guarded.instance.kafka
    await make(
        address,
        NewTopic(facts.name, 2, 1, topic_configs=wrong | {"message.timestamp.type": "LogAppendTime"}),
        NewTopic(state.name, 2, 1, topic_configs={"cleanup.policy": "compact,delete"}),
    )
    bus = await KafkaBus.open(address)
    try:
        with pytest.raises(WrongTopics) as refused:
            await bus.ensure([facts, state])
        assert {(each.topic, each.setting) for each in refused.value.problems} == {
            (facts.name, "message.timestamp.type"),
            (facts.name, "unclean.leader.election.enable"),
            (facts.name, "retention.ms"),
            (facts.name, "max.message.bytes"),
            (state.name, "cleanup.policy"),
            (state.name, "min.compaction.lag.ms"),
            (state.name, "max.message.bytes"),
        }
        assert str(refused.value).startswith(f"7 things are wrong with the topics on {address}:")
        assert list(await bus.check([facts, state])) == list(refused.value.problems)

        for problem in refused.value.problems:
            if problem.topic == state.name:
                mend(guarded, problem.lines(address)[1])
        assert {each.topic for each in await bus.check([facts, state])} == {facts.name}
    finally:
        await bus.close()


def mend(guarded: Guarded, command: str) -> None:
    """Run what was printed; the script is a name for this class."""
    script, *words = shlex.split(command)
    assert script == "kafka-configs.sh"
    libs = guarded.instance.cache.kafka / "libs"
    subprocess.run(
        ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{libs}/*", "kafka.admin.ConfigCommand", *words],
        check=True,
        capture_output=True,
    )


async def test_who_may_make_no_topic_is_told_which_and_how(guarded: Guarded) -> None:
    topics = [Topic(f"t{uuid.uuid4().hex[:8]}", 3, retention=timedelta(days=7)) for _ in range(2)]
    servers = guarded.instance.kafka_listener("sasl")
    bob = await KafkaBus.open(servers, guarded.settings(guarded.tls, guarded.login("SCRAM-SHA-512", "bob")))
    try:
        with pytest.raises(WrongTopics) as refused:
            await bob.ensure(topics)
    finally:
        await bob.close()
    said = str(refused.value)
    for topic in topics:
        assert f"topic {topic.name} is missing: this user may neither see nor make it" in said
        assert f"kafka-topics.sh --bootstrap-server {servers} --create --topic {topic.name} --partitions 3" in said

    alice = await KafkaBus.open(servers, guarded.settings(guarded.tls, guarded.login("SCRAM-SHA-512")))
    try:
        await alice.ensure(topics)
        assert list(await alice.check(topics)) == []
    finally:
        await alice.close()


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_what_is_written_with_any_compression_is_read_back(guarded: Guarded, compression: str) -> None:
    bus = await KafkaBus.open(guarded.instance.kafka, KafkaSettings.model_validate({"compression": compression}))
    topic = Topic(f"t{uuid.uuid4().hex[:8]}", 1)
    at = TopicPartition(topic.name, 0)
    try:
        await bus.ensure([topic])
        await bus.append(at, [NewRecord(topic.name, f"k{number}", b"x" * 1000) for number in range(50)])
        await bus.publish([NewRecord(topic.name, "k", b"y" * 1000)])

        found = await bus.read(at)

        assert [len(record.value or b"") for record in found] == [1000] * 51
    finally:
        await bus.close()
