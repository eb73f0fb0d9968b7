"""A key is stuck by a bug and put right after an upgrade; whatever is asked for, nothing is lost, doubled or reordered.

Here on SQLite; `tests/flow` runs the same on a real Kafka.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pytest

from towline import flow
from towline.bus.open import open_bus
from towline.bus.pages import records_from
from towline.bus.partition import partition_of
from towline.bus.port import MAX_RECORD_BYTES, Bus, NewRecord, Record, TopicPartition
from towline.bus.size import record_bytes
from towline.delivery import codec, dead, letters, standing
from towline.delivery.lane import SEPARATOR
from towline.delivery.letters import Folded, Kind, Said, fold
from towline.delivery.model import Decision, Envelope, ReplayRequested, Service, State
from towline.delivery.open_letters import OpenLetters
from towline.events import ChangeCreated, Event
from towline.telemetry import metrics
from towline.testing import running
from towline.testing.rebuilt import rebuilt

pytestmark = pytest.mark.whole_service
NOW = datetime(2026, 1, 2, tzinfo=UTC)
HOT, COLD = "local/hot", "local/cold"


class Book(State):
    words: tuple[str, ...] = ()
    """Every word that was decided on, in order."""


class Word(Event):
    type: ClassVar[str] = "dev.cdeventsx.towline-test-word.said.0.1.0"
    word: str

    @property
    def subject(self) -> str:
        return self.word[:20]


class Song(Word):
    type: ClassVar[str] = "dev.cdeventsx.towline-test-song.sung.0.1.0"


def after_the_upgrade(state: Book, envelope: Envelope, _: datetime) -> Decision[Book]:
    match envelope.event:
        case Word() as event:
            return Decision(Book(words=(*state.words, event.word[:20])))
        case ChangeCreated() as event:
            return Decision(Book(words=(*state.words, event.head)))
    return Decision(state)


def with_a_bug(state: Book, envelope: Envelope, now: datetime) -> Decision[Book]:
    if isinstance(envelope.event, Word) and envelope.event.word.startswith("poison"):
        raise RuntimeError("a bug that this word brings out")
    return after_the_upgrade(state, envelope, now)


@dataclass
class Stage:
    """One service on a bus, before its upgrade and after it."""

    bus: Bus
    name: str
    _said: int = 0

    @property
    def old(self) -> Service[Book]:
        return Service(self.name, Book, with_a_bug, inbox=(Word,))

    @property
    def new(self) -> Service[Book]:
        return Service(self.name, Book, after_the_upgrade, inbox=(Word, Song))

    async def say(self, *words: str, key: str = HOT, event: type[Word] = Word) -> None:
        """As another service's lane would: each with the next sequence of one producer."""
        for word in words:
            self._said += 1
            lane = f"author/{key}@1"
            said = Envelope(event(word=word), f"e{self._said}", "/t", NOW, key, None, None, lane, self._said)
            await self.bus.publish([codec.encode(said, flow.inbox_of(self.name))])

    async def ask(self, key: str = HOT, ids: Sequence[str] = (), cause: str = "ada") -> None:
        asked = ReplayRequested(by="ada", letters=tuple(ids))
        await self.bus.publish([dead.request(self.name, key, asked, cause=cause, now=NOW)])

    async def letters(self) -> Folded:
        return fold(self.name, await self.records(flow.dead_of(self.name)))

    async def open(self) -> list[tuple[str, int]]:
        """Kind and number of times of each open letter, in order."""
        return [(letter.kind, letter.times) for letter in (await self.letters()).letters if letter.open]

    async def words(self, key: str = HOT) -> tuple[str, ...]:
        lane = rebuilt(Book, await self.records(flow.state_of(self.name))).get(key)
        return () if lane is None else lane.state.words

    async def parked(self, key: str = HOT) -> bool:
        return rebuilt(Book, await self.records(flow.state_of(self.name)))[key].parked is not None

    async def records(self, topic: str) -> list[Record]:
        found: list[Record] = []
        for key in (HOT, COLD):
            at = TopicPartition(topic, partition_of(key, flow.PARTITIONS))
            found += [record async for record in records_from(self.bus, at)]
        return found


