"""Owns the unprivileged system user that image builds run as, and its range of subordinate ids.

The rule that must hold: the range overlaps nobody else's, so an id inside a build is nobody outside of it.
"""

from __future__ import annotations

import pwd
from pathlib import Path

from towline_cli.lab.command import run
from towline_cli.lab.errors import LabError

PART = "build user"
NAME = "towline-build"
COUNT = 65536
# SUB_UID_MIN of Debian's login.defs; useradd skips ranges that are listed, so ours stays ours.
FIRST = 100_000
SUBUID = Path("/etc/subuid")
SUBGID = Path("/etc/subgid")


def free_range(*tables: str) -> int:
    """First id of COUNT ids that no line (`name:first:count`) of `tables` holds, at or above FIRST."""
    start = FIRST
    for table in tables:
        for line in table.splitlines():
            fields = line.strip().split(":")
            if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
                start = max(start, int(fields[1]) + int(fields[2]))
    return start


def _has_range(table: str) -> bool:
    return any(line.startswith(f"{NAME}:") for line in table.splitlines())


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def is_there() -> bool:
    """Whether the user and both of its ranges are there."""
    try:
        pwd.getpwnam(NAME)
    except KeyError:
        return False
    return _has_range(_read(SUBUID)) and _has_range(_read(SUBGID))


def install() -> None:
    """Makes the user and its ranges; what is there already stays."""
    if is_there():
        return
    try:
        pwd.getpwnam(NAME)
    except KeyError:
        shell, home = "/usr/sbin/nologin", "/nonexistent"
        run(PART, ["useradd", "--system", "--user-group", "--home-dir", home, "--shell", shell, NAME])
    uids, gids = _read(SUBUID), _read(SUBGID)
    first = free_range(uids, gids)
    span = f"{first}-{first + COUNT - 1}"
    options = [] if _has_range(uids) else ["--add-subuids", span]
    options += [] if _has_range(gids) else ["--add-subgids", span]
    run(PART, ["usermod", *options, NAME])
    if not is_there():
        raise LabError(PART, f"{NAME} has no range in {SUBUID} and {SUBGID} after usermod.")
