"""A topic that was deleted and made again: its new events were taken for old ones, without a word."""

from __future__ import annotations

import logging

import pytest

from towline import flow
from towline.bus.port import TopicPartition
from towline.delivery import anew
from towline.delivery.lane import Cursor, Lane
from towline.delivery.lanes import Lanes
from towline.delivery.model import Decision, Service, State
from towline.delivery.turn import Turn
from towline.testing import virtual
from towline.testing.memory import MemoryBus, MemoryLog

INBOX = flow.inbox_of(flow.NOTIFIER)
SERVICE = Service(flow.NOTIFIER, State, lambda state, *_: Decision(state))


def lane(**positions: int) -> Lane[State]:
    return Lane("key", State(), Cursor(positions=positions, recent=("id",), sent=3))


def test_an_end_below_a_position_is_of_another_log() -> None:
    positions = anew.highest([lane(a=3, b=5), lane(a=8, other=9), lane()], ("a", "b"))

    assert positions == {"a": 8, "b": 5}
    assert anew.begun(positions, {"a": 7, "b": 5}) == {"a"}


def test_a_lane_forgets_its_place_in_that_log_alone() -> None:
    assert anew.without(lane(a=3, b=5), {"a"}) == lane(b=5)
    assert anew.without(unchanged := lane(b=5), {"a"}) is unchanged


def test_who_loads_forgets_for_good_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    log = MemoryLog()
    bus = MemoryBus(log)

    async def loaded() -> Lane[State]:
        lanes = Lanes(SERVICE, bus, flow.PARTITIONS)
        [found] = await lanes.load(lanes.partition_of("key"))
        return found

    async def scenario() -> None:
        await bus.ensure(flow.topics((flow.NOTIFIER,)))
        lanes = Lanes(SERVICE, bus, flow.PARTITIONS)
        partition = lanes.partition_of("key")
        await lanes.load(partition)
        handled = Lane("key", State(), Cursor(positions={INBOX: 40}, recent=("id",)))
        await lanes.store(Turn(handled, {"cursor": handled.cursor.model_dump_json().encode()}))
        log.heads[TopicPartition(INBOX, partition)] = 40

        assert (await loaded()).cursor.positions == {INBOX: 40}
        assert not caplog.records

        log.heads[TopicPartition(INBOX, partition)] = 0
        assert (await loaded()).cursor == Cursor(recent=("id",))
        [said] = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert "begins anew" in said.getMessage()
        assert (vars(said)["at"], vars(said)["end"], vars(said)["handled_to"]) == (f"{INBOX}/{partition}", 0, 40)

        caplog.clear()
        assert (await loaded()).cursor == Cursor(recent=("id",)), "it is in the state topic"
        assert not caplog.records

    virtual.run(scenario())