@asynccontextmanager
async def staged(url: str) -> AsyncIterator[Stage]:
    """A service of its own name: on a bus that is there for others too."""
    name = f"dead-{uuid.uuid4().hex[:8]}"
    bus = await open_bus(url)
    try:
        await bus.ensure(flow.topics((name,)))
        yield Stage(bus, name)
    finally:
        await bus.close()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(f"sqlite:///{tmp_path / 'bus.db'}") as on_sqlite:
        yield on_sqlite


async def until(check: Callable[[], Awaitable[bool]], timeout: float = 30.0) -> None:
    async with asyncio.timeout(timeout):
        while not await check():  # noqa: ASYNC110 - a log has no event for "this was written"
            await asyncio.sleep(0.01)


async def stuck(stage: Stage) -> None:
    """Poison in the middle of a hot key, while another key goes on."""
    async with running(stage.bus, stage.old):
        await stage.say("a", "b", "poison", "c", "d")
        await stage.say("x", "y", key=COLD)
        await until(lambda: _all(stage, 3))
        await until(lambda: _said(stage, ("x", "y"), COLD))


async def _all(stage: Stage, count: int) -> bool:
    return len(await stage.open()) == count


async def _said(stage: Stage, words: tuple[str, ...], key: str = HOT) -> bool:
    return await stage.words(key) == words


async def _nothing_open(stage: Stage) -> bool:
    return not await stage.open()


async def test_after_an_upgrade_one_request_puts_a_stuck_key_right(stage: Stage) -> None:
    await stuck(stage)
    assert await stage.words() == ("a", "b")
    assert await stage.open() == [(Kind.UNDECIDED, 1), (Kind.PARKED, 1), (Kind.PARKED, 1)]

    async with running(stage.bus, stage.new):
        await stage.ask()
        await until(lambda: _said(stage, ("a", "b", "poison", "c", "d")))
        await stage.say("e")
        await until(lambda: _said(stage, ("a", "b", "poison", "c", "d", "e")))
    assert await stage.open() == []
    assert not await stage.parked()
    assert {(r.how, r.by) for each in (await stage.letters()).letters if (r := each.resolution)} == {
        (Said.REPLAYED, "ada")
    }


async def test_a_key_is_free_only_after_its_last_letter(stage: Stage) -> None:
    """Were it free before, a process killed in between would let newer events of other topics overtake the rest."""
    await stuck(stage)
    async with running(stage.bus, stage.new):
        await stage.ask()
        await until(lambda: _nothing_open(stage))
        await until(lambda: _free(stage))
    at = {record.key: record.offset for record in await stage.records(flow.state_of(stage.name))}
    assert at[HOT + SEPARATOR + "parked"] > at[HOT + SEPARATOR + "state"]


async def _free(stage: Stage) -> bool:
    return not await stage.parked()


async def test_without_the_upgrade_the_key_stays_parked_and_nothing_moves(stage: Stage) -> None:
    await stuck(stage)
    async with running(stage.bus, stage.old):
        await stage.ask()
        await until(lambda: _failed_again(stage))
        await stage.say("e")
        await until(lambda: _all(stage, 4))
    assert await stage.open() == [(Kind.UNDECIDED, 2), (Kind.PARKED, 1), (Kind.PARKED, 1), (Kind.PARKED, 1)]
    assert await stage.words() == ("a", "b")

    async with running(stage.bus, stage.new):
        await stage.ask(cause="again")
        await until(lambda: _said(stage, ("a", "b", "poison", "c", "d", "e")))


async def _failed_again(stage: Stage) -> bool:
    return any(times > 1 for _, times in await stage.open())


async def test_without_the_poison_the_rest_goes_on_in_its_order(stage: Stage) -> None:
    await stuck(stage)
    poison = next(letter for letter in (await stage.letters()).letters if letter.kind == Kind.UNDECIDED)
    await stage.bus.publish(
        [letters.resolved_record(flow.dead_of(stage.name), poison, Said.DROPPED, by="bob", reason="nonsense")]
    )
    async with running(stage.bus, stage.old):
        await stage.ask()
        await until(lambda: _said(stage, ("a", "b", "c", "d")))
        await stage.say("e")
        await until(lambda: _said(stage, ("a", "b", "c", "d", "e")))


