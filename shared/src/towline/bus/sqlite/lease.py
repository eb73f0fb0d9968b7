"""Who belongs to a group: its members with a heartbeat each, and a generation that only grows.

Every change of membership begins a new generation. It is in force once every living member has acknowledged it, which
a member does after it has given up what it had: the barrier that JoinGroup is on Kafka. Rules that must hold:

- Until a member acknowledges, or is put out, nobody else gets its partitions; a commit names the member and the
  generation it holds, so one that was put out can never move its successor's offsets.
- A member is put out when its process has ended, when it was silent too long, or when it does not give up in time.
- Who was itself asleep puts nobody out for silence: after a suspended host woke, all are equally late.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from towline.bus.port import BusDown, LostAssignment
from towline.bus.sqlite.ledger import Ledger
from towline.errors import Permanent

HEARTBEAT_S = 3.0
EXPIRES_MS = 15_000
"""Silence after which a member is put out."""
REBALANCE_MS = 60_000
"""How long the others wait for a member to give up what it had."""


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    process: str
    topics: tuple[str, ...]
    heartbeat_ms: int
    acknowledged: int
    """The generation this member holds, or is ready for; it owns nothing of an earlier one."""


@dataclass(frozen=True, slots=True)
class Group:
    generation: int
    settled: int
    """The last generation that came into force."""
    since_ms: int
    """When `generation` began."""
    members: tuple[Member, ...]

    @property
    def in_force(self) -> bool:
        return self.settled == self.generation


# -- processes ---------------------------------------------------------------------------------------------------------


def this_process() -> str:
    """`<pid namespace>/<pid>/<start time>`: names a process for good, also when its pid is used again."""
    return _name(os.getpid())


def _name(pid: int) -> str:
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return f"unknown/{pid}/0"
    state, started = fields[0], fields[19]
    return f"{space}/{pid}/{started if state not in 'ZX' else 'dead'}"


def pid_of(process: str) -> int | None:
    """The process's id; None when it cannot be seen from here."""
    match = re.fullmatch(r"(.*)/(\d+)/(\d+)", process)
    if match is None or match[1] != this_process().rpartition("/")[0].rpartition("/")[0]:
        return None
    return int(match[2])


def is_dead(process: str) -> bool:
    """Whether the process has certainly ended; False when it cannot be seen from here."""
    pid = pid_of(process)
    return pid is not None and _name(pid) != process


# -- the group, inside one transaction ---------------------------------------------------------------------------------


def find(ledger: Ledger, group: str) -> Group:
    row = ledger.connection.execute("SELECT generation, settled, since_ms FROM groups WHERE grp = ?", (group,))
    generation, settled, since_ms = row.fetchone() or (0, 0, 0)
    members = ledger.connection.execute(
        "SELECT member, process, topics, heartbeat_ms, acknowledged FROM members WHERE grp = ? ORDER BY member",
        (group,),
    )
    found = tuple(Member(name, process, tuple(topics.split("\n")), *rest) for name, process, topics, *rest in members)
    return Group(generation, settled, since_ms, found)


def living(ledger: Ledger, group: str) -> list[str]:
    """Who is in the group and not known to have ended, by name and process."""
    return [
        f"{each.name} in process {each.process.split('/')[-2]}"
        for each in find(ledger, group).members
        if not is_dead(each.process) and ledger.now_ms - each.heartbeat_ms < EXPIRES_MS
    ]


def join(ledger: Ledger, group: str, member: str, topics: Sequence[str]) -> Group:
    """Become a member, which begins a new generation.

    Raises Permanent when a living process has the name, and BusDown while one may have it that is not seen from here.
    """
    before = find(ledger, group)
    gone = {each.name for each in before.members if is_dead(each.process)}
    for each in before.members:
        if each.name == member and each.name not in gone and ledger.now_ms - each.heartbeat_ms < EXPIRES_MS:
            _refuse(group, each)
    _delete(ledger, group, gone)
    ledger.connection.execute(
        "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?)",
        (group, member, this_process(), "\n".join(topics), ledger.now_ms, before.generation + 1),
    )
    return _begin(ledger, group, before)


