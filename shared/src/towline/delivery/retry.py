"""When to try again, as pure functions: a policy returns a decision and never sleeps.

Exponential back-off with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"); the jitter comes from
the id of what is tried, so a replay waits the same. A breaker is closed, open until a time, or lets one probe through.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace

from towline.errors import DependencyDown, Permanent, Retryable
from towline.ids import digest_of

FIRST_DELAY = 0.2
LONGEST_DELAY = 60.0
RETRYABLE_TRIES = 10
BUG_TRIES = 3
SHORTAGES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""This host has too little of something: no fault of what is tried, and it passes when somebody makes room."""
OPEN_AFTER = 5


@dataclass(frozen=True, slots=True)
class Again:
    after: float
    """Seconds to wait."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    reason: str


def retry(error: Exception, tries: int, id: str) -> Again | GiveUp:
    """What to do after try number `tries` (from 1) failed with `error`.

    A dependency that is down and a host that is full are waited for without end; something retryable ends after
    RETRYABLE_TRIES; a bug after BUG_TRIES, in case it was a passing one.
    """
    if isinstance(error, Permanent):
        return GiveUp(str(error))
    if isinstance(error, DependencyDown):
        return Again(error.after if error.after is not None else backoff(tries, id))
    if isinstance(error, OSError) and error.errno in SHORTAGES:
        return Again(backoff(tries, id))
    most = RETRYABLE_TRIES if isinstance(error, Retryable) else BUG_TRIES
    if tries >= most:
        said = str(error) if isinstance(error, Retryable) else f"{type(error).__name__} (a bug; see the log)"
        return GiveUp(f"given up after {tries} tries: {said}")
    after = error.after if isinstance(error, Retryable) else None
    return Again(backoff(tries, id) if after is None else after)


def backoff(tries: int, id: str) -> float:
    """Seconds before try number `tries` + 1: between half and the whole of a doubling delay."""
    ceiling = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(tries - 1, 20))
    share = int(digest_of(id, str(tries))[:8], 16) / 0xFFFFFFFF
    return ceiling * (0.5 + 0.5 * share)


@dataclass(frozen=True, slots=True)
class Breaker:
    """State of one resource's circuit breaker; times are seconds of any steady clock."""

    failures: int = 0
    open_until: float = 0.0
    probing: bool = False

    def may_call(self, now: float) -> bool:
        return self.failures < OPEN_AFTER or (now >= self.open_until and not self.probing)

    def called(self) -> Breaker:
        return replace(self, probing=True) if self.failures >= OPEN_AFTER else self

    def succeeded(self) -> Breaker:
        return Breaker()

    def failed(self, now: float) -> Breaker:
        failures = self.failures + 1
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures, 20)) if failures >= OPEN_AFTER else 0.0
        return Breaker(failures, now + delay, probing=False)
