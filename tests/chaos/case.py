"""One service of its own on a bus, the numbers fed to it, its members as processes, and the ledger they write to.

The rule that must hold: a fault strikes when something has happened (a put, a note, the end of a process), never after
a time; every wait has a deadline, and what was waited for is in its error.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from tests.chaos.broker import Broker
from tests.chaos.disk import Disk
from tests.chaos.evidence import Evidence, gather
from tests.chaos.ledger import Ledger
from tests.chaos.member import Order
from tests.chaos.tally import ASKED, FACT, TICK, Asked, Number, Said, expected, facts_of, results_of
from tests.chaos.verdict import broken, past_unfinished

from towline import flow, killpoint
from towline.bus.open import open_bus
from towline.bus.port import Bus, NewRecord, TopicPartition
from towline.delivery import codec
from towline.delivery.dead import request
from towline.delivery.model import Envelope, ReplayRequested
from towline.delivery.outlast import outlast

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0
LOOK_S = 0.05
DRAINS_WITHIN_S = 10.0
SAYS_WITHIN_S = 1.0
WINDOW = 40
"""Numbers fed ahead of the ledger, so that members have work all the time and the fault finds them at it."""


class Broken(AssertionError):
    """What does not hold after a fault."""


@dataclass(frozen=True)
class Amount:
    """How much is fed; all of it from the seed."""

    keys: int
    each: int
    """Facts per key; half as many are asked by the inbox."""
    ticks: int = 2

    @classmethod
    def drawn(cls, draw: random.Random) -> Amount:
        return cls(draw.randint(3, 8), draw.randint(8, 24), draw.randint(1, 4))


@dataclass
class Member:
    """A running process of the service."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    since: int
    """The notes there were when it started."""

    @property
    def running(self) -> bool:
        return self.process.returncode is None

    def signal(self, which: signal.Signals) -> None:
        if self.running:
            self.process.send_signal(which)

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@dataclass
class Case:
    """`name` is the service's; `folder` holds the ledger's socket, the logs and a SQLite bus."""

    url: str
    folder: Path
    draw: random.Random
    amount: Amount
    order: dict[str, object] = field(default_factory=dict)
    """What every member is ordered besides."""
    broker: Broker | None = None
    """Where this case may hurt it."""
    disk: Disk | None = None
    """Where the file stands on one that this case may fill."""
    window: int = WINDOW
    silent_for_s: float = 6.0
    poisoned: frozenset[tuple[str, int]] = frozenset()
    pad: int = 0
    name: str = field(default_factory=lambda: f"chaos-{uuid.uuid4().hex[:10]}")

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.folder / "ledger")
        self.keys = tuple(f"key-{index}" for index in range(self.amount.keys))
        self.fed: defaultdict[str, list[str]] = defaultdict(list)
        self.members: list[Member] = []
        self.bus: Bus
        self._feeding: asyncio.Task[None] | None = None
        self._far_ahead = asyncio.Event()
        self._results: set[tuple[str, str]] = set()
        self._read: dict[TopicPartition, int] = {}

    async def __aenter__(self) -> Case:
        await self.ledger.open()
        self.bus = await open_bus(self.url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._feeding is not None:
            self._feeding.cancel()
            await asyncio.gather(self._feeding, return_exceptions=True)
        for member in self.members:
            if error is not None and member.running:
                await self._says_where(member)
            if member.running:
                member.process.kill()
            await member.process.wait()
        await self.ledger.close()
        await self.bus.close()
        if error is not None:
            for member in self.members:
                error.add_note(f"--- {member.log.name}\n{member.said()[-20000:]}")

    # -- members ------------------------------------------------------------------------------------------------

    async def start(self, name: str = "a", *, kill_at: str = "", ready: bool = True, **order: object) -> Member:
        """A member of this name; returned once it is ready, or at once."""
        asked = Order.model_validate(
            {
                "service": self.name,
                "bus": self.url,
                "ledger": str(self.ledger.path),
                "member": name,
                "keys": self.keys,
                "ticks": self.amount.ticks,
                "silent_for_s": self.silent_for_s,
                **self.order,
                **order,
            }
        )
        log = self.folder / f"{len(self.members)}-{name}.log"
        env = {**os.environ, **({killpoint.VARIABLE: f"{self.name} {kill_at}"} if kill_at else {})}
        noted = len(self.ledger.notes)
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.chaos.member",
                asked.model_dump_json(),
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        member = Member(name, process, log, noted)
        self.members.append(member)
        if ready:
            await self.ready(member)
        return member

    async def ready(self, member: Member) -> None:
        await self.noted(f"{member.name} ready", since=member.since, by=member)

    async def noted(self, what: str, *, since: int = 0, by: Member | None = None) -> None:
        """A member noted this in the ledger; an end of `by` before is an error."""
        seeing = asyncio.ensure_future(self.ledger.until(lambda: what in self.ledger.notes[since:]))
        ending = asyncio.ensure_future(by.process.wait()) if by is not None else None
        try:
            waits = {seeing} if ending is None else {seeing, ending}
            await asyncio.wait(waits, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            assert seeing.done(), f"nobody noted {what!r}: {self.ledger.notes[since:]}"
        finally:
            for waiting in (seeing, ending):
                if waiting is not None:
                    waiting.cancel()

    async def ended(self, member: Member, *, seconds: float = PATIENCE_S) -> int:
        """The exit code; negative for a signal."""
        try:
            return await asyncio.wait_for(member.process.wait(), seconds)
        except TimeoutError:
            await self._says_where(member)
            raise Broken(f"{member.log.name} did not end within {seconds:.0f} s") from None

    async def _says_where(self, member: Member) -> None:
        member.signal(signal.SIGCONT)
        member.signal(signal.SIGUSR1)
        with suppress(TimeoutError):
            await asyncio.wait_for(member.process.wait(), SAYS_WITHIN_S)

    async def logged(self, what: str, *members: Member) -> None:
        """One of them said so in its log."""

        async def saying() -> None:
            while not any(what in member.said() for member in members):  # noqa: ASYNC110 a file tells nobody it grew
                await asyncio.sleep(LOOK_S)

        await self._patiently(saying(), lambda: f"nobody logged {what!r}")

    async def kill(self, member: Member) -> None:
        member.signal(signal.SIGKILL)
        await self.ended(member)

    async def drained(self, *members: Member) -> None:
        """SIGTERM: in order, in time, and with nothing but a good exit code."""
        for member in members:
            await self.ready(member)
        for member in members:
            member.signal(signal.SIGTERM)
        for member in members:
            code = await self.ended(member, seconds=DRAINS_WITHIN_S)
            if code != 0:
                raise Broken(f"{member.log.name} ended with {code}")

    def file_is_held(self) -> bool:
        """Whether somebody is in the middle of a write to a SQLite bus: whoever is stopped there stops all."""
        if not self.url.startswith("sqlite:"):
            return False
        path = self.url.partition("?")[0].removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, timeout=0.2, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            return False

    async def nobody_ends_for(self, seconds: float) -> None:
        """How long a fault lasts; the members live through it."""
        alive = [asyncio.ensure_future(member.process.wait()) for member in self.members if member.running]
        done, waiting = await asyncio.wait(alive, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for each in waiting:
            each.cancel()
        assert not done, "a member ended by itself"

    # -- what is fed --------------------------------------------------------------------------------------------

    def feed(self) -> None:
        """Begin to feed the numbers, some of them twice, never too far ahead of the ledger; once is enough."""
        self._feeding = self._feeding or asyncio.create_task(self._feed())

    async def applied(self, count: int) -> None:
        """So many things are in the ledger, or all there will be."""
        count = min(count, self.wanted)
        await self._patiently(
            self.ledger.until(lambda: len(self.ledger.applied) >= count),
            lambda: f"{len(self.ledger.applied)} of {count} effects were applied",
        )

    async def far_ahead(self) -> None:
        """So much was fed, and decided, that members have more to do outside than they do at once."""
        await self._patiently(self._get_far_ahead(), lambda: "feeding did not get ahead")

    async def _get_far_ahead(self) -> None:
        await self._far_ahead.wait()
        await self._look_for({(key, thing) for key, things in self.fed.items() for thing in things})

    async def held(self, count: int) -> None:
        """So many puts wait in vain for their answer."""
        await self._patiently(
            self.ledger.until(lambda: self.ledger.held >= count), lambda: f"{self.ledger.held} puts were held up"
        )

    @property
    def wanted(self) -> int:
        """Effects in all."""
        return self.amount.keys * (self.amount.each + self.amount.each // 2 + self.amount.ticks)

    def somewhere(self) -> int:
        """How many effects to wait for before the fault: in the middle, by the seed."""
        return self.draw.randint(1, self.wanted * 2 // 3)

    async def _feed(self) -> None:
        await self.ledger.until(lambda: bool(self.ledger.notes))  # the first member made the topics
        for key in self.keys:
            self.fed[key] += [f"{TICK} {n}" for n in range(1, self.amount.ticks + 1)]
        given = 0
        for n in range(1, self.amount.each + 1):
            for key in self.draw.sample(self.keys, len(self.keys)):
                records = [self._number(key, n)]
                if n % 2 == 0:
                    records.append(self._asked(key, n // 2))
                again = self.draw.random() < 0.1
                await outlast(self.name, lambda records=records: self.bus.publish(records))  # type: ignore[misc]
                if again:
                    await outlast(self.name, lambda records=records: self.bus.publish(records))  # type: ignore[misc]
                self.fed[key] += [f"{FACT} {n}", *([f"{ASKED} {n // 2}"] if n % 2 == 0 else [])]
                given += len(records)
                if given - len(self.ledger.applied) >= self.window:
                    self._far_ahead.set()
                await self.ledger.until(lambda given=given: given - len(self.ledger.applied) < self.window)  # type: ignore[misc]
        self._far_ahead.set()

    def _number(self, key: str, n: int) -> NewRecord:
        event = Number(key=key, n=n, poison=(key, n) in self.poisoned, pad=self.pad)
        id = codec.derive("feed", f"{key} {n}", event, 0)
        lane = f"feed/{key}@1"
        now = datetime.now(UTC)
        return codec.encode(Envelope(event, id, "/feed", now, key, lane=lane, sequence=n), facts_of(self.name))

    def _asked(self, key: str, n: int) -> NewRecord:
        event = Asked(n=n)
        id = codec.derive("feed", f"{key} asked {n}", event, 0)
        return codec.encode(Envelope(event, id, "/feed", datetime.now(UTC), key), flow.inbox_of(self.name))

    # -- the end ------------------------------------------------------------------------------------------------

    async def all_fed(self) -> None:
        if self._feeding is not None:
            await self._patiently(asyncio.shield(self._feeding), lambda: "not everything could be fed")

    async def all_said(self, *keys: str) -> None:
        """Everything was fed, and every result stands in the log, of these keys or of all."""
        await self.all_fed()
        wanted = {(key, thing) for key in keys or self.keys for thing in expected(self.fed[key])}
        await self._patiently(self._look_for(wanted), lambda: f"results are missing: {sorted(wanted - self._results)}")

    async def quiet(self, *members: Member) -> None:
        """Everything is said, the members drain in order, and all checks hold."""
        await self.all_said()
        await self.drained(*members)
        await self.holds()

    async def holds(self) -> None:
        """Raises Broken with every sentence of the verdict."""
        if said := broken(await self.evidence(), self.fed):
            raise Broken("\n".join(said))

    async def commits_hold(self) -> None:
        """Right after a death: no offset is past unfinished work."""
        if said := past_unfinished(await self.evidence()):
            raise Broken("\n".join(said))

    async def parked(self, key: str, thing: str) -> None:
        """The key's state ends before this thing, which is among the dead letters with all that came after it."""
        evidence = await self.evidence()
        given_up = [each.thing for each in evidence.arrived if (each.at, each.offset) in evidence.dead]
        if thing not in given_up or thing in evidence.told.get(key, ()):
            raise Broken(f"{key} is not parked at {thing!r}: told {evidence.told.get(key)}, given up {given_up}")

    async def replay(self, key: str) -> None:
        """As `towline dead replay` asks for it."""
        asked = ReplayRequested(by="chaos")
        record = request(self.name, key, asked, cause="chaos", now=datetime.now(UTC))
        await outlast(self.name, lambda: self.bus.publish([record]))

    async def evidence(self) -> Evidence:
        return await outlast(self.name, lambda: gather(self.bus, self.url, self.name, self.ledger.attempts))

    async def _look_for(self, wanted: set[tuple[str, str]]) -> None:
        while not wanted <= self._results:
            if not await outlast(self.name, self._look):
                await asyncio.sleep(LOOK_S)

    async def _look(self) -> bool:
        found = False
        for partition in range(flow.PARTITIONS):
            at = TopicPartition(results_of(self.name), partition)
            for record in await self.bus.read(at, start=self._read.get(at, 0)):
                self._read[at] = record.offset + 1
                event = codec.decode(record).event
                assert isinstance(event, Said)
                self._results.add((event.key, event.thing))
                found = True
        return found

    async def _patiently(self, waiting: Awaitable[None], said: Callable[[], str]) -> None:
        """An end of a member that nobody struck is told at once, and not as a deadline."""
        try:
            await asyncio.wait_for(asyncio.ensure_future(waiting), PATIENCE_S)
        except TimeoutError:
            raise Broken(f"after {PATIENCE_S:.0f} s {said()}") from None