def _refuse(group: str, holder: Member) -> None:
    pid = pid_of(holder.process)
    if pid is None:
        raise BusDown(
            f"group {group} has a member {holder.name} in a process that cannot be seen from here: waiting until it "
            f"leaves, or was silent for {EXPIRES_MS / 1000:.0f} s"
        )
    raise Permanent(
        f"group {group} has a member {holder.name} already, in process {pid}: stop it, or give each process a member "
        f"name of its own"
    )


def acknowledge(ledger: Ledger, group: str, member: str, held: int) -> Group:
    """Say that what was held is given up, and that the group's present generation may begin. Raises LostAssignment."""
    check(ledger, group, member, held)
    ledger.connection.execute(
        "UPDATE members SET acknowledged = (SELECT generation FROM groups WHERE grp = ?) WHERE grp = ? AND member = ?",
        (group, group, member),
    )
    return _settle(ledger, group)


def beat(ledger: Ledger, group: str, member: str, held: int, *, watchful: bool) -> Group:
    """Say that the member lives, and put out who does not; for silence only when `watchful`. Raises LostAssignment."""
    check(ledger, group, member, held)
    ledger.connection.execute(
        "UPDATE members SET heartbeat_ms = ? WHERE grp = ? AND member = ?", (ledger.now_ms, group, member)
    )
    found = find(ledger, group)
    late = ledger.now_ms - found.since_ms > REBALANCE_MS
    gone = {
        each.name
        for each in found.members
        if each.name != member
        and (
            is_dead(each.process)
            or (watchful and ledger.now_ms - each.heartbeat_ms > EXPIRES_MS)
            or (watchful and late and each.acknowledged < found.generation)
        )
    }
    return _put_out(ledger, group, found, gone) if gone else found


def check(ledger: Ledger, group: str, member: str, held: int) -> None:
    """Raises LostAssignment when the member does not hold this generation any more."""
    row = ledger.connection.execute(
        "SELECT acknowledged FROM members WHERE grp = ? AND member = ?", (group, member)
    ).fetchone()
    if row is None or row[0] != held:
        raise LostAssignment(f"group {group} goes on without member {member}: it was silent or late")


def leave(ledger: Ledger, group: str, member: str, held: int) -> Group:
    """Go, so that the others need not wait; nothing happens when the group went on without this member."""
    before = find(ledger, group)
    if not any(each.name == member and each.acknowledged == held for each in before.members):
        return before
    return _put_out(ledger, group, before, {member})


def _put_out(ledger: Ledger, group: str, before: Group, names: Collection[str]) -> Group:
    _delete(ledger, group, names)
    if before.in_force:
        return _begin(ledger, group, before)
    return _settle(ledger, group)  # nobody has a share of this generation yet


def _delete(ledger: Ledger, group: str, names: Collection[str]) -> None:
    ledger.connection.executemany("DELETE FROM members WHERE grp = ? AND member = ?", [(group, name) for name in names])


def _begin(ledger: Ledger, group: str, before: Group) -> Group:
    ledger.connection.execute(
        "INSERT OR REPLACE INTO groups VALUES (?, ?, ?, ?)",
        (group, before.generation + 1, before.settled, ledger.now_ms),
    )
    return _settle(ledger, group)


def _settle(ledger: Ledger, group: str) -> Group:
    """Put the generation in force when nobody is waited for any more."""
    found = find(ledger, group)
    if all(each.acknowledged == found.generation for each in found.members):
        ledger.connection.execute("UPDATE groups SET settled = generation WHERE grp = ?", (group,))
        return Group(found.generation, found.generation, found.since_ms, found.members)
    return found
