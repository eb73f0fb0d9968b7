"""Each service with exactly the permissions that `towline bus acls` prints: enough for its work, and no more."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import CreateAclsRequest, DescribeAclsRequest
from tests.kafka.conftest import Guarded, unsigned_token

from towline import flow
from towline.bus.kafka import KafkaBus
from towline.bus.kafka.topics import WrongTopics
from towline.bus.port import BusDown, NewRecord, TopicPartition
from towline.bus.settings import BusSettings
from towline.errors import Permanent
from towline_cli import cluster, kafka_access

pytestmark = pytest.mark.kafka
# Numbers of Kafka's own enumerations.
RESOURCES = {"topic": 2, "group": 3}
PATTERNS = {"literal": 3, "prefixed": 4}
OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}
ALLOW, ANY = 3, 1


def requests_of(command: str) -> list[CreateAclsRequest]:
    """What kafka-acls.sh would ask the broker for."""
    script, *words = shlex.split(command)
    assert script == "kafka-acls.sh"
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--add", action="store_true", required=True)
    parser.add_argument("--operation", action="append", choices=OPERATIONS)
    parser.add_argument("--resource-pattern-type", default="literal", choices=PATTERNS)
    for name in ("--bootstrap-server", "--allow-principal"):
        parser.add_argument(name, required=True)
    named = parser.add_mutually_exclusive_group(required=True)
    for resource in RESOURCES:
        named.add_argument(f"--{resource}")
    told = parser.parse_args(words)
    ((kind, name),) = ((kind, getattr(told, kind)) for kind in RESOURCES if getattr(told, kind))
    pattern = PATTERNS[told.resource_pattern_type]
    return [
        CreateAclsRequest(RESOURCES[kind], name, pattern, told.allow_principal, "*", OPERATIONS[operation], ALLOW)
        for operation in told.operation
    ]


async def until_there(client: AIOKafkaClient, wanted: int) -> None:
    """The broker takes permissions over from its controller some time after they were given."""
    everything = DescribeAclsRequest(ANY, None, ANY, None, None, ANY, ANY)
    found = 0
    while found < wanted:
        answer = await client.send(client.get_random_node(), everything)
        found = sum(len(acls) for *_, acls in answer.resources)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def permitted(guarded: Guarded) -> AsyncIterator[Guarded]:
    """A cluster with all topics, on which every service has what is printed for it."""
    bus = await KafkaBus.open(guarded.instance.kafka)
    await bus.ensure(flow.topics())
    client = AIOKafkaClient(bootstrap_servers=guarded.instance.kafka)
    await client.bootstrap()
    try:
        wanted = 0
        for line in kafka_access.lines(flow.SERVICES, "User:<service>", creates=False, servers="k:1"):
            for request in [] if line.startswith("#") else requests_of(line):
                answer = await client.send(client.get_random_node(), request)
                assert [code for code, *_ in answer.creation_responses] == [0]
                wanted += 1
        await until_there(client, wanted)
        yield guarded
    finally:
        await client.close()
        await bus.close()


async def open_as(guarded: Guarded, name: str) -> KafkaBus:
    file = guarded.file(f"{name}.token", unsigned_token(name))
    settings = guarded.settings(guarded.tls, {"mechanism": "OAUTHBEARER", "token_file": file})
    return await KafkaBus.open(guarded.instance.kafka_listener("sasl"), settings)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("service", flow.SERVICES)
async def test_a_service_can_do_its_work_and_write_nobody_elses_topic(permitted: Guarded, service: str) -> None:
    topics = (*flow.topics_consumed_by(service), flow.inbox_of(service))
    at = TopicPartition(flow.state_of(service), 0)
    written = [stream.topic for stream in flow.STREAMS if stream.producer == service]
    bus = await open_as(permitted, service)
    try:
        await bus.ensure(flow.topics([service]))
        assert list(await bus.check(flow.topics())) == []
        consumer = await bus.consumer(service, topics, member="0")
        while len(consumer.assignment) < len(topics) * flow.PARTITIONS:
            await consumer.fetch(timeout=0.2)
        own = (*written, flow.inbox_of(service), flow.dead_of(service))
        await bus.publish([NewRecord(topic, "k", b"{}", partition=0) for topic in own])
        offset = await bus.append(at, [NewRecord(at.topic, "k", b"{}")])
        assert [record.offset for record in await bus.read(at, start=offset)] == [offset]
        await consumer.commit({TopicPartition(flow.inbox_of(service), 0): 1})

        others = {topic.name for topic in flow.topics()} - {*own, flow.state_of(service)}
        for topic in sorted(others):
            with pytest.raises(BusDown, match=r"does not allow it: .*TopicAuthorizationFailed"):
                await bus.publish([NewRecord(topic, "k", b"{}", partition=0)])
        with pytest.raises(Permanent, match="it needs Read on it"):
            await bus.consumer(f"not-{service}", topics, member="0")
    finally:
        await bus.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_who_looks_can_read_and_check_everything_and_write_what_a_replay_writes(permitted: Guarded) -> None:
    bus = await open_as(permitted, "operator")
    try:
        assert list(await bus.check(flow.topics())) == []
        for topic in flow.topics():
            await bus.read(TopicPartition(topic.name, 0))
        await bus.publish([NewRecord(flow.inbox_of(flow.RUNNER), "k", b"{}", partition=0)])
        with pytest.raises(BusDown, match="does not allow it"):
            await bus.publish([NewRecord(flow.CHANGES.topic, "k", b"{}", partition=0)])
    finally:
        await bus.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_who_may_not_even_see_the_topics_is_told_all_of_them(permitted: Guarded) -> None:
    bus = await open_as(permitted, "stranger")
    try:
        with pytest.raises(WrongTopics) as refused:
            await bus.ensure(flow.topics())
    finally:
        await bus.close()
    assert [problem.topic for problem in refused.value.problems] == [topic.name for topic in flow.topics()]


async def test_the_check_prints_what_is_wrong_and_its_mend(
    kafka_address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = BusSettings(bus=f"kafka://{kafka_address}")
    bus = await KafkaBus.open(kafka_address)
    try:
        await bus.ensure(flow.topics())
    finally:
        await bus.close()

    assert await cluster.check(settings) == 0

    assert capsys.readouterr().out.splitlines()[-1] == "20 of 20 topics are as they should be"
