"""The runtime on a real SQLite bus: crashes, late results, dead letters, timers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from shared.tests.conftest import NOW, Hint, Tally, Tell, Told, created

from towline import flow
from towline.bus.port import Bus, NewRecord, TopicPartition
from towline.bus.sqlite import SqliteBus
from towline.delivery import codec
from towline.delivery.model import EffectContext, Envelope, Service, Source
from towline.errors import DependencyDown, Permanent
from towline.events import NoticeRendered
from towline.testing import Log, running
from towline.testing.rebuilt import rebuilt

REPO = "local/app"


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    opened = await SqliteBus.open(tmp_path / "bus.db")
    await opened.ensure(flow.topics(("notifier",)))
    yield opened
    await opened.close()


async def push(bus: Bus, head: str, sequence: int, repo: str = REPO) -> None:
    lane = f"git-watcher/{repo}"
    arrived = Envelope(created(head, repo), f"e-{repo}-{sequence}", "/t", NOW, repo, None, None, lane, sequence)
    await bus.publish([codec.encode(arrived, flow.CHANGES.topic)])


async def state(bus: Bus) -> dict[str, Tally]:
    found: dict[str, Tally] = {}
    for partition in range(flow.PARTITIONS):
        records = await bus.read(TopicPartition(flow.state_of("notifier"), partition))
        found |= {key: lane.state for key, lane in rebuilt(Tally, records).items()}
    return found


async def until(check: Callable[[], Awaitable[bool]], timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not await check():  # noqa: ASYNC110 - a log has no event for "this was written"
            await asyncio.sleep(0.005)


async def dead(bus: Bus) -> list[tuple[bytes | None, str]]:
    return [
        (record.value, record.headers["tl_reason"].decode())
        for partition in range(flow.PARTITIONS)
        for record in await bus.read(TopicPartition(flow.dead_of("notifier"), partition))
    ]


async def test_an_event_is_decided_told_and_its_effect_comes_back(bus: Bus, tally: Service[Tally]) -> None:
    async with running(bus, tally):
        await push(bus, "h1", 1)
        await Log(bus).wait_for(NoticeRendered, lambda notice: notice.group == "h1")
        await until(lambda: _told(bus, 1))


async def _told(bus: Bus, count: int, key: str = REPO) -> bool:
    return (await state(bus)).get(key, Tally()).told == count


async def test_a_restarted_service_goes_on_where_it_was(bus: Bus, tally: Service[Tally]) -> None:
    async with running(bus, tally):
        await push(bus, "h1", 1)
        await until(lambda: _told(bus, 1))
    await push(bus, "h2", 2)
    async with running(bus, tally):
        await until(lambda: _told(bus, 2))
    assert (await state(bus))[REPO].total == 2


async def test_an_effect_cut_off_by_a_stop_runs_again_after_the_start(bus: Bus, tally: Service[Tally]) -> None:
    began, ids = asyncio.Event(), []

    async def never(_: Tell, context: EffectContext) -> Told:
        ids.append(context.id)
        began.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def done(effect: Tell, context: EffectContext) -> Told:
        ids.append(context.id)
        return Told(head=effect.head)

    async with running(bus, replace(tally, effects={Tell: never})):
        await push(bus, "h1", 1)
        await asyncio.wait_for(began.wait(), 10)
    async with running(bus, replace(tally, effects={Tell: done})):
        await until(lambda: _told(bus, 1))
    assert ids[0] == ids[1]


async def test_a_copy_of_an_event_changes_nothing(bus: Bus, tally: Service[Tally]) -> None:
    async with running(bus, tally):
        await push(bus, "h1", 1)
        await push(bus, "h1", 1)
        await push(bus, "h2", 2)
        await until(lambda: _told(bus, 2))
    assert (await state(bus))[REPO].total == 2


async def test_an_undecodable_record_is_buried_with_its_bytes_and_the_next_one_is_handled(
    bus: Bus, tally: Service[Tally]
) -> None:
    headers = {"ce_type": b"dev.cdevents.change.created.0.4.0"}
    await bus.publish([NewRecord(flow.CHANGES.topic, REPO, b"\xff\x00", headers)])
    async with running(bus, tally):
        await push(bus, "h1", 1)
        await until(lambda: _told(bus, 1))
    [(raw, reason)] = await dead(bus)
    assert raw == b"\xff\x00"
    assert "no event" in reason


async def test_a_key_whose_decide_fails_is_parked_and_other_keys_go_on(bus: Bus, tally: Service[Tally]) -> None:
    async with running(bus, tally):
        await push(bus, "poison", 1)
        await push(bus, "h2", 2)
        await push(bus, "h1", 1, repo="local/other")
        await until(lambda: _told(bus, 1, "local/other"))
        await until(lambda: _is(dead(bus), 2))
    assert all("RuntimeError" in reason for _, reason in await dead(bus))


async def _is(found: Awaitable[list[tuple[bytes | None, str]]], count: int) -> bool:
    return len(await found) == count


async def test_a_timer_rings_also_after_a_restart(bus: Bus, tally: Service[Tally]) -> None:
    async with running(bus, tally):
        await push(bus, "timer", 1)
        await until(lambda: _told(bus, 1))
    async with running(bus, tally):
        await until(lambda: _rung(bus))


async def _rung(bus: Bus) -> bool:
    return (await state(bus))[REPO].rung == 1


async def test_a_permanent_failure_comes_back_as_one(bus: Bus, tally: Service[Tally]) -> None:
    async def refuse(_: Tell, __: EffectContext) -> Told:
        raise Permanent("no such ear")

    async with running(bus, replace(tally, effects={Tell: refuse})):
        await push(bus, "h1", 1)
        await until(lambda: _failed(bus))


async def _failed(bus: Bus) -> bool:
    return (await state(bus)).get(REPO, Tally()).failed == 1


async def test_a_dead_dependency_of_one_key_delays_no_other(bus: Bus, tally: Service[Tally]) -> None:
    mended = asyncio.Event()

    async def sometimes(effect: Tell, _: EffectContext) -> Told:
        if effect.head.startswith("down") and not mended.is_set():
            raise DependencyDown("the ear is away", after=0.01)
        return Told(head=effect.head)

    async with running(bus, replace(tally, effects={Tell: sometimes})):
        await push(bus, "down", 1)
        await push(bus, "up", 1, repo="local/other")
        await until(lambda: _told(bus, 1, "local/other"))
        assert not await _told(bus, 1)
        mended.set()
        await until(lambda: _told(bus, 1))


async def test_what_a_source_emits_twice_counts_once(bus: Bus, tally: Service[Tally]) -> None:
    async def source(source: Source, stopping: asyncio.Event) -> None:
        for basis in ("ref 1", "ref 1", "ref 2"):
            await source.emit(REPO, basis, Hint(word="pushed"))
        await stopping.wait()

    async def two() -> bool:
        return (await state(bus)).get(REPO, Tally()).total == 2

    async with running(bus, replace(tally, sources=(source,))):
        await until(two)


async def test_offsets_are_committed_behind_what_is_finished(bus: Bus, tally: Service[Tally]) -> None:
    async with running(bus, tally):
        await push(bus, "h1", 1)
        await until(lambda: _told(bus, 1))
    handled: list[str] = []

    def watch(state: Tally, envelope: Envelope, now: object) -> object:
        handled.append(envelope.id)
        raise AssertionError("everything was committed")

    async with running(bus, replace(tally, decide=watch)):  # type: ignore[arg-type]
        pass
    assert handled == []
