"""Which lanes say nothing any more, since when, and which of them have been kept long enough: pure.

A forgotten lane still knows what it has seen, so that a copy that comes late changes nothing. It stays for a time, and
where keys come and go faster than that, as one of the last MOST_FORGOTTEN: memory depends neither on how many keys
there ever were nor on how long the process has run.
"""

from __future__ import annotations

FORGOTTEN_STAYS = 3600.0
"""Seconds that a forgotten lane still knows what it has seen."""
MOST_FORGOTTEN = 10_000
"""Beyond this many the longest forgotten go earlier."""
CROWDED = MOST_FORGOTTEN + MOST_FORGOTTEN // 10
"""From this many on it is worth a batch to let some go."""


class Forgotten:
    def __init__(self, stays: float = FORGOTTEN_STAYS) -> None:
        self._stays = stays
        self._since: dict[str, float] = {}
        """Key → since when, the longest forgotten first."""

    def __len__(self) -> int:
        return len(self._since)

    def note(self, key: str, *, idle: bool, now: float) -> None:
        """The lane has just become this; one that was idle already stays forgotten since then."""
        if not idle:
            self._since.pop(key, None)
        else:
            self._since.setdefault(key, now)

    def drop(self, key: str) -> None:
        self._since.pop(key, None)

    @property
    def crowded(self) -> bool:
        return len(self._since) > CROWDED

    def outlived(self, now: float) -> list[str]:
        """Those whose time has passed, and the longest forgotten of too many."""
        excess = len(self._since) - MOST_FORGOTTEN
        found = []
        for number, (key, since) in enumerate(self._since.items()):
            if number >= excess and now - since < self._stays:
                break
            found.append(key)
        return found
