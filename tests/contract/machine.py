"""The conformance machine: one history of a bus with several connections and members, beside the model of it.

Rules of what must hold stand in `model`; here is what happens. Every rule is one step on the place's event loop, and
what a callback finds broken is raised at the end of the step, since an adapter may call it where nobody looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.contract.model import Broken, Group, LogModel, Member

from towline.bus.port import (
    MAX_APPEND_BYTES,
    MAX_RECORD_BYTES,
    Cleanup,
    LostAssignment,
    NewRecord,
    TooLarge,
    Topic,
    TopicPartition,
)
from towline.bus.size import record_bytes
from towline.errors import Permanent, TowlineError

if TYPE_CHECKING:
    from tests.contract.places import Place

    from towline.bus.port import Assignment, Bus, Record

TOPICS = ("events", "more", "state")
GROUPS = ("one", "two")
MOST_MEMBERS = 3
MOST_CONNECTIONS = 3
KEYS = ("a", "", "größe/ü", "host/owner/name", "a:b|c;d,e=f", "nul\x00", "../..", "日本", " ", "long " * 50)

number = st.integers(0, 1_000_000)
keys = st.sampled_from(KEYS) | st.text(max_size=4)
garbage = st.sampled_from([b"", b"\x00\xff\xfe", b"\xc3\x28\x80"]) | st.binary(max_size=6)
header_names = st.sampled_from(["ce_future", "tl_generation", "käse", "x" * 30, "UPPER"]) | st.text(max_size=4)
headers = st.dictionaries(header_names, garbage, max_size=2)


@st.composite
def new_records(draw: st.DrawFn, most: int = 5) -> list[dict[str, Any]]:
    """What a record has besides its place, which the machine knows: topic and partition are numbers to choose by."""
    return draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "topic": st.integers(0, len(TOPICS) - 1),
                    "key": keys,
                    "value": st.none() | garbage,
                    "headers": headers,
                    "partition": st.none() | number,
                }
            ),
            min_size=1,
            max_size=most,
        )
    )


class BusMachine(RuleBasedStateMachine):
    """Subclasses say where (`start`)."""

    def start(self) -> Place:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.place = self.start()
        self.connections: list[Bus] = []
        self.broken: list[Broken] = []
        self.large = 0

    @initialize(partitions=st.integers(1, 4), members=st.tuples(st.integers(1, 3), st.integers(0, 2)))
    def begin(self, partitions: int, members: tuple[int, int]) -> None:
        prefix = self.place.prefix
        topics = [
            Topic(f"{prefix}.{name}", partitions, Cleanup.COMPACT if name == "state" else Cleanup.DELETE)
            for name in TOPICS
        ]
        self.names = [topic.name for topic in topics]
        self.size = partitions
        self.log = LogModel(topics)
        self.groups = [Group(f"{prefix}.{name}", self.log) for name in GROUPS]
        self.joined = 0
        self.gone: list[Member] = []

        async def work() -> None:
            self.connections = [await self.place.open(), await self.place.open()]
            await self.connections[0].ensure(topics)
            await self._fills_up()
            for group, count in zip(self.groups, members, strict=True):
                for number in range(count):
                    await self._join(group, number % 2, commits=bool(number))
                await self._settle(group)

        self.step(work())

    async def _fills_up(self) -> None:
        """A few records in every partition, some with the same key."""
        records = [
            NewRecord(at.topic, f"key-{index % 3}", f"{index}".encode(), {}, at.partition)
            for at in self.log.partitions
            for index in range(4)
        ]
        self.log.published(records, await self.connections[0].publish(records))

    # -- how steps run -------------------------------------------------------------------------------------------------

    def step(self, work: Any) -> Any:
        result = self.place.run(work)
        if self.broken:
            raise self.broken[0]
        return result

    def bus(self, choice: int) -> Bus:
        return self.connections[choice % len(self.connections)]

    @property
    def members(self) -> list[Member]:
        return [member for group in self.groups for member in group.members]

    def member(self, choice: int) -> Member:
        return self.members[choice % len(self.members)]

    def at(self, choice: int) -> TopicPartition:
        return TopicPartition(self.names[choice % len(self.names)], choice // len(self.names) % self.size)

    def record(self, drawn: dict[str, Any]) -> NewRecord:
        partition = None if drawn["partition"] is None else drawn["partition"] % self.size
        return NewRecord(self.names[drawn["topic"]], drawn["key"], drawn["value"], drawn["headers"], partition)

    def records_at(self, at: TopicPartition, drawn: Sequence[dict[str, Any]]) -> list[NewRecord]:
        return [NewRecord(at.topic, each["key"], each["value"], each["headers"]) for each in drawn]

    # -- writing -------------------------------------------------------------------------------------------------------

    @rule(choice=number, drawn=new_records())
    def publishes(self, choice: int, drawn: list[dict[str, Any]]) -> None:
        records = [self.record(each) for each in drawn]
        self.log.published(records, self.step(self.bus(choice).publish(records)))

    @rule(choice=number, where=number, drawn=new_records(most=12))
    def appends(self, choice: int, where: int, drawn: list[dict[str, Any]]) -> None:
        at = self.at(where)
        records = self.records_at(at, drawn)
        self.log.appended(at, records, self.step(self.bus(choice).append(at, records)))

    @rule(choice=number, where=number, calls=st.lists(st.tuples(st.booleans(), new_records()), min_size=2, max_size=4))
    def writes_at_once(self, choice: int, where: int, calls: list[tuple[bool, list[dict[str, Any]]]]) -> None:
        """From several connections into one partition: the records of an append stay together."""
        at = self.at(where)

        async def write(place: int, *, whole: bool, records: list[NewRecord]) -> list[int]:
            bus = self.bus(choice + place)
            if whole:
                first = await bus.append(at, records)
                return [first + index for index in range(len(records))]
            there = [NewRecord(at.topic, each.key, each.value, each.headers, at.partition) for each in records]
            return list(await bus.publish(there))

        async def work() -> list[list[int]]:
            return await asyncio.gather(
                *(
                    write(place, whole=whole, records=self.records_at(at, drawn))
                    for place, (whole, drawn) in enumerate(calls)
                )
            )

        found = self.step(work())
        written = []
        for (_, drawn), offsets in zip(calls, found, strict=True):
            if offsets != sorted(offsets):
                raise Broken(f"{at}: records of one publish got the offsets {offsets}")
            written += [(at, offset, rec) for offset, rec in zip(offsets, self.records_at(at, drawn), strict=True)]
        before = self.log.ends[at]
        self.log.written(written)
        self.log.judge(at, before, self.step(self.bus(choice).read(at, start=before)), until=self.log.ends[at])

    @rule(choice=number, where=number, drawn=new_records(most=12), ticks=st.integers(0, 6))
    def cancels_an_append(self, choice: int, where: int, drawn: list[dict[str, Any]], ticks: int) -> None:
        """All of it is there afterwards, or nothing."""
        at, bus = self.at(where), self.bus(choice)
        records = self.records_at(at, drawn)
        after = [NewRecord(at.topic, "after", b"a later append of the same connection")]

        async def work() -> tuple[int, list[Record]]:
            appending = asyncio.ensure_future(bus.append(at, records))
            for _ in range(ticks):
                await asyncio.sleep(0)
            appending.cancel()
            with suppress(asyncio.CancelledError):
                await appending
            return await bus.append(at, after), list(await bus.read(at, start=self.log.ends[at]))

        start = self.log.ends[at]
        first, found = self.step(work())
        if found and found[0].offset < first:
            self.log.appended(at, records, first - len(records))
        self.log.appended(at, after, first)
        self.log.judge(at, start, found, until=self.log.ends[at])

    @precondition(lambda self: self.large < 2)
    @rule(choice=number, where=number, over=st.integers(-1, 1), whole=st.booleans(), in_header=st.booleans())
    def writes_a_large_record(self, choice: int, where: int, over: int, *, whole: bool, in_header: bool) -> None:
        """Just under, at and just over the limit; over it, nothing is written, also not what went with it."""
        self.large += 1
        at, bus = self.at(where), self.bus(choice)
        bare = NewRecord(at.topic, "ключ", b"", {"größe": b""}, at.partition)
        size = MAX_RECORD_BYTES + over - record_bytes(bare)
        value, header = (b"", b"\xff" * size) if in_header else (b"\x00" * size, b"")
        large = NewRecord(at.topic, bare.key, value, {"größe": header}, at.partition)
        records = [NewRecord(at.topic, "small", b"", {}, at.partition), large]

        async def work() -> Sequence[int]:
            if whole:
                first = await bus.append(at, records)
                return [first, first + 1]
            return await bus.publish(records)

        if over > 0:
            with pytest.raises(TooLarge):
                self.step(work())
        else:
            self.log.published(records, self.step(work()))

    @rule(choice=number, where=number, drawn=new_records(), beyond=st.integers(0, 4))
    def is_refused(self, choice: int, where: int, drawn: list[dict[str, Any]], beyond: int) -> None:
        """One record that has no place, or one too many, and nothing of the call is written."""
        at, bus = self.at(where), self.bus(choice)
        if beyond == 4:
            count = MAX_APPEND_BYTES // MAX_RECORD_BYTES + 1
            records = [NewRecord(at.topic, "", b"\x00" * MAX_RECORD_BYTES) for _ in range(count)]
            with pytest.raises(TooLarge):
                self.step(bus.append(at, records))
            return
        lost = NewRecord(at.topic, "k", b"", partition=self.size + beyond)
        if beyond == 3:
            lost = NewRecord(f"{self.place.prefix}.missing", "k", b"")
        with pytest.raises(Permanent):
            self.step(bus.publish([*map(self.record, drawn), lost]))

    # -- reading without a group ---------------------------------------------------------------------------------------

    @rule(choice=number, where=number, start=number, limit=st.integers(1, 20))
    def reads(self, choice: int, where: int, start: int, limit: int) -> None:
        at = self.at(where)
        start %= self.log.ends[at] + 1

        async def work() -> tuple[int, Sequence[Record]]:
            return await self.bus(choice).end(at), await self.bus(choice).read(at, start=start, limit=limit)

        end, found = self.step(work())
        if end != self.log.ends[at]:
            raise Broken(f"{at} ends at {end}, the last offset written is {self.log.ends[at] - 1}")
        if len(found) > limit:
            raise Broken(f"{at}: {len(found)} records were read, the limit was {limit}")
        self.log.judge(at, start, found, until=None if found else end)

    @rule()
    def sweeps(self) -> None:
        if self.step(self.place.sweep()):
            self.log.sweep()

    # -- members that come and go --------------------------------------------------------------------------------------

    @rule(which=st.integers(0, len(GROUPS) - 1), choice=number, commits=st.booleans())
    def joins(self, which: int, choice: int, *, commits: bool) -> None:
        if len(self.groups[which].members) < MOST_MEMBERS:
            self.step(self._join(self.groups[which], choice % len(self.connections), commits=commits))

    async def _join(self, group: Group, connection: int, *, commits: bool, name: str = "") -> Member:
        self.joined += 1
        member = Member(name or f"member-{self.joined}", group, connection, commits)

        async def on_assigned(gained: Assignment) -> None:
            await asyncio.sleep(0)
            self._notes(lambda: member.assigned(gained))

        async def on_revoked(lost: Assignment) -> None:
            await asyncio.sleep(0)
            if member.commits_when_revoked and member.held:
                await self._commits_a_last_time(member)
            self._notes(lambda: member.revoked(lost))

        group.settled = False
        group.members.append(member)
        member.consumer = await self.connections[connection].consumer(
            group.name, self.names, member=member.name, on_assigned=on_assigned, on_revoked=on_revoked
        )
        return member

    def _notes(self, tell: Any) -> None:
        try:
            tell()
        except Broken as broken:
            self.broken.append(broken)

    async def _commits_a_last_time(self, member: Member) -> None:
        offsets, expelled = dict(member.positions), member.expelled
        try:
            await member.consumer.commit(offsets)
        except LostAssignment:
            if not expelled:
                self.broken.append(Broken(f"{member.name} was told its loss and could not commit before"))
        else:
            self._is_answered(member, expelled=expelled)
            if not expelled:
                member.group.commit(offsets)

    def _is_answered(self, member: Member, *, expelled: bool) -> None:
        """Where a commit is deferred nobody is told that it came too late; that it moved nothing shows in `_settle`."""
        if expelled and not self.place.defers_commits:
            self.broken.append(Broken(f"{member.name} was taken for dead, and its late commit was accepted"))

    @precondition(lambda self: self.members)
    @rule(choice=number)
    def leaves(self, choice: int) -> None:
        self.step(self._leave(self.member(choice)))

    async def _leave(self, member: Member) -> None:
        member.leave()
        self.gone.append(member)
        await member.consumer.close()

    @precondition(lambda self: self.members)
    @rule(choice=number)
    def is_taken_for_dead(self, choice: int) -> None:
        member = self.member(choice)

        async def work() -> None:
            if self.place.is_in_group(member.consumer):
                member.expel()
                await self.place.expel(member.consumer)

        self.step(work())

    @precondition(lambda self: self.members)
    @rule(choice=number, again=st.booleans())
    def dies(self, choice: int, *, again: bool) -> None:
        """The whole process of a member, with all its other members; another is started in its place."""
        self._replace(self.member(choice).connection, self.place.kill, again=again)

    @rule(choice=number, again=st.booleans())
    def restarts(self, choice: int, *, again: bool) -> None:
        self._replace(choice % len(self.connections), self.place.close, again=again)

    def _replace(self, connection: int, leave: Any, *, again: bool) -> None:
        """`again`: the members come back under their names."""
        bus = self.connections[connection]

        async def work() -> None:
            gone = [each for each in self.members if each.connection == connection]
            for member in gone:
                member.leave()
            await leave(bus)
            self.connections[connection] = await self.place.open()
            for member in gone if again else ():
                await self._join(member.group, connection, commits=member.commits_when_revoked, name=member.name)

        self.step(work())

    # -- members at work -----------------------------------------------------------------------------------------------

    async def _fetch(self, member: Member, limit: int, timeout: float) -> int:
        records = await member.consumer.fetch(limit=limit, timeout=timeout)
        member.fetched(records, limit)
        return len(records)

    @precondition(lambda self: self.members)
    @rule(choice=number, limit=st.integers(1, 30))
    def fetches(self, choice: int, limit: int) -> None:
        self.step(self._fetch(self.member(choice), limit, self.place.glance_s))

    @precondition(lambda self: self.members)
    @rule(choice=number, limit=st.integers(1, 60))
    def works(self, choice: int, limit: int) -> None:
        """As a service does: fetch, and commit all of it."""
        member = self.member(choice)

        async def work() -> None:
            await self._fetch(member, limit, self.place.glance_s)
            for at, next_ in dict(member.positions).items():
                if at in member.held:
                    await self._commit(member, at, next_)

        self.step(work())

    @precondition(lambda self: self.members)
    @rule(choice=number, where=number, offset=number, meanwhile=st.sampled_from(["seek", "pause", "cancel"]))
    def fetches_and_meanwhile(self, choice: int, where: int, offset: int, meanwhile: str) -> None:
        """What was sought, paused or cancelled under a fetch holds for what that fetch hands out."""
        member = self.member(choice)

        async def work() -> None:
            fetching = asyncio.ensure_future(self._fetch(member, 7, self.place.glance_s))
            for _ in range(offset % 9):
                await asyncio.sleep(0)
            if meanwhile == "cancel":
                fetching.cancel()
            elif at := self._one_of(member, where):
                if meanwhile == "seek":
                    self._seek(member, at, offset % (self.log.ends[at] + 1))
                else:
                    member.consumer.pause(at)
                    member.paused.add(at)
            with suppress(asyncio.CancelledError):
                await fetching

        self.step(work())

    @precondition(lambda self: self.members)
    @rule(choice=number, where=number, offset=number)
    def seeks(self, choice: int, where: int, offset: int) -> None:
        member = self.member(choice)

        async def work() -> None:
            if at := self._one_of(member, where):
                self._seek(member, at, offset % (self.log.ends[at] + 1))
            else:
                with pytest.raises(LostAssignment):
                    member.consumer.seek(self.at(where), 0)

        self.step(work())

    @precondition(lambda self: self.members)
    @rule(choice=number)
    def replays_from_the_beginning(self, choice: int) -> None:
        member = self.member(choice)

        async def work() -> None:
            for at in sorted(member.held):
                self._seek(member, at, 0)

        self.step(work())

    def _seek(self, member: Member, at: TopicPartition, offset: int) -> None:
        member.consumer.seek(at, offset)
        member.sought(at, offset)

    @precondition(lambda self: self.members)
    @rule(choice=number, where=number, pause=st.booleans())
    def pauses_or_resumes(self, choice: int, where: int, *, pause: bool) -> None:
        """Also what it has not now: it stays paused for this member until it is resumed."""
        member = self.member(choice)
        at = self._one_of(member, where) if where % 4 else self.at(where)
        if at is None:
            return

        async def work() -> None:
            if pause:
                member.consumer.pause(at)
                member.paused.add(at)
            else:
                member.consumer.resume(at)
                member.paused.discard(at)

        self.step(work())

    @precondition(lambda self: self.members)
    @rule(choice=number, where=number, offset=number, how=st.sampled_from(["fetched", "fetched", "older", "any"]))
    def commits(self, choice: int, where: int, offset: int, how: str) -> None:
        member = self.member(choice)
        at = self._one_of(member, where)
        if at is None:
            return
        next_ = {
            "fetched": member.positions[at],
            "older": offset % (member.positions[at] + 1),
            "any": offset % (self.log.ends[at] + 1),
        }[how]
        self.step(self._commit(member, at, next_))

    async def _commit(self, member: Member, at: TopicPartition, next_: int) -> None:
        settled, expelled = member.group.settled, member.expelled
        try:
            await member.consumer.commit({at: next_})
        except LostAssignment:
            if settled:
                raise Broken(f"{member.name} holds {at} and could not commit {next_}") from None
        else:
            self._is_answered(member, expelled=expelled)
            if not expelled:
                member.group.commit({at: next_})

    @precondition(lambda self: self.members)
    @rule(choice=number, where=number, offset=number)
    def commits_what_it_has_not(self, choice: int, where: int, offset: int) -> None:
        """A partition of another member, of nobody, or after it left."""
        at = self.at(where)
        for member in [self.member(choice), *self.gone[-2:]]:
            if at not in member.held:
                with pytest.raises(LostAssignment if not member.left else TowlineError):
                    self.step(member.consumer.commit({at: offset}))

    def _one_of(self, member: Member, choice: int) -> TopicPartition | None:
        held = sorted(member.held)
        return held[choice % len(held)] if held else None

    # -- what must be so in the end ------------------------------------------------------------------------------------

    @rule(which=st.integers(0, len(GROUPS) - 1))
    def settles(self, which: int) -> None:
        self.step(self._settle(self.groups[which]))

    async def _settle(self, group: Group) -> None:
        """Everybody fetches until each has its share."""
        if not group.members:
            return
        await self._until(group.is_shared_out, group, lambda: f"{group.name} is shared as {group.shape()}")
        group.check_shares()
        group.settled = len(group.members) <= self.size
        for member in group.members:
            for at in sorted(member.held):
                found = await member.consumer.committed(at)
                if (found or 0) != group.committed.get(at, 0):
                    raise Broken(f"{at}: {found} is committed, {group.committed.get(at)} was the last commit")

    async def _until(self, done: Any, group: Group, said: Any) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.place.patience_s
        while not done():
            if loop.time() >= deadline:
                raise Broken(f"in {self.place.patience_s} s it did not come about: {said()}")
            try:
                await gather(self._fetch(member, 100, self.place.glance_s) for member in group.members)
            finally:
                if self.broken:  # what a callback found comes before what follows from it
                    raise self.broken[0]

    @invariant()
    def members_have_what_they_were_told(self) -> None:
        if self.broken:
            raise self.broken[0]
        for member in self.members if self.connections else ():
            if member.consumer.assignment != member.held:
                raise Broken(f"{member.name} has {sorted(member.consumer.assignment)}, was told {sorted(member.held)}")

    def teardown(self) -> None:
        try:
            if self.connections and not self.broken:
                self.step(self._ends_quietly())
        finally:
            self.place.end()

    async def _ends_quietly(self) -> None:
        """The log is as written, and each group has been given everything; then it is given nothing twice."""
        bus = self.connections[0]
        if await bus.ends(list(self.log.ends)) != self.log.ends:
            raise Broken(f"the ends are {await bus.ends(list(self.log.ends))}, written was up to {self.log.ends}")
        for at, end in self.log.ends.items():
            found: list[Record] = []
            while page := await bus.read(at, start=found[-1].offset + 1 if found else 0, limit=13):
                found += page
            if await bus.end(at) != end:
                raise Broken(f"{at} ends at {await bus.end(at)}, the last offset written is {end - 1}")
            self.log.judge(at, 0, found, until=end)
        for group in self.groups:
            await self._is_given_everything(group)

    async def _is_given_everything(self, group: Group) -> None:
        if len(group.members) < MOST_MEMBERS:
            await self._join(group, 0, commits=False)  # what is paused stays so over this
        await self._settle(group)
        await self._fills_up()
        await gather(self._fetch(member, 500, self.place.glance_s) for member in group.members)
        for member in group.members:
            member.consumer.resume(*member.paused)
            member.paused.clear()
        await self._until(lambda: not group.lacking(), group, lambda: f"{group.name} was not given {group.lacking()}")


async def gather(work: Any) -> None:
    """As asyncio.gather, but everything has ended when the first error is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    await asyncio.wait(tasks)
    for task in tasks:
        task.result()
