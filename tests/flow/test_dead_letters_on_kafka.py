"""Dead letters and stuck keys on a real Kafka: the same bodies that the fast tests run on SQLite."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from shared.tests.test_delivery_dead import (  # noqa: F401 collected here with another stage
    Stage,
    staged,
    test_a_crash_before_a_letter_is_resolved_does_not_double_it,
    test_a_letter_is_not_old_for_what_its_producer_said_later,
    test_a_record_as_large_as_can_be_is_replayed,
    test_after_an_upgrade_one_request_puts_a_stuck_key_right,
    test_garbage_is_a_letter_and_stays_one_when_it_is_replayed,
    test_what_is_asked_while_the_service_is_down_is_done_when_it_runs,
    test_without_the_poison_the_rest_goes_on_in_its_order,
    test_without_the_upgrade_the_key_stays_parked_and_nothing_moves,
)

pytestmark = pytest.mark.kafka


@pytest.fixture
async def stage(kafka_address: str) -> AsyncIterator[Stage]:
    async with staged(f"kafka://{kafka_address}") as on_kafka:
        yield on_kafka
