"""Partitions that come and go: who is fenced gives up and takes again, drains end in time, one member watches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from shared.tests.conftest import NOW, Hint, Tally, Tell, Told, created

from towline import flow
from towline.bus.partition import partition_of
from towline.bus.port import BusDown, NewRecord, Topic, TopicPartition
from towline.delivery import codec, progress
from towline.delivery.commits import Commits
from towline.delivery.holdings import Holdings
from towline.delivery.lane import Lane
from towline.delivery.model import EffectContext, Envelope, Service, Source
from towline.delivery.ownership import CLAIM
from towline.delivery.progress import LONGEST_OPEN, MOST_OPEN, Progress, held_back
from towline.delivery.runtime import CLOSE_SECONDS, DRAIN_SECONDS, Runtime
from towline.testing import virtual
from towline.testing.memory import MemoryBus, MemoryLog
from towline.testing.rebuilt import rebuilt as from_records

REPO = "local/app"
PARTITION = partition_of(REPO, flow.PARTITIONS)
STATE = TopicPartition(flow.state_of("notifier"), PARTITION)
Scene = Callable[[MemoryLog], Awaitable[None]]


def play(scene: Scene) -> None:
    async def whole() -> None:
        log = MemoryLog()
        for topic in flow.topics(("notifier",)):
            log.ensure(topic)
        await scene(log)

    virtual.run(whole())


def start(bus: MemoryBus, service: Service[Tally], member: str = "0") -> tuple[Runtime[Tally], asyncio.Task[None]]:
    loop = asyncio.get_running_loop()
    runtime = Runtime(service, bus, member=member, now=lambda: datetime.fromtimestamp(loop.time(), UTC))
    return runtime, asyncio.create_task(runtime.run())


async def push(log: MemoryLog, head: str, sequence: int, repo: str = REPO) -> None:
    lane = f"git-watcher/{repo}@1"
    arrived = Envelope(created(head, repo), f"e-{repo}-{sequence}", "/t", NOW, repo, None, None, lane, sequence)
    await MemoryBus(log).publish([codec.encode(arrived, flow.CHANGES.topic)])


def rebuilt(log: MemoryLog) -> dict[str, Lane[Tally]]:
    """From the log alone, as a process finds it whose every file was destroyed."""
    return from_records(Tally, log.of_topic(flow.state_of("notifier")))


async def claim_behind(log: MemoryLog) -> None:
    """As a member would that believes to own the partition, whatever the group says."""
    await Holdings("notifier", MemoryBus(log), "other", lambda _: None, lambda _: None).take(PARTITION)


# -- fenced ------------------------------------------------------------------------------------------------------------


def test_a_claimed_partition_is_given_up_at_once_and_taken_again_while_the_group_gives_it(
    tally: Service[Tally],
) -> None:
    began: list[str] = []

    async def tell(effect: Tell, context: EffectContext) -> Told:
        began.append(effect.head)
        await asyncio.sleep(60)
        return Told(head=effect.head)

    async def scene(log: MemoryLog) -> None:
        runtime, task = start(MemoryBus(log), replace(tally, effects={Tell: tell}))
        await push(log, "h1", 1)
        await asyncio.sleep(2)
        assert runtime._lanes.holds(PARTITION)
        await claim_behind(log)
        await push(log, "h2", 2)
        await asyncio.sleep(1)
        assert not runtime._lanes.holds(PARTITION)
        assert runtime._effects.running == 0
        assert rebuilt(log)[REPO].state.total == 1, "what the fenced member wrote does not count"
        notices = [r for at, some in log.records.items() if at.topic == flow.NOTICES.topic for r in some]
        assert len(notices) == 1, "nothing of the turn left"
        await asyncio.sleep(10)
        assert runtime._lanes.holds(PARTITION)
        assert rebuilt(log)[REPO].state.total == 2
        assert began == ["h1", "h1", "h2"]
        await asyncio.sleep(70)
        assert rebuilt(log)[REPO].state.told == 2
        runtime.stop()
        await task

    play(scene)


def test_what_is_assigned_while_it_is_given_up_is_claimed_once_and_committed_again(tally: Service[Tally]) -> None:
    """Bug: both claimed it, one fenced the other, and its offsets were never committed again."""

    async def scene(log: MemoryLog) -> None:
        runtime, task = start(MemoryBus(log), tally)
        await push(log, "h1", 1)
        await asyncio.sleep(2)
        await claim_behind(log)
        await push(log, "h2", 2)
        await asyncio.sleep(1)
        assert not runtime._lanes.holds(PARTITION)
        claims = [r for r in log.records[STATE] if r.key.startswith(CLAIM) and r.value]
        # As a bus does that could not tell the former gain: nothing was told lost.
        await runtime._membership.assigned(runtime._commits.assignment)
        assert runtime._lanes.holds(PARTITION)
        assert not runtime._membership._giving_up
        await asyncio.sleep(20)
        since = [r for r in log.records[STATE] if r.key.startswith(CLAIM) and r.value and r not in claims]
        assert len(since) == 1
        await push(log, "h3", 3)
        await asyncio.sleep(5)
        assert rebuilt(log)[REPO].state.total == 3
        changes = TopicPartition(flow.CHANGES.topic, PARTITION)
        assert log.offsets["notifier", changes] == log.heads[changes]
        runtime.stop()
        await task

    play(scene)


async def test_what_is_nobodys_here_keeps_no_other_offset_from_being_committed() -> None:
    """Bug: one finished record of a partition that was lost refused every later commit of all others."""
    log = MemoryLog()
    log.ensure(Topic("t", 1))
    consumer = await MemoryBus(log).consumer("g", ["t"], member="0")
    await consumer.fetch(timeout=0)
    commits, mine, lost = Commits(), TopicPartition("t", 0), TopicPartition("t", 7)
    commits.follow(consumer)
    for at in (mine, lost):
        commits.progress(at).started(0, 0.0)
        commits.finished(at, commits.progress(at), 0)
    await commits.commit()
    assert log.offsets["g", mine] == 1


def test_an_idle_owner_finds_out_by_following(tally: Service[Tally]) -> None:
    async def scene(log: MemoryLog) -> None:
        runtime, task = start(MemoryBus(log), tally)
        await push(log, "h1", 1)
        await asyncio.sleep(20)
        await claim_behind(log)
        await asyncio.sleep(6)
        assert not runtime._lanes.holds(PARTITION)
        runtime.stop()
        await task

    play(scene)


def test_what_a_zombie_wrote_over_an_idle_owner_is_written_again(tally: Service[Tally]) -> None:
    async def scene(log: MemoryLog) -> None:
        runtime, task = start(MemoryBus(log), tally)
        await push(log, "h1", 1)
        await asyncio.sleep(20)
        before = rebuilt(log)
        row = [r for r in log.records[STATE] if r.key == f"{REPO}\x1fstate"][-1]
        log.add(NewRecord(STATE.topic, row.key, b'{"total": 77}', {"tl_generation": b"0"}, PARTITION))
        assert rebuilt(log) == before
        await asyncio.sleep(8)
        last = [r for r in log.records[STATE] if r.key == row.key][-1]
        assert last.value == row.value
        assert last.headers["tl_generation"] == b"1"
        assert rebuilt(log) == before == runtime._lanes._lanes
        runtime.stop()
        await task

    play(scene)


def test_no_effect_begins_while_it_is_not_known_who_owns_the_lane(tally: Service[Tally]) -> None:
    """A retry that comes long after the turn asks first; and asks again while the bus is away."""
    tries: list[float] = []

    async def scene(log: MemoryLog) -> None:
        loop = asyncio.get_running_loop()

        class Away(MemoryBus):
            away = False

            async def reach(self, operation: str, *, done: bool) -> None:
                if self.away:
                    raise BusDown("the cluster is unreachable")

        async def tell(_: Tell, __: EffectContext) -> Told:
            tries.append(loop.time())
            if len(tries) == 1:
                bus.away = True
                raise TimeoutError("not now")
            return Told(head="h1")

        bus = Away(log)
        runtime, task = start(bus, replace(tally, effects={Tell: tell}, pools={}))
        await push(log, "h1", 1)
        await asyncio.sleep(2)
        first = len(tries)
        runtime._effects.drop({REPO})
        for item in runtime._lanes.get(REPO).outbox.values():
            loop.call_later(30, runtime._effects.start, REPO, item)
        await asyncio.sleep(60)
        assert len(tries) == first, "nothing began after the belief had grown old"
        bus.away = False
        await asyncio.sleep(60)
        assert len(tries) == first + 1
        assert rebuilt(log)[REPO].state.told == 1
        runtime.stop()
        await task

    play(scene)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_drain_ends_in_time_although_everything_hangs(tally: Service[Tally]) -> None:
    async def deaf(*_: object) -> None:
        """Ends a minute after it was told to."""
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(60)

    class Hangs(MemoryBus):
        hangs = False

        async def reach(self, operation: str, *, done: bool) -> None:
            if self.hangs:
                await asyncio.sleep(3600)

    async def scene(log: MemoryLog) -> None:
        loop, bus = asyncio.get_running_loop(), Hangs(log)
        service = replace(tally, effects={Tell: deaf}, sources=(deaf,), watches=(deaf,), close=deaf)
        runtime, task = start(bus, service)
        await push(log, "h1", 1)
        await asyncio.sleep(5)
        await push(log, "h2", 2)
        bus.hangs = True
        await asyncio.sleep(0.5)
        began = loop.time()
        runtime.stop()
        await task
        assert loop.time() - began <= DRAIN_SECONDS + CLOSE_SECONDS + 1

    play(scene)


def test_a_loss_is_told_in_time_although_a_turn_and_an_effect_hang(tally: Service[Tally]) -> None:
    class Hangs(MemoryBus):
        hangs = False

        async def reach(self, operation: str, *, done: bool) -> None:
            if self.hangs and operation in ("append", "commit"):
                await asyncio.sleep(3600)

    async def never(_: Tell, __: EffectContext) -> Told:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(60)
        raise AssertionError("unreachable")

    async def scene(log: MemoryLog) -> None:
        loop, bus = asyncio.get_running_loop(), Hangs(log)
        _, task = start(bus, replace(tally, effects={Tell: never}))
        await push(log, "h1", 1)
        await asyncio.sleep(5)
        bus.hangs = True
        await push(log, "h2", 2)
        await asyncio.sleep(1)
        other, other_task = start(MemoryBus(log), tally, "1")
        began = loop.time()
        await asyncio.wait_for(other.started.wait(), 60)
        assert loop.time() - began <= 11
        for each in (task, other_task):
            each.cancel()
        await asyncio.wait((task, other_task))

    play(scene)


# -- held back ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paused", "gap", "age", "expected"),
    [
        (False, MOST_OPEN - 1, 0.0, False),
        (False, MOST_OPEN, 0.0, True),
        (True, MOST_OPEN // 2, 0.0, True),
        (True, MOST_OPEN // 2 - 1, 0.0, False),
        (False, 1, LONGEST_OPEN, True),
        (True, 1, LONGEST_OPEN - 0.1, False),
        (True, MOST_OPEN - 1, 0.0, True),
    ],
)
def test_a_partition_is_held_back_for_number_or_age(paused: bool, gap: int, age: float, expected: bool) -> None:
    assert held_back(paused, gap, age, most=progress.MOST_OPEN, longest=progress.LONGEST_OPEN) is expected


def test_the_age_is_that_of_the_oldest_unfinished_record() -> None:
    taken = Progress()
    for offset, now in ((5, 0.0), (6, 10.0), (7, 20.0)):
        taken.started(offset, now)
    assert taken.age(30.0) == 30.0
    taken.finished(6)
    assert taken.age(30.0) == 30.0
    taken.finished(5)
    assert taken.age(30.0) == 10.0
    taken.finished(7)
    assert taken.age(30.0) == 0.0


def test_a_partition_with_one_old_record_gives_no_more_and_others_go_on(tally: Service[Tally]) -> None:
    class Slow(MemoryBus):
        stuck = True

        async def publish(self, records):  # type: ignore[no-untyped-def]
            while self.stuck and any(record.key == REPO for record in records):  # noqa: ASYNC110
                await asyncio.sleep(1)
            return await super().publish(records)

    async def scene(log: MemoryLog) -> None:
        bus = Slow(log)
        runtime, task = start(bus, tally)
        await push(log, "h1", 1)
        await asyncio.sleep(LONGEST_OPEN + 10)
        at = TopicPartition(flow.CHANGES.topic, PARTITION)
        assert at in runtime._commits._held_back
        same = next(n for n in range(1000) if partition_of(f"k{n}", flow.PARTITIONS) == PARTITION)
        elsewhere = next(n for n in range(1000) if partition_of(f"k{n}", flow.PARTITIONS) != PARTITION)
        await push(log, "h", 1, repo=f"k{same}")
        await push(log, "h", 1, repo=f"k{elsewhere}")
        await asyncio.sleep(20)
        assert f"k{elsewhere}" in rebuilt(log)
        assert f"k{same}" not in rebuilt(log)
        bus.stuck = False
        await asyncio.sleep(5)
        assert rebuilt(log)[f"k{same}"].state.total == 1
        runtime.stop()
        await task

    play(scene)


async def test_what_was_lost_tells_nothing_when_it_ends_late() -> None:
    """A record of before the loss resumed what was paused for those of after it."""
    at = TopicPartition("t", 0)
    commits = Commits(most_open=2)
    before = commits.progress(at)
    before.started(1, 0.0)
    commits.drop(frozenset({at}))
    for offset in (1, 2, 3):
        commits.progress(at).started(offset, asyncio.get_running_loop().time())
    commits.hold_back()
    commits.finished(at, before, 1)
    assert commits._held_back == {at}


# -- sources -----------------------------------------------------------------------------------------------------------


def test_one_member_watches_and_all_receive_and_the_watch_moves(tally: Service[Tally]) -> None:
    running: set[tuple[str, str]] = set()

    def sources(member: str) -> Service[Tally]:
        async def run(kind: str, stopping: asyncio.Event) -> None:
            running.add((kind, member))
            await stopping.wait()
            running.discard((kind, member))

        async def receiver(_: Source, stopping: asyncio.Event) -> None:
            await run("receiver", stopping)

        async def watch(_: Source, stopping: asyncio.Event) -> None:
            await run("watch", stopping)

        return replace(tally, sources=(receiver,), watches=(watch,))

    async def scene(log: MemoryLog) -> None:
        first, first_task = start(MemoryBus(log), sources("b"), "b")
        await asyncio.sleep(10)
        assert running == {("receiver", "b"), ("watch", "b")}
        second, second_task = start(MemoryBus(log), sources("a"), "a")
        await asyncio.sleep(20)
        assert running == {("receiver", "a"), ("receiver", "b"), ("watch", "a")}
        second.stop()
        await second_task
        await asyncio.sleep(20)
        assert running == {("receiver", "b"), ("watch", "b")}
        first.stop()
        await first_task
        assert running == set()

    play(scene)


def test_a_source_that_returns_early_begins_again(tally: Service[Tally]) -> None:
    """It was taken for done, and the service was deaf from then on."""
    begun: list[int] = []

    async def early(source: Source, stopping: asyncio.Event) -> None:
        begun.append(len(begun))
        if len(begun) > 2:
            await source.emit(REPO, "once", Hint(word="heard"))
            await stopping.wait()

    async def scene(log: MemoryLog) -> None:
        runtime, task = start(MemoryBus(log), replace(tally, sources=(early,)))
        await asyncio.sleep(20)
        assert begun == [0, 1, 2]
        assert rebuilt(log)[REPO].state.total == 1
        runtime.stop()
        await task

    play(scene)


# -- rebuilt -----------------------------------------------------------------------------------------------------------


def test_the_whole_state_is_rebuilt_from_the_log_alone(tally: Service[Tally]) -> None:
    """Lanes compared whole: state, tables, timers, cursors, outboxes, what is parked."""

    async def never(_: Tell, __: EffectContext) -> Told:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def scene(log: MemoryLog) -> None:
        runtime, task = start(MemoryBus(log), replace(tally, effects={Tell: never}))
        for number in range(20):
            await push(log, ("h1", "timer", "poison")[number % 3], number + 1, repo=f"local/{number % 7}")
        await asyncio.sleep(10)
        known = dict(runtime._lanes._lanes)
        runtime.stop()
        await task
        again, again_task = start(MemoryBus(log), replace(tally, effects={Tell: never}), "on another host")
        await asyncio.sleep(0.05)
        assert len(known) == 7
        assert any(lane.parked for lane in known.values())
        assert any(lane.outbox for lane in known.values())
        assert again._lanes._lanes == known == rebuilt(log)
        again.stop()
        await again_task

    play(scene)