async def test_a_key_without_letters_is_released_all_the_same(stage: Stage) -> None:
    await stuck(stage)
    for letter in (await stage.letters()).letters:
        dropped = letters.resolved_record(flow.dead_of(stage.name), letter, Said.DROPPED, by="bob", reason="")
        await stage.bus.publish([dropped])
    async with running(stage.bus, stage.old):
        await stage.ask()
        await stage.say("e")
        await until(lambda: _said(stage, ("a", "b", "e")))


async def test_what_is_asked_while_the_service_is_down_is_done_when_it_runs(stage: Stage) -> None:
    """Events that are older than the request are given up first and taken up with the others; newer ones wait."""
    await stuck(stage)
    await stage.say("e")
    await stage.ask()
    await stage.say("f")
    async with running(stage.bus, stage.new):
        await until(lambda: _said(stage, ("a", "b", "poison", "c", "d", "e", "f")))
    assert await stage.open() == []


async def test_two_who_ask_at_once_change_no_more_than_one(stage: Stage) -> None:
    await stuck(stage)
    await asyncio.gather(*(stage.ask(cause=who) for who in ("ada", "bob", "cy")))
    async with running(stage.bus, stage.new):
        await until(lambda: _nothing_open(stage))
        await stage.say("e")
        await until(lambda: _said(stage, ("a", "b", "poison", "c", "d", "e")))


async def test_many_letters_are_taken_up_a_few_at_a_time(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead, "MOST_TOGETHER", 2)
    async with running(stage.bus, stage.old):
        await stage.say("poison", *"abcdef")
        await until(lambda: _all(stage, 7))
    async with running(stage.bus, stage.new):
        await stage.ask()
        await until(lambda: _said(stage, ("poison", *"abcdef")))
        await stage.say("g")
        await until(lambda: _said(stage, ("poison", *"abcdefg")))


async def test_letters_that_fail_again_do_not_keep_the_request_going(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead, "MOST_TOGETHER", 2)
    async with running(stage.bus, stage.old):
        await stage.say("one", "two", "three", event=Song)
        await until(lambda: _all(stage, 3))
        await stage.ask()
        await until(lambda: _times(stage, [2, 2, 2]))
        await stage.say("a")
        await until(lambda: _said(stage, ("a",)))
    assert [times for _, times in await stage.open()] == [2, 2, 2]


async def _times(stage: Stage, times: list[int]) -> bool:
    return [each for _, each in await stage.open()] == times


async def test_a_crash_before_a_letter_is_resolved_does_not_double_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stuck(stage)

    def crash(*_: object, **__: object) -> NewRecord:
        raise MemoryError("as a kill -9 would")

    with monkeypatch.context() as patched:
        patched.setattr(dead, "resolved_record", crash)
        await stage.ask()
        with pytest.raises(MemoryError):
            async with running(stage.bus, stage.new):
                await until(lambda: _said(stage, ("a", "b", "poison")))
    async with running(stage.bus, stage.new):
        await until(lambda: _nothing_open(stage))
    assert await stage.words() == ("a", "b", "poison", "c", "d")


async def test_a_letter_is_not_old_for_what_its_producer_said_later(stage: Stage) -> None:
    """This version takes no songs; the one after it does."""
    async with running(stage.bus, stage.old):
        await stage.say("a")
        await stage.say("lied", event=Song)
        await stage.say("b")
        await until(lambda: _said(stage, ("a", "b")))
        await until(lambda: _all(stage, 1))
        [letter] = (await stage.letters()).letters
        await stage.ask(ids=[letter.id])
        await until(lambda: _times(stage, [2]))
    assert "takes no event of type" in (await stage.letters()).letters[0].reason
    async with running(stage.bus, stage.new):
        await stage.ask(ids=[letter.id], cause="again")
        await until(lambda: _said(stage, ("a", "b", "lied")))
        await stage.ask(ids=[letter.id], cause="once more")
        await stage.say("c")
        await until(lambda: _said(stage, ("a", "b", "lied", "c")))


async def test_copies_of_what_was_handled_before_are_no_letters(stage: Stage) -> None:
    """A crash right after a key was parked brings what was handled before it again: replayed, it was decided twice."""
    await stuck(stage)
    stage._said = 0
    async with running(stage.bus, stage.old):
        await stage.say("a", "b")
        stage._said = 8
        await stage.say("e")
        await until(lambda: _all(stage, 4))
    async with running(stage.bus, stage.new):
        await stage.ask()
        await until(lambda: _said(stage, ("a", "b", "poison", "c", "d", "e")))


