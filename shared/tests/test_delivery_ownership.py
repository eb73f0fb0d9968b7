"""Who owns a state partition: whatever a member that was paused writes late, the last owner's rows are what counts."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from towline import flow
from towline.bus.port import BusDown, LostAssignment, NewRecord, Record, TopicPartition
from towline.delivery import ownership
from towline.delivery.holdings import Holdings
from towline.delivery.ownership import CLAIM, Claim, Fenced, Rows, claim_record, generation_of, headers, judge
from towline.testing import virtual
from towline.testing.memory import MemoryBus, MemoryLog

T = TypeVar("T")
SERVICE = flow.NOTIFIER
STATE = flow.state_of(SERVICE)
AT = TopicPartition(STATE, 0)
KEYS = st.sampled_from(["a\x1fstate", "a\x1fcursor", "b\x1fstate"])
VALUES = st.one_of(st.none(), st.binary(min_size=1, max_size=2))


def folded(log: MemoryLog) -> dict[str, bytes]:
    """What somebody who loads now finds."""
    rows = Rows()
    for record in log.records.get(AT, ()):
        rows.feed(record.key, record.value, generation_of(record.headers))
    return rows.counting


class Line(MemoryBus):
    """A connection of one member: it may be paused before a write takes place, or lose the answer to one."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log)
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.loses_answer = False

    async def reach(self, operation: str, *, done: bool) -> None:
        if operation == "append" and not done:
            await self.goes_on.wait()
        if operation == "append" and done and self.loses_answer:
            self.loses_answer = False
            raise BusDown("the answer was lost")


class Owner:
    """A member as its lanes are: it knows what it was told is durable, and writes again what was written over."""

    def __init__(self, log: MemoryLog, number: int) -> None:
        self.line = Line(log)
        self.holdings = Holdings(SERVICE, self.line, f"m{number}", lambda _: None, self._again)
        self.knows: dict[str, bytes] = {}
        self.again: set[str] = set()
        self.pending: asyncio.Task[None] | None = None

    def _again(self, keys: Collection[str]) -> None:
        self.again |= set(keys)

    async def take(self) -> None:
        self.knows = dict((await self.holdings.take(0)).counting)

    async def write(self, key: str, value: bytes | None) -> None:
        record = NewRecord(STATE, key, value, self.holdings.headers(0), 0)
        await self.holdings.append(0, [record])
        self.again.discard(key)
        if value is None:
            self.knows.pop(key, None)
        else:
            self.knows[key] = value

    async def mend(self) -> None:
        for key in sorted(self.again):
            await self.write(key, self.knows.get(key))

    async def follow(self) -> None:
        await self.holdings.follow()
        await self.mend()


