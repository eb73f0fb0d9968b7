"""The place of the file: what must hold of it before SQLite may touch it, and how it is made."""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from towline.bus.sqlite.file_systems import is_in_memory, mount_of, network_name
from towline.errors import Permanent

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    path: Path
    on_network: bool = False
    """An operator says that the file system keeps locks and shared memory, whatever it is."""

    @property
    def wal(self) -> Path:
        return self.path.with_name(self.path.name + "-wal")

    @property
    def wake_folder(self) -> Path:
        return self.path.with_name(self.path.name + "-wake")


def prepare(place: Place) -> None:
    """Check what is there, and make the file where nothing is. Raises Permanent saying what to do."""
    check_file_system(place)
    there = check_file(place.path)
    if there is None and place.wal.exists() and place.wal.stat().st_size > 0:
        raise Permanent(
            f"the bus file {place.path} is missing, but its write-ahead log {place.wal.name} is there: restore the "
            f"file; or, to begin anew, remove what lies beside it under its name ({place.path.name}-*)"
        )
    try:
        if there is None:
            place.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _create(place.path)
            return
    except OSError as error:
        raise Permanent(f"the bus file {place.path} cannot be made: {error.strerror}") from error
    if there.st_size == 0 and (place.wal.exists() or place.wake_folder.exists()):
        raise Permanent(
            f"the bus file {place.path} is empty, though a bus was there before: restore it; or, to begin anew, remove "
            f"it and what lies beside it under its name ({place.path.name}-*)"
        )
    _check_writable(place.path)
    if there.st_mode & 0o007:
        _LOG.warning("the bus file %s can be opened by every user: chmod 600 it", place.path)


def check_file_system(place: Place) -> None:
    mount = mount_of(place.path)
    if mount is None:
        return
    name = network_name(mount.kind)
    if name is not None and not place.on_network:
        raise Permanent(
            f"the bus file {place.path} would lie on {name} (mounted on {mount.point}), where SQLite's locks and "
            f"shared memory do not hold and the file is damaged sooner or later: put it on a disk of this machine, or "
            f"use Kafka; ?network=accepted behind the bus's URL takes it as it is"
        )
    if is_in_memory(mount.kind):
        _LOG.warning("the bus file %s lies in memory (%s): it is gone with the power", place.path, mount.point)


def check_file(path: Path) -> os.stat_result | None:
    """What is at the path; None when nothing is. Raises Permanent for anything but a file."""
    try:
        there = path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Permanent(f"the bus file {path} cannot be opened: {error.strerror}") from error
    if stat.S_ISLNK(there.st_mode):
        raise Permanent(
            f"the bus file {path} is a link to {path.readlink()}: name the file itself, so that what SQLite and "
            f"Towline put beside it is found by everybody"
        )
    if not stat.S_ISREG(there.st_mode):
        kind = "a folder" if stat.S_ISDIR(there.st_mode) else "no file"
        raise Permanent(f"the bus file {path} is {kind}: name a file")
    return there


def _create(path: Path) -> None:
    """Make the file readable by its owner alone; SQLite gives its WAL the same mode.

    A file that is there is not opened: closing it again would take this process's own locks away from whoever in it has
    the file open, and others would then write over them (sqlite.org/howtocorrupt.html, section 2.2).
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _check_writable(path: Path) -> None:
    """SQLite would open it for reading alone, and fail at the first publish."""
    for what, needed in ((path, os.R_OK | os.W_OK), (path.parent, os.R_OK | os.W_OK | os.X_OK)):
        if os.access(what, needed):
            continue
        if os.statvfs(what).f_flag & os.ST_RDONLY:
            raise Permanent(f"the bus file {path} is on a read-only file system: mount it for writing")
        named = "the bus file" if what == path else "the folder of the bus file"
        raise Permanent(
            f"{named} {what} may not be written by this user (uid {os.geteuid()}): it belongs to uid "
            f"{what.stat().st_uid}; run as that user, or change its owner"
        )
