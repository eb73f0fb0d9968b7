"""Opening and leaving the file: its schema, whether it is whole, and who uses it.

Every bus that has the file open is a row in `users`, and takes its row away when it closes; the last one also turns
the write-ahead log off. What the rows of processes that have ended say:

- One of another boot: the machine ended, and the disk may not have what it said it had. The whole file is read
  (`PRAGMA quick_check`).
- One of this boot: a process was killed, which SQLite's log makes good. A large file is not read for that, a small
  one is. What costs little is checked at every opening.
- There is no log: it was lost, and with it what was published last, or SQLite removed it at a kill; a warning says so.
  Where the process still lives, the file is a copy of the one in use, without its log: it is refused.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from towline.bus.port import BusDown
from towline.bus.sqlite import lease, whole
from towline.bus.sqlite.place import Place, prepare
from towline.bus.sqlite.schema import BUSY_TIMEOUT_S, connect, explain, make_or_check
from towline.errors import Permanent

_LOG = logging.getLogger(__name__)
_AGAIN_S = 0.02
_MOST_LOGS = 2**20
"""More beginnings of the log than there are between two looks at its number."""
WAL_BYTES = 64 * 1024 * 1024
"""Above this the write-ahead log is cut as soon as no reader is in it; every log file is cut to it."""
SMALL_BYTES = 256 * 1024 * 1024
"""Read whole in a second or two also when it is not in memory."""


class OpenFile:
    """The writing connection and its row in `users`; used by one thread at a time."""

    def __init__(self, place: Place) -> None:
        """Make or open, check and enter. Raises BusDown, Permanent."""
        self.place = place
        self.connection: sqlite3.Connection
        self._row = f"{lease.this_process()}/{secrets.token_hex(4)}"
        self._ended: tuple[str, ...] = ()
        """Users that have ended without closing."""
        self._look_until = time.monotonic() + BUSY_TIMEOUT_S / 2
        """Others that open, close or are killed just now leave rows and log apart for a moment."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        prepare(place)
        while True:
            try:
                self._open()
                return
            except (sqlite3.Error, BusDown) as error:
                explained = explain(place.path, error) if isinstance(error, sqlite3.Error) else error
                # Turning the log on and off does not wait for others as a transaction does.
                if not isinstance(explained, BusDown) or time.monotonic() > deadline:
                    raise explained from error
                time.sleep(_AGAIN_S)

    def close(self) -> None:
        """Leave the file. Only the last one can turn the log off; SQLite refuses it to everybody else."""
        with suppress(sqlite3.Error):
            if not self._turn_log_off():
                self.connection.execute("DELETE FROM users WHERE process = ?", (self._row,))
            if self._turn_log_off():
                self.connection.execute("BEGIN IMMEDIATE")
                self.connection.execute("DELETE FROM users")
                self.connection.execute("UPDATE identity SET log = 0")
                self.connection.execute("COMMIT")
        with suppress(sqlite3.Error):
            self.connection.close()

    def _turn_log_off(self) -> bool:
        """Only the last one can. Without it the last connection to close would remove the log, and leave no word."""
        with self._waiting(0):
            try:
                return bool(self.connection.execute("PRAGMA journal_mode=DELETE").fetchone()[0] == "delete")
            except sqlite3.Error:
                return False

    @contextmanager
    def _waiting(self, milliseconds: int) -> Iterator[None]:
        """Waits no longer for others than this, inside."""
        self.connection.execute(f"PRAGMA busy_timeout={milliseconds}")
        try:
            yield
        finally:
            self.connection.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")

    def cut_log(self) -> None:
        """Bring the log into the file and begin it anew, unless readers are in it for longer than a moment."""
        with suppress(OSError, sqlite3.Error):
            if self.place.wal.stat().st_size <= WAL_BYTES:
                return
            with self._waiting(200):
                self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def _open(self) -> None:
        with suppress(OSError):
            log_bytes = -1
            log_bytes = self.place.wal.stat().st_size
        self.connection = connect(self.place.path)
        try:
            self.connection.execute(f"PRAGMA journal_size_limit={WAL_BYTES}")
            if self.connection.execute("PRAGMA schema_version").fetchone()[0] == 0:
                self._turn_log_on()  # a new file; what is made goes through the log
            (mode,) = self.connection.execute("PRAGMA journal_mode").fetchone()
            self.connection.execute("BEGIN IMMEDIATE")
            make_or_check(self.connection, self.place.path)
            self._check(lacks_log=mode == "wal" and log_bytes < 0, has_log=log_bytes > 0)
            self.connection.execute("COMMIT")
            self._turn_log_on()
            self.connection.execute("BEGIN IMMEDIATE")
            # In one transaction, so that a log which is in use always has a user.
            self.connection.executemany("DELETE FROM users WHERE process = ?", [(user,) for user in self._ended])
            self.connection.execute("INSERT OR REPLACE INTO users SELECT ?, id, ? FROM identity", (self._row, _boot()))
            if log_bytes <= 0:
                self.connection.execute("UPDATE identity SET log = 0")  # a new one, whose number is not known yet
            self.connection.execute("COMMIT")
            self._note_log()
        except BaseException as error:
            with suppress(sqlite3.Error):
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):  # and not by what was found: that must be found again
                    self.connection.execute("DELETE FROM users WHERE process = ?", (self._row,))
                    self._turn_log_off()
            self.connection.close()
            raise

    def _turn_log_on(self) -> None:
        (mode,) = self.connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise Permanent(
                f"the file system of the bus file {self.place.path} gives processes no memory to share, which SQLite's "
                f"write-ahead log needs: put it on a disk of this machine"
            )

    def _check(self, *, lacks_log: bool, has_log: bool) -> None:
        whole.check_order(self.connection, self.place.path)
        users = dict(self.connection.execute("SELECT process, boot FROM users"))
        users.pop(self._row, None)  # of a try that failed
        lives = any(_lives(user) for user in users)
        if lacks_log and lives:
            if time.monotonic() < self._look_until:
                raise BusDown(f"the bus file {self.place.path} is being opened")
            raise whole.without_log(self.place.path)
        if lacks_log and users:  # SQLite itself removes a log when two end at once, and one of them by a kill
            _LOG.warning(
                "the bus file %s was not closed and has no write-ahead log: if it is a copy, or somebody removed the "
                "log, what was published last is missing",
                self.place.path,
            )
        if lives or not (users or has_log):
            return
        if has_log and self._has_foreign_log(bool(users)):
            _LOG.warning(
                "the write-ahead log %s looks like another file's, or was left by a kill while it was closed",
                self.place.wal,
            )
        machine_ended = any(boot != _boot() for boot in users.values())
        if machine_ended or lacks_log or self.place.path.stat().st_size <= SMALL_BYTES:
            _LOG.info("the bus file %s was not closed: all of it is checked", self.place.path)
            whole.check_pages(self.connection, self.place.path)
        self._ended = tuple(users)

    def _has_foreign_log(self, used: bool) -> bool:
        """SQLite would apply any log that is whole. By `identity.log` ours is known: see `_note_log`.

        SQLite's library keeps a descriptor open for as long as this process has locks on the file, so that closing
        the second connection takes none away.
        """
        alone = sqlite3.connect(f"file:{quote(str(self.place.path))}?immutable=1", uri=True)
        try:
            its_own = alone.execute("SELECT id FROM identity").fetchone()
        finally:
            alone.close()
        file, log = self.connection.execute("SELECT id, log FROM identity").fetchone()
        if its_own != (file,) or self.connection.execute("SELECT 1 FROM users WHERE file != ?", (file,)).fetchone():
            return True
        if log == 0:
            return not used  # who closed last left no log; who began one has a row
        return bool((self._log_number() - log) % 2**32 > _MOST_LOGS)

    def _note_log(self) -> None:
        """Keep the number of the log in the file itself, so that a copy without its log, or a strange log, is known.

        A log begins with a random number, which SQLite raises by 1 whenever it begins it anew (the first salt of the
        WAL header, sqlite.org/fileformat2.html section 4.1).
        """
        self.connection.execute("UPDATE identity SET log = ?", (self._log_number(),))
        self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def _log_number(self) -> int:
        """0 for none. The log's own descriptor carries no locks."""
        with self.place.wal.open("rb") as log:
            header = log.read(20)
        return int.from_bytes(header[16:20], "big") if len(header) == 20 else 0


def _boot() -> str:
    """Names the time since the machine was started; the same where the system does not tell."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _lives(user: str) -> bool:
    """Whether the process is seen to be there; one that cannot be seen from here only costs a check."""
    process = user.rpartition("/")[0]
    return lease.pid_of(process) is not None and not lease.is_dead(process)