async def test_a_record_as_large_as_can_be_is_replayed(stage: Stage) -> None:
    said = Envelope(Word(word="poison"), "e1", "/t", NOW, HOT, None, None, f"author/{HOT}@1", 1)
    small = codec.encode(said, flow.inbox_of(stage.name))
    room = MAX_RECORD_BYTES - record_bytes(small)
    async with running(stage.bus, stage.old):
        await stage.say("poison" + "x" * (room - 14 * 2 - 14))
        await until(lambda: _all(stage, 1))
    [letter] = (await stage.letters()).letters
    assert len(letter.offsets) == 2
    async with running(stage.bus, stage.new):
        await stage.ask()
        await until(lambda: _said(stage, ("poison" + "x" * 14,)))
    assert await stage.open() == []


async def test_garbage_is_a_letter_and_stays_one_when_it_is_replayed(stage: Stage) -> None:
    raw = {"ce_type": b"\xff", "\x1b[2J": b"\x00", "tl_dead_id": b"mine"}
    async with running(stage.bus, stage.old):
        await stage.bus.publish([NewRecord(flow.inbox_of(stage.name), HOT, None, raw)])
        await until(lambda: _all(stage, 1))
        await stage.ask()
        await until(lambda: _times(stage, [2]))
        await stage.say("a")
        await until(lambda: _said(stage, ("a",)))
    [letter] = (await stage.letters()).letters
    assert letter.kind == Kind.UNDECODABLE
    at = TopicPartition(flow.dead_of(stage.name), letter.partition)
    record = letters.record_of(letter, await stage.bus.read(at, start=letter.offsets[0], limit=1))
    assert (record.value, dict(record.headers)) == (None, raw)


async def test_a_request_that_was_given_up_asks_for_nothing(stage: Stage) -> None:
    """A newer version's request may be unreadable here: replayed, it would take itself up again and again."""
    asked = dead.request(stage.name, HOT, ReplayRequested(by="ada"), cause="new", now=NOW)
    broken = replace(asked, value=b"{}")
    async with running(stage.bus, stage.old):
        await stage.bus.publish([broken])
        await until(lambda: _all(stage, 1))
        [letter] = (await stage.letters()).letters
        whole = replace(asked, topic=flow.dead_of(stage.name), partition=letter.partition)
        said = {letters.ID: b"0" * 16, letters.ORIGIN: f"t/{letter.partition}/1".encode(), letters.WRITTEN: b"1"}
        await stage.bus.publish([replace(whole, headers={**asked.headers, **said})])
        await stage.ask()
        await until(lambda: _times(stage, [2]))
        await stage.say("a")
        await until(lambda: _said(stage, ("a",)))


def created(head: str) -> ChangeCreated:
    return ChangeCreated(repo=HOT, change=f"{HOT}!t", target="main", head=head)


async def test_an_event_that_could_not_be_forwarded_is_forwarded_when_it_is_replayed(tmp_path: Path) -> None:
    """Its copy comes after those of later events of its producer, and is not old for that."""

    def to_cold(envelope: Envelope) -> list[tuple[str, Event]]:
        assert isinstance(envelope.event, ChangeCreated)
        return [(COLD, Word(word=envelope.event.head))]

    def with_a_hole(envelope: Envelope) -> list[tuple[str, Event]]:
        if "h2" in str(envelope.event):
            raise RuntimeError("a bug that this head brings out")
        return to_cold(envelope)

    bus = await open_bus(f"sqlite:///{tmp_path / 'bus.db'}")
    stage = Stage(bus, flow.NOTIFIER)
    service = Service(stage.name, Book, after_the_upgrade, inbox=(Word,), forwards={ChangeCreated: with_a_hole})
    async with running(bus, service):
        for number, head in enumerate(("h1", "h2", "h3"), 1):
            arrived = Envelope(created(head), head, "/t", NOW, HOT, None, None, "git-watcher/hot@1", number)
            await bus.publish([codec.encode(arrived, flow.CHANGES.topic)])
        await until(lambda: _said(stage, ("h1", "h3"), COLD))
        [letter] = (await stage.letters()).letters
        assert letter.kind == Kind.UNFORWARDED
    async with running(bus, replace(service, forwards={ChangeCreated: to_cold})):
        for cause in ("once", "twice"):
            await stage.ask(ids=[letter.id], cause=cause)
        await until(lambda: _said(stage, ("h1", "h3", "h2"), COLD))
        await until(lambda: _nothing_open(stage))
    await bus.close()


