"""Owns starting processes that outlive their starter, and stopping exactly those.

The rule that must hold: a process is known by its number and the moment it started. A number that the kernel has given
to somebody else since is never signalled: the check is made while a descriptor pins the process.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from towline_cli.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PROC = Path("/proc")
POLL_SECONDS = 0.03
KILL_SECONDS = 10.0
LOG_LINES = 3
# Children of this process: held so that they are reaped here, and left alone when this process ends before them.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Started:
    """A process that was started. `start` is its start in clock ticks since boot; `grace` seconds pass between
    asking it to end (SIGTERM) and ending it (SIGKILL), 0 ends it at once."""

    name: str
    pid: int
    start: int
    grace: float = 0.0


def parse_stat(text: str) -> tuple[str, int, int]:
    """(state, parent, start ticks) of a /proc/<pid>/stat line; the command in it may hold blanks and brackets."""
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[19])


def _stat(pid: int) -> tuple[str, int, int] | None:
    try:
        return parse_stat((PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace"))
    except (OSError, IndexError, ValueError):
        return None


def start_of(pid: int) -> int | None:
    """Start ticks of the running process `pid`; None when there is none, or only its zombie."""
    found = _stat(pid)
    return found[2] if found and found[0] != "Z" else None


def is_alive(process: Started) -> bool:
    """Whether that very process runs."""
    return start_of(process.pid) == process.start


def children_of(pid: int) -> list[int]:
    """Direct children of `pid`."""
    numbers = [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]
    return [number for number in numbers if (found := _stat(number)) is not None and found[1] == pid]


def boot_id() -> str:
    """Names this boot of the machine: start ticks of another one mean nothing."""
    return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def start(
    name: str,
    command: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    grace: float = 0.0,
) -> Started:
    """Starts `command` in a session of its own, so that Ctrl-C reaches only whoever stops it in good order.

    stdout and stderr go to `log`; `env` replaces the environment when given. Raises `LabError` naming `name`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        try:
            child = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=dict(env) if env is not None else None,
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            raise LabError(name, f"{command[0]} could not be started: {error.strerror or error}.") from error
    _children[child.pid] = child
    found = _stat(child.pid)
    return Started(name, child.pid, found[2] if found else -1, grace)


def last_lines(log: Path) -> str:
    """The end of a log, on one line."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "nothing was logged"
    return " | ".join(line.strip() for line in lines[-LOG_LINES:] if line.strip()) or "nothing was logged"


def wait_for(
    condition: Callable[[], bool], process: Started, *, log: Path, seconds: float, what: str = "ready"
) -> None:
    """Waits until `condition` holds; raises `LabError` when `process` ends before, or `seconds` have passed."""
    deadline = time.monotonic() + seconds
    while not condition():
        if not is_alive(process):
            raise LabError(process.name, f"ended before it was {what}: {last_lines(log)}", log=log)
        if time.monotonic() > deadline:
            raise LabError(process.name, f"was not {what} after {seconds:.0f} s: {last_lines(log)}", log=log)
        time.sleep(POLL_SECONDS)


def stop(process: Started) -> bool:
    """Ends that very process and what is left of its session's group; False when it does not run (any more)."""
    try:
        pinned = os.pidfd_open(process.pid)
    except OSError:
        _reap(process.pid)
        return False
    try:
        if not is_alive(process):
            return False
        if process.grace > 0:
            signal.pidfd_send_signal(pinned, signal.SIGTERM)
            _wait(pinned, process.grace)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pinned, signal.SIGKILL)
        # The number cannot be another's while members of its group are left, and none are signalled otherwise.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if not _wait(pinned, KILL_SECONDS):
            raise LabError(process.name, f"process {process.pid} does not end, not even when killed.")
    finally:
        os.close(pinned)
        _reap(process.pid)
    return True


def _wait(pinned: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(pinned, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def _reap(pid: int) -> None:
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        del _children[pid]
