"""Which dead letters somebody means: by the beginning of an id, by key, service, reason or age. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from towline.delivery.letters import Letter
from towline.errors import BadInput
from towline_cli.view.letters import short_ids

SHORTEST_PREFIX = 4
_DURATION = re.compile(r"(\d{1,6})\s*(s|m|min|h|d)")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that is given must hold; nothing given means every letter."""

    service: str | None = None
    key: str | None = None
    reason: str | None = None
    """Part of the reason."""
    newer_ms: int | None = None
    """Given up last after this time."""
    older_ms: int | None = None

    def takes(self, letter: Letter) -> bool:
        return (
            self.service in (None, letter.service)
            and self.key in (None, letter.key)
            and (self.reason is None or self.reason.lower() in letter.reason.lower())
            and (self.newer_ms is None or letter.last_ms >= self.newer_ms)
            and (self.older_ms is None or letter.last_ms <= self.older_ms)
        )


def milliseconds(text: str) -> int:
    """`90s`, `10m`, `2h` or `3d`. Raises BadInput."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise BadInput(f"{text!r} is no age; expected a number and a unit, such as 90s, 10m, 2h or 3d")
    return int(found[1]) * _SECONDS[found[2]] * 1000


def find(letters: Sequence[Letter], prefix: str) -> Letter:
    """The letter whose id begins so, resolved ones too. Raises BadInput with the nearest when none or several do."""
    asked = prefix.strip().lower()
    found = [letter for letter in letters if letter.id.startswith(asked)] if len(asked) >= SHORTEST_PREFIX else []
    if len(found) == 1:
        return found[0]
    short = short_ids(letters)
    if len(found) > 1:
        raise BadInput(f"{prefix!r} is the beginning of several: {_named(found, short)}")
    raise BadInput(f"there is no dead letter {prefix!r}{_nearest(letters, asked, short)}")


def known_service(service: str | None, services: Iterable[str]) -> None:
    """Raises BadInput with the nearest for a service that has no dead letters' topic."""
    there = sorted(services)
    if service is not None and service not in there:
        near = _close(service, there) or there
        raise BadInput(f"there is no service {service!r} on this bus; there are: {', '.join(near) or 'none'}")


def known_key(key: str | None, letters: Iterable[Letter]) -> None:
    """Raises BadInput for a key that no letter has, where one that has some is called much the same."""
    there = {letter.key for letter in letters}
    if key is not None and key not in there and (near := _close(key, sorted(there))):
        raise BadInput(f"the key {key!r} has no dead letters; did you mean {', '.join(near)}?")


def _close(word: str, words: Sequence[str]) -> list[str]:
    import difflib

    return difflib.get_close_matches(word, words, n=3, cutoff=0.6)


def _nearest(letters: Sequence[Letter], asked: str, short: dict[str, str]) -> str:
    if not letters:
        return ": there is none at all"
    if len(asked) < SHORTEST_PREFIX:
        return f"; give {SHORTEST_PREFIX} or more characters of an id"
    beginnings = {letter.id[: max(len(asked), SHORTEST_PREFIX)]: letter for letter in letters}
    near = [beginnings[each] for each in _close(asked, list(beginnings))]
    return f"; did you mean {_named(near, short)}?" if near else "; `towline dead list --all` has them all"


def _named(letters: Iterable[Letter], short: dict[str, str]) -> str:
    return ", ".join(f"{short[letter.id]} ({letter.service} {letter.key})" for letter in letters)
