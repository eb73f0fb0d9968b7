"""The faults: what each does to the members, the broker or the disk while numbers are fed, and what must hold after.

Where and when a fault strikes comes from the case's seed. `STEPS` are the places of a turn at which a consumer is
killed: the runtime's own (`killpoint`) and the calls of the bus port around them, in the order of a turn.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from tests.chaos.case import Broken, Case, Member
from tests.chaos.mortal import Death

from towline.bus.partition import partition_of
from towline.flow import PARTITIONS

Fault = Callable[[Case], Awaitable[None]]
KILLED = -signal.SIGKILL


class How(Enum):
    STOPPED = "stopped"
    KILLED = "killed"
    HELD = "held"


@dataclass(frozen=True)
class Step:
    """`share` is how much of all effects pass it at least: the n-th passage is chosen below that."""

    name: str
    share: float
    death: Death | None = None

    async def start(self, case: Case, n: int) -> Member:
        """A member that dies at the n-th passage."""
        if self.death is None:
            return await case.start(ready=False, kill_at=f"{self.name}#{n}")
        return await case.start(ready=False, death=self.death.model_copy(update={"n": n}))


STEPS = (
    Step("received", 0.5),
    Step("before append", 0.5, Death(call="append")),
    Step("stored", 0.5),
    Step("before publish", 0.5, Death(call="publish")),
    Step("published", 0.5),
    Step("started", 0.5),
    Step("done", 0.5),
    Step("told", 0.2),
    Step("before commit", 0.0, Death(call="commit")),
    Step("committed", 0.0),
)


def killed_at(step: Step) -> Fault:
    """kill -9 of the only member at this step of a turn, once or twice, and a start after each."""

    async def fault(case: Case) -> None:
        for _ in range(case.draw.randint(1, 2)):
            most = max(1, int(step.share * (case.wanted - len(case.ledger.applied))) // 2)
            member = await step.start(case, case.draw.randint(1, most))
            case.feed()
            await _dies(case, member, step.name)
        await case.quiet(await case.start())

    return fault


async def zombie(case: Case, *, in_hand: bool | None = None) -> None:
    """SIGSTOP for longer than the session timeout: the other takes over, and who comes back changes nothing.

    By the seed, or as told, it has effects in hand that wait for their turn; it comes back at once or when the other is
    well on.
    """
    a, b = await case.start("a"), await case.start("b")
    case.feed()
    await case.applied(case.somewhere())
    sleeper, other = case.draw.sample((a, b), 2)
    if case.draw.random() < 0.7 if in_hand is None else in_hand:
        case.ledger.answering.clear()
        await case.held(1)
        await case.far_ahead()
    noted = len(case.ledger.notes)
    await _stopped(case, sleeper)
    await case.noted(f"{other.name} assign done", since=noted)
    if case.ledger.answering.is_set() and case.draw.random() < 0.5:
        await case.applied(case.somewhere())
    awake = time.monotonic()
    sleeper.signal(signal.SIGCONT)
    case.ledger.answering.set()
    await case.all_said()
    if said := case.ledger.begun_by(sleeper.process.pid, awake, until=f"{sleeper.name} assign"):
        raise Broken(f"a zombie began effects before it had its partitions anew: {said}")
    await case.quiet(a, b)


async def _stopped(case: Case, member: Member) -> None:
    """SIGSTOP, between two writes: who is stopped inside one holds a SQLite file, and all wait for it to go on."""
    member.signal(signal.SIGSTOP)
    while case.file_is_held():
        member.signal(signal.SIGCONT)
        member.signal(signal.SIGSTOP)


async def stopped_inside_a_write(case: Case) -> None:
    """SIGSTOP of a member that holds the file, for longer than the session timeout: all wait, and then go on."""
    a, b = await case.start("a"), await case.start("b")
    case.feed()
    sleeper = case.draw.choice((a, b))
    sleeper.signal(signal.SIGSTOP)
    while not case.file_is_held():
        sleeper.signal(signal.SIGCONT)
        await case.applied(len(case.ledger.applied) + 1)
        sleeper.signal(signal.SIGSTOP)
    await case.nobody_ends_for(case.silent_for_s * 2)
    sleeper.signal(signal.SIGCONT)
    await case.quiet(a, b)


async def killed_in_turn(case: Case) -> None:
    """A third member joins: one dies as it gives its partitions up, another as it gets its new ones."""
    first = Death(call="revoke", when=case.draw.choice(("before", "after")), n=2)
    second = Death(call="assign", when=case.draw.choice(("before", "after")), n=2)
    a = await case.start("a", death=first)
    b = await case.start("b", death=second)
    case.feed()
    await case.applied(case.somewhere())
    c = await case.start("c", ready=False)
    await _dies(case, a, "giving its partitions up")
    d = await case.start("d", ready=False)
    await _dies(case, b, "getting its partitions")
    await case.quiet(c, d)


async def drained(case: Case) -> None:
    """SIGTERM while effects hang: it ends in order within the time, and the next start does what was left."""
    member = await case.start()
    case.feed()
    await case.applied(case.somewhere())
    case.ledger.answering.clear()
    await case.held(1)
    await case.drained(member)
    await case.commits_hold()
    case.ledger.answering.set()
    await case.quiet(await case.start())


async def killed_while_loading(case: Case) -> None:
    """kill -9 while a big state is loaded, at any partition of it, twice."""
    member = await case.start()
    case.feed()
    await case.applied(case.somewhere() + case.wanted // 3)
    await case.kill(member)
    await case.commits_hold()
    held = len({partition_of(key, PARTITIONS) for key in case.keys})
    for _ in range(2):
        death = Death(call="read", when=case.draw.choice(("before", "after")), n=case.draw.randint(1, held))
        await _dies(case, await case.start(death=death, ready=False), "loading")
    await case.quiet(await case.start())


def broker_away(how: How, seconds: float = 0.0) -> Fault:
    """The broker ends or is held while members work, and comes back after so long; nobody is begun anew."""

    async def fault(case: Case) -> None:
        members = [await case.start(name) for name in ("a", "b")[: case.draw.randint(1, 2)]]
        case.feed()
        await case.applied(case.somewhere())
        broker = case.broker
        assert broker is not None, "this case has no broker of its own"
        match how:
            case How.STOPPED:
                await broker.stop()
            case How.KILLED:
                await broker.kill()
            case How.HELD:
                broker.hold()
        try:
            await case.nobody_ends_for(seconds)
        finally:
            await broker.again()
        await case.quiet(*members)

    return fault


async def disk_full(case: Case) -> None:
    """The disk of the SQLite file is full: members wait, say so, and go on once there is room."""
    disk = case.disk
    assert disk is not None, "this case has no disk of its own"
    members = [await case.start(name) for name in ("a", "b")[: case.draw.randint(1, 2)]]
    case.feed()
    await case.applied(case.draw.randint(1, 8))  # before the file's own journal is so long that it needs no more room
    disk.fill()
    try:
        await case.logged("is full", *members)
        await case.nobody_ends_for(case.draw.uniform(0.5, 4.0))
    finally:
        disk.free()
    await case.quiet(*members)


async def poison(case: Case) -> None:
    """A key whose event cannot be decided is parked, the others go on; after the mending everything comes in order."""
    key, n = case.draw.choice(case.keys), case.draw.randint(2, case.amount.each - 1)
    case.poisoned = frozenset({(key, n)})
    member = await case.start(bug=True)
    case.feed()
    await case.all_said(*(other for other in case.keys if other != key))
    await case.drained(member)
    await case.commits_hold()
    await case.parked(key, f"fact {n}")
    kill_at = case.draw.choice(("", "received#1", f"stored#{case.draw.randint(1, 3)}", "replayed#1"))
    member = await case.start(kill_at=kill_at)
    await case.replay(key)
    if kill_at:
        await _dies(case, member, kill_at)
        member = await case.start()
    await case.quiet(member)


async def _dies(case: Case, member: Member, what: str) -> None:
    code = await case.ended(member)
    if code != KILLED:
        raise Broken(f"{member.log.name} ended with {code} and not by {what}: {member.said()[-2000:]}")
    if not any(each.running for each in case.members):
        await case.commits_hold()
