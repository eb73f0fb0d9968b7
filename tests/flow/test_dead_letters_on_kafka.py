"""Dead letters and stuck keys on a real Kafka: the same bodies that the fast tests run on SQLite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from shared.tests.test_delivery_dead import (  # noqa: F401 collected here with another stage
    HOT,
    Stage,
    staged,
    stuck,
    test_a_crash_before_a_letter_is_resolved_does_not_double_it,
    test_a_letter_is_not_old_for_what_its_producer_said_later,
    test_a_record_as_large_as_can_be_is_replayed,
    test_after_an_upgrade_one_request_puts_a_stuck_key_right,
    test_garbage_is_a_letter_and_stays_one_when_it_is_replayed,
    test_what_is_asked_while_the_service_is_down_is_done_when_it_runs,
    test_without_the_poison_the_rest_goes_on_in_its_order,
    test_without_the_upgrade_the_key_stays_parked_and_nothing_moves,
    until,
)

from towline import flow
from towline.bus.foreign import RAW_HEADERS, RAW_KEY
from towline.bus.partition import partition_of
from towline.bus.port import TopicPartition
from towline.delivery.letters import Fold, Letter, record_of
from towline.testing import running
from towline_cli.dead import Picked, replaying

pytestmark = pytest.mark.kafka


@pytest.fixture
async def stage(kafka_address: str) -> AsyncIterator[Stage]:
    async with staged(f"kafka://{kafka_address}") as on_kafka:
        yield on_kafka


async def test_one_command_puts_a_stuck_key_right(
    stage: Stage, kafka_address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "towline.yaml"
    config.write_text(f"bus: kafka://{kafka_address}\ndata: {tmp_path}\n")
    await stuck(stage)
    picked = Picked(key=HOT, service=stage.name)
    async with running(stage.bus, stage.new):
        assert await replaying(config, picked, yes=False, by="ada", reason="upgraded", wait=30.0) == 0
    assert capsys.readouterr().out.endswith(f"3 replayed\n{stage.name} {HOT} is free\n")
    assert await stage.words() == ("a", "b", "poison", "c", "d")


async def test_what_no_towline_would_write_ends_whole_among_the_dead_letters(stage: Stage, kafka_address: str) -> None:
    """A null header ended the service, and the bytes of a key that is no UTF-8 were lost."""
    headers = [("twice", b"\xff"), ("twice", b"2"), ("ce_type", None)]
    producer = AIOKafkaProducer(bootstrap_servers=kafka_address)
    await producer.start()
    try:
        at = partition_of(HOT, flow.PARTITIONS)
        inbox = flow.inbox_of(stage.name)
        await producer.send_and_wait(inbox, None, key=b"\xff\xfe", headers=headers, partition=at)
    finally:
        await producer.stop()
    async with running(stage.bus, stage.old):
        await stage.say("a")
        await until(lambda: _buried(stage))
        await until(lambda: _handled(stage))
    [letter] = await _letters(stage)
    read = await stage.bus.read(TopicPartition(flow.dead_of(stage.name), letter.partition), start=letter.offsets[0])
    record = record_of(letter, read[:1])
    assert (record.value, record.headers[RAW_KEY]) == (None, b"\xff\xfe")
    assert orjson.loads(record.headers[RAW_HEADERS]) == [["twice", "/w=="], ["twice", "Mg=="], ["ce_type", None]]


async def _letters(stage: Stage) -> list[Letter]:
    folding = Fold(stage.name)
    for partition in range(flow.PARTITIONS):
        for record in await stage.bus.read(TopicPartition(flow.dead_of(stage.name), partition)):
            folding.feed(record)
    return list(folding.open())


async def _buried(stage: Stage) -> bool:
    return bool(await _letters(stage))


async def _handled(stage: Stage) -> bool:
    return await stage.words() == ("a",)