async def test_the_open_letters_of_a_member_are_counted_as_they_come_and_go(stage: Stage) -> None:
    counted = OpenLetters(stage.name, stage.bus)
    held = {partition_of(HOT, flow.PARTITIONS)}
    await counted.look(held)
    assert counted.count == 0
    await stuck(stage)
    await counted.look(held)
    assert counted.count == 3
    [first, *_] = (await stage.letters()).letters
    await stage.bus.publish(
        [letters.resolved_record(flow.dead_of(stage.name), first, Said.DROPPED, by="bob", reason="")]
    )
    await counted.look(held)
    assert counted.count == 2
    await counted.look({0} - held)
    assert counted.count == 0


async def test_a_request_that_comes_again_after_all_that_followed_asks_for_nothing(stage: Stage) -> None:
    """Offsets that are set back bring old requests again: they would release what is parked today."""
    await stuck(stage)
    await stage.ask()
    async with running(stage.bus, stage.new):
        await until(lambda: _nothing_open(stage))
        await stage.say("e")
        await until(lambda: _said(stage, ("a", "b", "poison", "c", "d", "e")))
    async with running(stage.bus, stage.old):
        await stage.say("poison2")
        await until(lambda: _all(stage, 1))
    consumer = await stage.bus.consumer(stage.name, [flow.inbox_of(stage.name)], member="0")
    while not consumer.assignment:
        await consumer.fetch(timeout=0.05)
    await consumer.commit({at: 0 for at in consumer.assignment if at.partition == partition_of(HOT, flow.PARTITIONS)})
    await consumer.close()
    async with running(stage.bus, stage.new):
        await stage.say("f")
        await until(lambda: _all(stage, 2))
    assert await stage.words() == ("a", "b", "poison", "c", "d", "e")
    assert await stage.parked()


async def test_a_request_that_begins_with_a_letter_that_is_gone_takes_up_all(stage: Stage) -> None:
    await stuck(stage)
    asked = ReplayRequested(by="ada", first="elsewhere")
    await stage.bus.publish([dead.request(stage.name, HOT, asked, cause="gone", now=NOW)])
    async with running(stage.bus, stage.new):
        await until(lambda: _said(stage, ("a", "b", "poison", "c", "d")))


async def test_an_event_in_a_partition_of_other_keys_is_a_letter(stage: Stage) -> None:
    """Its lane may be another member's: nobody could decide it, and its partition would wait for ever."""
    wrong = partition_of(COLD, flow.PARTITIONS)
    said = codec.encode(Envelope(Word(word="lost"), "e", "/t", NOW, HOT), flow.inbox_of(stage.name))
    async with running(stage.bus, stage.old):
        await stage.bus.publish([replace(said, partition=wrong)])
        await stage.say("a", key=COLD)
        await until(lambda: _said(stage, ("a",), COLD))
        await until(lambda: _all(stage, 1))
    assert "does not belong" in (await stage.letters()).letters[0].reason
    assert await stage.words() == ()


async def test_the_metrics_say_how_many_letters_are_open(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "LOOK_EVERY", 0.0)
    await stuck(stage)
    async with running(stage.bus, stage.old) as process:
        await process.runtimes[0].observer.look()
        assert f'towline_dead_letters_open{{service="{stage.name}"}} 3.0' in metrics.exposition().decode()


async def test_a_copy_behind_what_dropped_its_letter_is_not_taken_up(stage: Stage) -> None:
    await stuck(stage)
    poison, *_ = (await stage.letters()).letters
    at = TopicPartition(flow.dead_of(stage.name), poison.partition)
    [copy] = await stage.bus.read(at, start=poison.offsets[0], limit=1)
    await stage.bus.publish(
        [
            letters.resolved_record(flow.dead_of(stage.name), poison, Said.DROPPED, by="bob", reason=""),
            NewRecord(at.topic, copy.key, copy.value, copy.headers, at.partition),
        ]
    )
    async with running(stage.bus, stage.new):
        await stage.ask()
        await until(lambda: _said(stage, ("a", "b", "c", "d")))
        await until(lambda: _nothing_open(stage))
