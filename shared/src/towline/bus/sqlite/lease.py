"""Who holds a group: one row per group, with the process, a heartbeat and a generation that only grows.

A commit names its generation, so a member that was taken over can never move its successor's offsets.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from towline.bus.port import LostAssignment
from towline.bus.sqlite.ledger import Ledger
from towline.errors import Permanent

HEARTBEAT_S = 5.0
EXPIRES_MS = 20_000


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


def is_dead(process: str) -> bool:
    """Whether the process has certainly ended; False when it cannot be seen from here."""
    match = re.fullmatch(r"(.*)/(\d+)/(\d+)", process)
    if match is None or match[1] != this_process().rpartition("/")[0].rpartition("/")[0]:
        return False
    return _name(int(match[2])) != process


def acquire(ledger: Ledger, group: str, member: str) -> int:
    """Take the group; returns the generation. Raises Permanent naming the holder when there is a living one."""
    row = ledger.connection.execute(
        "SELECT generation, member, process, heartbeat_ms FROM leases WHERE grp = ?", (group,)
    ).fetchone()
    generation, holder, process, heartbeat_ms = row or (0, None, None, 0)
    if process is not None and ledger.now_ms - heartbeat_ms < EXPIRES_MS and not is_dead(process):
        raise Permanent(
            f"group {group} has a member already: {holder} in process {process.split('/')[-2]}; a SQLite bus takes "
            f"one member per group: stop it first"
        )
    ledger.connection.execute(
        "INSERT OR REPLACE INTO leases (grp, generation, member, process, heartbeat_ms) VALUES (?, ?, ?, ?, ?)",
        (group, generation + 1, member, this_process(), ledger.now_ms),
    )
    return int(generation) + 1


def beat(ledger: Ledger, group: str, generation: int) -> None:
    """Say that the member lives. Raises LostAssignment."""
    changed = ledger.connection.execute(
        "UPDATE leases SET heartbeat_ms = ? WHERE grp = ? AND generation = ? AND process IS NOT NULL",
        (ledger.now_ms, group, generation),
    )
    if changed.rowcount == 0:
        raise LostAssignment(f"group {group} was taken over by another member")


def release(ledger: Ledger, group: str, generation: int) -> None:
    """Leave the group, so that the next member need not wait; nothing happens when it was taken over."""
    ledger.connection.execute(
        "UPDATE leases SET process = NULL, member = NULL WHERE grp = ? AND generation = ?", (group, generation)
    )
