"""Whether the file is whole, as far as it can tell.

`check_order` costs a few milliseconds however large the file is; `check_pages` reads all of it (about half a second per
GB that is in memory). Neither sees a changed byte inside of a value: SQLite keeps no checksums of its pages.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

from towline.errors import Permanent

_MOST_TOLD = 3


class Damaged(Permanent):
    """The file is not what Towline wrote. The message says what to do."""


def damaged(path: Path, what: str) -> Damaged:
    return Damaged(
        f"the bus file {path} is damaged: {what}. Stop every service, keep a copy, and restore the file from a backup; "
        f"or save what can be read and begin with that: towline bus export --damaged --bus sqlite:///{quote(str(path))}"
        f" saved.gz, then towline bus import --although-damaged saved.gz into a new file"
    )


def without_log(path: Path) -> Damaged:
    """Somebody has the file open, as it says, and yet there is no log beside it."""
    return damaged(
        path,
        f"its write-ahead log {path.name}-wal is missing, and with it what was published last: the file was copied "
        f"without it, or it was removed",
    )


def check_order(connection: sqlite3.Connection, path: Path) -> None:
    """Every topic has its partitions, and no record or group is ahead of its partition. Raises Damaged."""
    row = connection.execute(
        "SELECT t.name, t.partitions, count(h.partition) FROM topics t LEFT JOIN heads h ON h.topic = t.id"
        " GROUP BY t.id HAVING count(h.partition) != t.partitions"
    ).fetchone()
    if row is not None:
        raise damaged(path, f"topic {row[0]} has {row[2]} of its {row[1]} partitions")
    for name, topic, partition, next_ in connection.execute(
        "SELECT t.name, h.topic, h.partition, h.next FROM heads h JOIN topics t ON t.id = h.topic"
    ).fetchall():
        (last,) = connection.execute(
            "SELECT max(offset) FROM records WHERE topic = ? AND partition = ?", (topic, partition)
        ).fetchone()
        if last is not None and last >= next_:
            raise damaged(path, f"{name}/{partition} has a record at offset {last}, and would write {next_} next")
    row = connection.execute(
        "SELECT o.grp, t.name, o.partition, o.next, h.next FROM offsets o JOIN topics t ON t.id = o.topic"
        " JOIN heads h ON h.topic = o.topic AND h.partition = o.partition WHERE o.next > h.next"
    ).fetchone()
    if row is not None:
        raise damaged(path, f"group {row[0]} has committed {row[3]} in {row[1]}/{row[2]}, which ends at {row[4]}")


def check_pages(connection: sqlite3.Connection, path: Path) -> None:
    """Every page is where it belongs, and the index of compacted topics names their records. Raises Damaged."""
    said = [row[0] for row in connection.execute(f"PRAGMA quick_check({_MOST_TOLD})")]
    if said != ["ok"]:
        raise damaged(path, "; ".join(line.strip().replace("\n", " ") for line in said))
    row = connection.execute(
        "SELECT t.name, l.partition, l.key FROM latest l JOIN topics t ON t.id = l.topic LEFT JOIN records r"
        " ON r.topic = l.topic AND r.partition = l.partition AND r.offset = l.offset AND r.key = l.key"
        " WHERE r.offset IS NULL"
    ).fetchone()
    if row is not None:
        raise damaged(path, f"{row[0]}/{row[1]} lacks the last record of key {row[2]!r}")
    (records, latest) = connection.execute(
        "SELECT (SELECT count(*) FROM records r JOIN topics t ON t.id = r.topic WHERE t.cleanup = 'compact'),"
        " (SELECT count(*) FROM latest)"
    ).fetchone()
    if records != latest:
        raise damaged(path, f"its compacted topics have {records} records of {latest} keys")
