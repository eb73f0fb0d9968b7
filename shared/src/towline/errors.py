"""What can go wrong, by consequence: the runtime asks the class, never a list of names.

    TowlineError
     ├─ Retryable          try again; `after` says when, or the policy does
     │   └─ DependencyDown a forge, registry, cluster or channel is away: its circuit breaker opens
     ├─ Permanent          trying again cannot help: dead letter, or a failed effect
     │   └─ Undecodable    the bytes are no event this version can read
     └─ BadInput           a person's mistake, with file, line and what was expected

Anything else is a bug: logged with its trace, tried a few times, then parked.
Messages never hold credentials; `redact` takes them out of foreign text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


class TowlineError(Exception):
    """The root of every error Towline raises on purpose."""


class Retryable(TowlineError):
    """The same call may succeed later. `after` is in seconds; None leaves it to the retry policy."""

    def __init__(self, message: str, *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class DependencyDown(Retryable):
    """Something outside does not answer; whoever else needs it should not try now either."""


class Permanent(TowlineError):
    """Trying again cannot help."""


class Undecodable(Permanent):
    """The bytes are no event that this version can read."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where in a person's file something is wrong; `line` and `column` count from 1."""

    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)


class BadInput(Permanent):
    """A person's mistake. The message says what is wrong, what was expected and what to do."""

    def __init__(self, message: str, *, at: Location | None = None) -> None:
        super().__init__(f"{at}: {message}" if at else message)
        self.at = at


_CREDENTIALS = (
    re.compile(r"(://)[^/\s:@]+(?::[^/\s@]*)?(?=@)"),
    re.compile(r"(?i)(authorization: )\S+(?: \S+)?"),
    re.compile(r"(?i)(bearer )[\w.~+/=-]+"),
    re.compile(r"(?i)((?:token|secret|password|passwd|sig|key)=)[^&\s\"']+"),
)


def redact(text: str) -> str:
    """Foreign text (a tool's output, a client's error) without the credentials it may quote."""
    for pattern in _CREDENTIALS:
        text = pattern.sub(r"\1***", text)
    return text