class Owners(RuleBasedStateMachine):
    """Owners come and go over one partition; the last of them is the one that counts."""

    @initialize()
    def begin(self) -> None:
        self.loop = virtual.VirtualLoop()
        asyncio.set_event_loop(self.loop)
        self.log = MemoryLog()
        for topic in flow.topics((SERVICE,)):
            self.log.ensure(topic)
        self.zombies: list[Owner] = []
        self.count = 0
        self.owner = self._new_owner()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def _new_owner(self) -> Owner:
        self.count += 1
        owner = Owner(self.log, self.count)
        self.run(owner.take())
        return owner

    @property
    def awake(self) -> bool:
        return self.owner.pending is None

    @precondition(lambda self: self.awake)
    @rule(key=KEYS, value=VALUES, loses_answer=st.booleans())
    def owner_writes(self, key: str, value: bytes | None, loses_answer: bool) -> None:
        self.owner.line.loses_answer = loses_answer
        self.run(self.owner.write(key, value))

    @precondition(lambda self: self.awake)
    @rule(key=KEYS, value=VALUES)
    def owner_is_paused_in_a_write(self, key: str, value: bytes | None) -> None:
        self.owner.line.goes_on.clear()
        self.owner.pending = self.loop.create_task(self.owner.write(key, value))
        self.run(asyncio.sleep(0))

    @precondition(lambda self: not self.awake)
    @rule()
    def owner_goes_on(self) -> None:
        self.owner.line.goes_on.set()
        pending, self.owner.pending = self.owner.pending, None
        assert pending is not None
        self.run(self._ended(pending))

    @rule()
    def another_claims(self) -> None:
        self.zombies.append(self.owner)
        self.owner = self._new_owner()

    @precondition(lambda self: self.zombies)
    @rule(which=st.randoms(use_true_random=False), key=KEYS, value=VALUES)
    def a_zombie_wakes(self, which: Any, key: str, value: bytes | None) -> None:
        zombie = which.choice(self.zombies)
        zombie.line.goes_on.set()
        pending, zombie.pending = zombie.pending, None
        write = pending or self.loop.create_task(zombie.write(key, value))
        with pytest.raises(Fenced):
            self.run(self._ended(write))

    @precondition(lambda self: self.awake)
    @rule()
    def owner_follows(self) -> None:
        self.run(self.owner.follow())

    @precondition(lambda self: self.awake and self.log.records.get(AT))
    @rule(which=st.randoms(use_true_random=False))
    def a_delayed_try_arrives_and_the_owner_follows(self, which: Any) -> None:
        own = [
            record
            for record in self.log.records[AT]
            if record.headers == self.owner.holdings.headers(0) and not record.key.startswith(CLAIM)
        ]
        if own:
            late = which.choice(own)
            self.run(self._arrives(NewRecord(STATE, late.key, late.value, late.headers, 0)))
        self.run(self.owner.follow())

    @rule(which=st.randoms(use_true_random=False))
    def compaction_takes_an_older_record(self, which: Any) -> None:
        """Any of those whose successor the owner has seen: COMPACTION_LAG gives it the time."""
        kept = self.log.records.get(AT, [])
        last = {record.key: record.offset for record in kept}
        seen = self.owner.holdings._held[0].next if self.awake and not self.owner.again else 0
        superseded = [record for record in kept if record.offset < last[record.key] < seen]
        gone = [record for record in kept if record.value is None and record.offset == last[record.key] < seen]
        alone = [record for record in gone if sum(each.key == record.key for each in kept) == 1]
        if superseded or alone:
            kept.remove(which.choice(superseded or alone))

    @invariant()
    def what_is_loaded_is_what_the_last_owner_knows(self) -> None:
        if hasattr(self, "owner"):
            assert folded(self.log) == self.owner.knows

    def teardown(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
            self.run(asyncio.wait({task}))
        self.loop.close()
        asyncio.set_event_loop(None)

    async def _arrives(self, record: NewRecord) -> None:
        self.log.add(record)

    async def _ended(self, task: asyncio.Task[None]) -> None:
        await task


TestOwners = Owners.TestCase


def test_without_generations_a_late_write_would_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: this is what the machine above would find."""

    async def history() -> bool:
        log = MemoryLog()
        for topic in flow.topics((SERVICE,)):
            log.ensure(topic)
        first, second = Owner(log, 1), Owner(log, 2)
        await first.take()
        first.line.goes_on.clear()
        late = asyncio.create_task(first.write("a\x1fstate", b"old"))
        await asyncio.sleep(0)
        await second.take()
        await second.write("a\x1fstate", b"new")
        first.line.goes_on.set()
        with pytest.raises(Fenced):
            await late
        return folded(log) == second.knows

    assert virtual.run(history())
    monkeypatch.setattr(f"{__name__}.generation_of", lambda _: 9)
    assert not virtual.run(history())


def row(offset: int, generation: int, key: str = "k\x1fstate") -> Record:
    return Record(STATE, 0, offset, key, b"v", headers(generation), 0)


def claim(offset: int, made: Claim) -> Record:
    record = claim_record(STATE, 0, made)
    return Record(STATE, 0, offset, record.key, record.value, record.headers, 0)


OWN = Claim(4, "mine", "m1")


def test_a_higher_claim_fences_and_a_second_one_of_the_same_generation_does_not() -> None:
    assert judge(OWN, [claim(7, Claim(5, "other", "m2"))]).fenced_by == Claim(5, "other", "m2")
    assert judge(OWN, [claim(7, Claim(4, "other", "m2"))]).fenced_by is None
    assert judge(OWN, [claim(7, Claim(3, "other", "m2"))]).fenced_by is None
    assert ownership.overtaken_by(OWN, [Claim(4, "other", "m2"), OWN]) == Claim(4, "other", "m2")
    assert ownership.overtaken_by(OWN, [Claim(3, "other", "m2"), OWN]) is None


def test_a_row_of_a_higher_generation_fences_although_its_claim_is_gone() -> None:
    assert judge(OWN, [row(7, 5)]).fenced_by is not None


def test_rows_that_the_owner_was_not_told_of_are_written_again() -> None:
    assert judge(OWN, [row(7, 3), row(8, 4, "own\x1fcursor")]).shadowed == {"k\x1fstate", "own\x1fcursor"}


def test_of_two_that_claim_at_once_the_second_claims_again() -> None:
    async def scene() -> None:
        log = MemoryLog()
        for topic in flow.topics((SERVICE,)):
            log.ensure(topic)
        one, two = Owner(log, 1), Owner(log, 2)
        two.line.goes_on.clear()
        late = asyncio.create_task(two.take())
        await asyncio.sleep(0)
        await one.take()
        two.line.goes_on.set()
        with pytest.raises(Fenced, match="claimed by m1 at the same time"):
            await late
        await one.write("a\x1fstate", b"1")
        await two.take()
        assert two.knows == {"a\x1fstate": b"1"}
        with pytest.raises(Fenced, match="claimed by m2"):
            await one.write("a\x1fstate", b"2")

    virtual.run(scene())


def test_a_belief_is_confirmed_when_it_is_old_and_asks_nobody_while_it_is_young() -> None:
    async def scene() -> None:
        log = MemoryLog()
        for topic in flow.topics((SERVICE,)):
            log.ensure(topic)
        asked: list[str] = []

        class Counting(Line):
            async def reach(self, operation: str, *, done: bool) -> None:
                asked.append(operation)

        owner = Owner(log, 1)
        owner.holdings = Holdings(SERVICE, Counting(log), "m1", lambda _: None, lambda _: None)
        await owner.take()
        asked.clear()
        await owner.holdings.sure(0)
        assert asked == []
        await asyncio.sleep(ownership.SURE_FOR + 1)
        await owner.holdings.sure(0)
        assert asked == ["end"]
        await owner.holdings.sure(0)
        assert asked == ["end"]
        await asyncio.sleep(ownership.SURE_FOR + 1)
        await Owner(log, 2).take()
        with pytest.raises(Fenced, match="claimed by m2"):
            await owner.holdings.sure(0)

    virtual.run(scene())


def test_a_bus_that_compares_generations_fences_by_itself() -> None:
    async def scene() -> None:
        log = MemoryLog()
        for topic in flow.topics((SERVICE,)):
            log.ensure(topic)

        class Comparing(Line):
            async def append(self, *_: Any, generation: int | None = None, **__: Any) -> int:
                raise LostAssignment(f"generation {generation} is not the highest")

        fenced: list[int] = []
        owner = Owner(log, 1)
        owner.holdings = Holdings(SERVICE, line := Line(log), "m1", fenced.append, lambda _: None)
        await owner.take()
        line.__class__ = Comparing
        with pytest.raises(Fenced, match="not the highest"):
            await owner.write("a\x1fstate", b"1")
        assert fenced == [0]
        assert 0 not in owner.holdings

    virtual.run(scene())


def test_a_new_owner_puts_right_what_a_zombie_wrote_before_compaction_makes_it_final() -> None:
    async def scene() -> None:
        log = MemoryLog()
        for topic in flow.topics((SERVICE,)):
            log.ensure(topic)
        first, second, third = (Owner(log, number) for number in (1, 2, 3))
        await first.take()
        await second.take()
        await second.write("a\x1fstate", b"new")
        with pytest.raises(Fenced):
            await first.write("a\x1fstate", b"late")
        await third.take()
        last = {record.key: record.offset for record in log.records[AT]}
        log.records[AT][:] = [record for record in log.records[AT] if record.offset == last[record.key]]
        assert folded(log) == third.knows == {"a\x1fstate": b"new"}
        claims = [record for record in log.records[AT] if record.key.startswith(CLAIM) and record.value is not None]
        assert len(claims) == 1, "the claims before it are taken away behind what was put right"

    virtual.run(scene())


def test_what_a_stranger_wrote_into_a_state_partition_ends_no_service() -> None:
    """A generation that is no number, and a claim that is none, ended every service that loaded the partition."""
    rows = Rows()
    for key, value, said in (
        ("a\x1fstate", b"ours", b"1"),
        ("a\x1fstate", b"\xff", b"zz"),
        ("a\x1fstate", b"\xff", b"-7"),
        ("a\x1fstate", b"\xff", b"9" * 5000),
        (f"{CLAIM}7\x1ftoken", b"{", b"1"),
        (f"{CLAIM}x\x1ftoken", b"{}", b"1"),
        (f"{CLAIM}7\x1ftoken", b"[]", b"1"),
    ):
        rows.feed(key, value, generation_of({ownership.GENERATION: said}))
    assert (rows.counting, rows.claims) == ({"a\x1fstate": b"ours"}, {})
