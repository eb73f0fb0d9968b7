"""Any history of publishes, members, deaths and restarts, on each bus: the port's promises hold."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from aiokafka import AIOKafkaConsumer
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.contract.machine import BusMachine
from tests.contract.places import KafkaPlace, MemoryPlace, Place, SqlitePlace

PROFILE = os.environ.get("TOWLINE_PROFILE", "default")
IN_MEMORY = {"fast": 10, "default": 500, "nightly": 10_000}[PROFILE]
ON_SQLITE = {"fast": 2, "default": 60, "nightly": 1_000}[PROFILE]
ON_KAFKA_S = {"fast": 10.0, "default": 60.0, "nightly": 900.0}[PROFILE]
AS_FOUND = [Phase.explicit, Phase.reuse, Phase.generate]
"""Without shrinking, which takes five minutes; it can be done at leisure with the `@reproduce_failure` printed."""
HEARTBEAT_MS, SESSION_MS = 100, 6_000
"""How soon a member of a Kafka group hears of a rebalance, and how long one is waited for that died while it joined."""


class InMemory(BusMachine):
    def start(self) -> Place:
        return MemoryPlace()


class OnSqlite(BusMachine):
    def start(self) -> Place:
        return SqlitePlace()


@pytest.mark.timeout(900)
def test_the_bus_in_memory_keeps_the_promises_of_the_port() -> None:
    how = settings(
        max_examples=IN_MEMORY, stateful_step_count=30, phases=AS_FOUND, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(InMemory, settings=how)


@pytest.mark.timeout(900)
def test_the_bus_on_sqlite_keeps_the_promises_of_the_port() -> None:
    how = settings(
        max_examples=ON_SQLITE, stateful_step_count=30, phases=AS_FOUND, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(OnSqlite, settings=how)


@pytest.fixture
def attentive_members() -> Iterator[None]:
    """Members that ask more often whether there is a rebalance; nothing else about them is changed."""

    class Attentive(AIOKafkaConsumer):  # type: ignore[misc]
        def __init__(self, **options: object) -> None:
            super().__init__(**{**options, "heartbeat_interval_ms": HEARTBEAT_MS, "session_timeout_ms": SESSION_MS})

    with patch("towline.bus.kafka.consumer.AIOKafkaConsumer", Attentive):
        yield


@pytest.mark.kafka
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("attentive_members")
def test_the_bus_on_kafka_keeps_the_promises_of_the_port(kafka_address: str) -> None:
    """As many histories as the time allows, always the same ones in the same order."""
    loop = asyncio.new_event_loop()
    how = settings(
        max_examples=3, stateful_step_count=25, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    until, batch = time.monotonic() + ON_KAFKA_S, 0
    while time.monotonic() < until:

        @seed(batch)
        class OnKafka(BusMachine):
            def start(self) -> Place:
                return KafkaPlace(kafka_address, loop)

        run_state_machine_as_test(OnKafka, settings=how)
        batch += 1
    loop.close()
