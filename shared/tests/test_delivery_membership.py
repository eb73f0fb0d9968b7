"""What a runtime keeps and lets go: forgotten lanes, lost groups, held-back partitions, parts that break."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from shared.tests.conftest import NOW, Tally, Tell, Told, created

from towline import flow
from towline.bus.partition import partition_of
from towline.bus.port import MAX_RECORD_BYTES, TopicPartition
from towline.delivery import codec
from towline.delivery import runtime as runtime_module
from towline.delivery.commits import Commits
from towline.delivery.lane import Cursor, Lane
from towline.delivery.lanes import Lanes
from towline.delivery.model import Decision, EffectContext, EffectFailed, Envelope, Service
from towline.delivery.ownership import CLAIM
from towline.delivery.runtime import Runtime
from towline.delivery.timers import Timers
from towline.delivery.turn import Turn
from towline.testing import virtual
from towline.testing.memory import MemoryBus, MemoryLog
from towline.testing.rebuilt import rebuilt

Scene = Callable[[MemoryBus], Awaitable[None]]


def play(scene: Scene) -> None:
    async def whole() -> None:
        log = MemoryLog()
        for topic in flow.topics(("notifier",)):
            log.ensure(topic)
        await scene(MemoryBus(log))

    virtual.run(whole())


def start(bus: MemoryBus, service: Service[Tally], **options: float) -> tuple[Runtime[Tally], asyncio.Task[None]]:
    loop = asyncio.get_running_loop()
    runtime = Runtime(service, bus, now=lambda: datetime.fromtimestamp(loop.time(), UTC), **options)  # type: ignore[arg-type]
    return runtime, asyncio.create_task(runtime.run())


async def end(runtime: Runtime[Tally], task: asyncio.Task[None]) -> None:
    runtime.stop()
    await task


async def push(bus: MemoryBus, head: str, sequence: int, repo: str = "local/app") -> None:
    lane = f"git-watcher/{repo}@1"
    arrived = Envelope(created(head, repo), f"e-{repo}-{sequence}", "/t", NOW, repo, None, None, lane, sequence)
    await bus.publish([codec.encode(arrived, flow.CHANGES.topic)])


def rows(bus: MemoryBus) -> list[str]:
    """Keys of the state topic whose last record has a value; no claims."""
    last = {
        record.key: record.value
        for at, records in bus.log.records.items()
        if at.topic == flow.state_of("notifier")
        for record in records
    }
    return [key for key, value in last.items() if value is not None and not key.startswith(CLAIM)]


def tally_of(bus: MemoryBus, key: str = "local/app") -> Tally:
    at = TopicPartition(flow.state_of("notifier"), partition_of(key, flow.PARTITIONS))
    return rebuilt(Tally, bus.log.records.get(at, ()))[key].state


def forgets(state: Tally, envelope: Envelope, now: datetime) -> Decision[Tally]:
    """Remembers a head until its effect is done."""
    match envelope.event:
        case Told():
            return Decision(None)
        case _:
            return Decision(state.model_copy(update={"total": state.total + 1}), effects=(Tell(head="h"),))


def test_a_forgotten_lane_leaves_memory_and_log_once_its_time_has_passed(tally: Service[Tally]) -> None:
    async def scene(bus: MemoryBus) -> None:
        runtime, task = start(bus, replace(tally, decide=forgets), forgotten_stays=600.0)
        for number in range(50):
            await push(bus, "h", 1, repo=f"local/{number}")
        await asyncio.sleep(300)
        assert len(runtime._lanes) == 50
        assert {key.partition("\x1f")[2] for key in rows(bus)} == {"cursor"}
        await push(bus, "h", 1, repo="local/7")
        await asyncio.sleep(1)
        assert len(rows(bus)) == 50, "a copy is still known"
        await asyncio.sleep(600)
        assert len(runtime._lanes) == 0
        assert rows(bus) == []
        await end(runtime, task)

    play(scene)


async def test_lanes_lost_while_forgotten_ones_are_swept_are_nobodys_to_remove(tally: Service[Tally]) -> None:
    """The sweep asked for offsets, the group was lost meanwhile, and the service ended by a KeyError."""
    log = MemoryLog()
    for topic in flow.topics(("notifier",)):
        log.ensure(topic)
    bus = MemoryBus(log)
    lanes = Lanes(replace(tally, decide=forgets), bus, flow.PARTITIONS, forgotten_stays=0.0)
    for partition in range(flow.PARTITIONS):
        await lanes.load(partition)
    for key in ("local/a", "local/b"):
        lanes._keep(key, Lane(key, Tally(), Cursor(positions={flow.CHANGES.topic: 1})))

    async def lost_meanwhile(at: TopicPartition) -> int:
        lanes.drop(range(flow.PARTITIONS))
        return 1

    await lanes.sweep((), lost_meanwhile)
    assert not any(
        record.key.startswith("local/")
        for at, found in log.records.items()
        if at.topic == flow.state_of("notifier")
        for record in found
    )


def test_a_lost_group_is_loaded_again_and_nothing_is_lost_or_done_twice(tally: Service[Tally]) -> None:
    began: list[str] = []

    async def slow(effect: Tell, context: EffectContext) -> Told:
        began.append(context.id)
        await asyncio.sleep(10)
        return Told(head=effect.head)

    async def scene(bus: MemoryBus) -> None:
        runtime, task = start(bus, replace(tally, effects={Tell: slow}))
        await push(bus, "h1", 1)
        await push(bus, "timer", 2)
        await asyncio.sleep(5)
        bus.log.members["notifier"].lose()
        await asyncio.sleep(60)
        seen = tally_of(bus)
        assert (seen.total, seen.told, seen.rung) == (2, 2, 1)
        assert len(began) == 4
        assert len(set(began)) == 2
        await end(runtime, task)

    play(scene)


def test_an_effect_that_ends_slowly_begins_again_where_its_lane_came_back_at_once(tally: Service[Tally]) -> None:
    """It counted as begun until it had ended, so the lane that came back waited for ever."""
    began: list[str] = []

    async def slow(effect: Tell, context: EffectContext) -> Told:
        began.append(context.id)
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(5)  # such as a sandbox that is taken down
            raise
        return Told(head=effect.head)

    async def scene(bus: MemoryBus) -> None:
        runtime, task = start(bus, replace(tally, effects={Tell: slow}))
        await push(bus, "h1", 1)
        await asyncio.sleep(5)
        bus.log.members["notifier"].lose()
        await asyncio.sleep(60)
        assert tally_of(bus).told == 1
        assert len(began) == 2
        await end(runtime, task)

    play(scene)


def test_a_partition_with_much_unfinished_is_held_back_and_goes_on_at_once(
    tally: Service[Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_module, "Commits", lambda: Commits(most_open=10))

    class Slow(MemoryBus):
        async def reach(self, operation: str, *, done: bool) -> None:
            await asyncio.sleep(1.0 if operation == "append" else 0)

        def offer(self, behind: object, limit: int) -> list[object]:  # type: ignore[override]
            return super().offer(behind, 10)  # type: ignore[arg-type,return-value]

    async def scene(bus: MemoryBus) -> None:
        slow = Slow(bus.log)
        runtime, task = start(slow, tally)
        for number in range(40):
            await push(bus, f"h{number}", number + 1)
        gaps = []
        for _ in range(200):
            await asyncio.sleep(1)
            gaps.append(runtime._commits.gap)
        assert 10 <= max(gaps) <= 60
        assert tally_of(bus).total == 40
        await end(runtime, task)

    play(scene)


def test_a_decision_too_large_for_the_bus_parks_its_key_and_other_keys_go_on(tally: Service[Tally]) -> None:
    def large(state: Tally, envelope: Envelope, now: datetime) -> Decision[Tally]:
        if envelope.key == "local/app":
            return Decision(state, effects=(Tell(head="x" * MAX_RECORD_BYTES),))
        return Decision(state.model_copy(update={"total": state.total + 1}))

    async def scene(bus: MemoryBus) -> None:
        runtime, task = start(bus, replace(tally, decide=large))
        await push(bus, "h1", 1)
        await push(bus, "h2", 2)
        await push(bus, "h1", 1, repo="local/other")
        await asyncio.sleep(10)
        assert tally_of(bus, "local/other").total == 1
        dead = [r for at, found in bus.log.records.items() if at.topic == flow.dead_of("notifier") for r in found]
        assert len(dead) == 2
        assert b"artifact store" in dead[0].headers["tl_reason"]
        await end(runtime, task)

    play(scene)


def test_a_result_too_large_for_the_bus_comes_back_as_a_failure_that_says_whose(tally: Service[Tally]) -> None:
    """Without what was asked for, a lane could not tell which of its questions had failed, and waited for ever."""
    payloads = []

    def remembers(state: Tally, envelope: Envelope, now: datetime) -> Decision[Tally]:
        if isinstance(envelope.event, EffectFailed):
            payloads.append(envelope.event.payload)
        return tally.decide(state, envelope, now)

    async def talks(_: Tell, __: EffectContext) -> Told:
        return Told(head="x" * MAX_RECORD_BYTES)

    async def scene(bus: MemoryBus) -> None:
        runtime, task = start(bus, replace(tally, decide=remembers, effects={Tell: talks}))
        await push(bus, "h1", 1)
        await asyncio.sleep(10)
        assert tally_of(bus).failed == 1
        assert payloads == [{"head": "h1"}]
        await end(runtime, task)

    play(scene)


def test_a_part_that_breaks_ends_the_service_loudly(tally: Service[Tally], monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(self: Timers) -> None:
        await asyncio.sleep(3)
        raise ZeroDivisionError("a bug in a part")

    monkeypatch.setattr(Timers, "run", breaks)

    async def scene(bus: MemoryBus) -> None:
        _, task = start(bus, tally)
        with pytest.raises(ZeroDivisionError):
            await task

    play(scene)


def test_an_idle_service_hardly_wakes(tally: Service[Tally]) -> None:
    async def scene(bus: MemoryBus) -> None:
        reached = 0

        class Counting(MemoryBus):
            async def reach(self, operation: str, *, done: bool) -> None:
                nonlocal reached
                reached += 1

        runtime, task = start(Counting(bus.log), tally)
        await asyncio.sleep(60)
        before = reached
        await asyncio.sleep(timedelta(hours=1).total_seconds())
        assert reached - before < 2 * 3600 / 4
        await end(runtime, task)

    play(scene)


def test_a_partition_claimed_while_others_are_taken_gives_nothing_until_it_is_taken_again(
    tally: Service[Tally],
) -> None:
    """The end of `assigned` let it give again: what came was passed over, what came later was committed."""

    async def scene(bus: MemoryBus) -> None:
        runtime = Runtime(tally, bus)
        membership = runtime._membership
        take, number = membership._take, partition_of("local/app", flow.PARTITIONS)
        claimed = False

        async def claimed_meanwhile(partition: int) -> None:
            nonlocal claimed
            await take(partition)
            if partition == number and not claimed:
                claimed = True
                holdings = runtime._lanes._holdings
                holdings._fence(holdings._holding(partition), "claimed by another")
                await asyncio.sleep(1)

        membership._take = claimed_meanwhile  # type: ignore[method-assign]
        await push(bus, "h1", 1)
        task = asyncio.create_task(runtime.run())
        await runtime.started.wait()
        at = TopicPartition(flow.CHANGES.topic, number)
        assert at in runtime._commits._stopped
        await asyncio.sleep(10)
        assert at not in runtime._commits._stopped
        assert tally_of(bus).total == 1
        await end(runtime, task)

    play(scene)


def test_a_turn_that_does_not_end_keeps_nothing_from_its_key_when_the_partition_is_back(tally: Service[Tally]) -> None:
    """What came was put behind the old turn and was gone when that ended: never handled, and nothing more committed."""

    async def scene(bus: MemoryBus) -> None:
        runtime, task = start(bus, tally)
        await runtime.started.wait()
        store, released, storing = runtime._lanes.store, asyncio.Event(), asyncio.Event()

        async def deaf(turn: Turn[Tally]) -> None:
            runtime._lanes.store = store  # type: ignore[method-assign]
            storing.set()
            while not released.is_set():
                with suppress(asyncio.CancelledError):
                    await released.wait()
            raise asyncio.CancelledError

        runtime._lanes.store = deaf  # type: ignore[method-assign]
        await push(bus, "h1", 1)
        await storing.wait()
        everything = runtime._commits.assignment
        await runtime._membership.revoked(everything)
        await runtime._membership.assigned(everything)
        await runtime._membership._read_again(everything)
        await asyncio.sleep(1)
        released.set()
        await asyncio.sleep(5)
        assert tally_of(bus).total == 1
        assert runtime._commits.gap == 0
        await end(runtime, task)

    play(scene)


def test_a_partition_that_cannot_be_taken_again_by_a_bug_ends_the_service_loudly(tally: Service[Tally]) -> None:
    """It was one line of log: the partition stayed stopped, and the service looked healthy."""

    async def scene(bus: MemoryBus) -> None:
        runtime, task = start(bus, tally)
        await runtime.started.wait()

        async def breaks(partition: int) -> None:
            raise ZeroDivisionError(f"a bug in the state of {partition}")

        runtime._membership._take = breaks  # type: ignore[method-assign]
        holdings = runtime._lanes._holdings
        holdings._fence(holdings._holding(3), "claimed by another")
        async with asyncio.timeout(60):
            with pytest.raises(ZeroDivisionError):
                await task

    play(scene)
