"""Owns instance.json: what an instance is called, which addresses are its own, and what it started.

The rule that must hold: whatever was started is in the file before anything else is done, so that another process
can stop it; the file is replaced whole, never half-written.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from towline_cli.lab.processes import Started, boot_id, is_alive, start_of

if TYPE_CHECKING:
    from pathlib import Path

FILE = "instance.json"


@dataclass(frozen=True)
class Record:
    """One running (or left-over) instance. `index` numbers its subnets, `owner` is the process that stops it in the
    end, None when it was left running on purpose; `since` is local wall time."""

    name: str
    boot: str
    since: str
    index: int
    bridge: str
    ports: dict[str, int]
    owner: Started | None
    processes: tuple[Started, ...] = ()

    @property
    def alive(self) -> tuple[Started, ...]:
        """What still runs, in the order in which it was started."""
        return tuple(each for each in self.processes if is_alive(each)) if self.boot == boot_id() else ()

    @property
    def is_owned(self) -> bool:
        """Whether somebody stands for it: its owner lives, or it was left running on purpose."""
        return self.owner is None or (self.boot == boot_id() and is_alive(self.owner))

    def with_process(self, process: Started) -> Record:
        return replace(self, processes=(*self.processes, process))


def this_process() -> Started:
    """The process that runs this code."""
    return Started("owner", os.getpid(), start_of(os.getpid()) or 0)


def _process(raw: dict[str, Any] | None) -> Started | None:
    return Started(**raw) if raw is not None else None


def read(folder: Path) -> Record | None:
    """The record in `folder`; None when there is none or it cannot be read (then nothing can be known of it)."""
    try:
        raw = json.loads((folder / FILE).read_text(encoding="utf-8"))
        processes = tuple(Started(**each) for each in raw.pop("processes"))
        return Record(**{**raw, "owner": _process(raw["owner"]), "processes": processes})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def write(folder: Path, record: Record) -> None:
    """Replaces the record of `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / f"{FILE}.new"
    staged.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
    staged.replace(folder / FILE)


def remove(folder: Path) -> None:
    """Forgets the record of `folder`."""
    (folder / FILE).unlink(missing_ok=True)
