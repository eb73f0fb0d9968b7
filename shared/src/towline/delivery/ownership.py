"""Who writes a state partition: claims with generations, and how an owner notices that it is none any more.

Every record of a state partition carries the generation of its writer. Who gets a partition from the group reads it to
its end and appends a claim, with a generation above all that it saw; from there on a record of a lower generation is a
zombie's: of a member that lost the partition while it was paused, and wrote what it still had in hand.

    offset      70            71        72             73           74
    generation  claim 4 (a)   row (4)   claim 5 (b)    row (4) ✗    row (5)
                              └ counts                 └ a, late: ignored by whoever loads, written again by b

Rules that must hold:

- A row of a lower generation than the highest claim before it never counts; the owner writes its own value again, since
  compaction knows nothing of generations. A claim is taken away only behind the rows that were written again.
- A partition is written by `append` alone, so offsets have no gaps of their own (bus.port): an answer that is not the
  offset expected means that somebody else wrote, and nothing of that turn leaves until the gap was read.
- Ownership is believed for SURE_FOR seconds after the moment it was last seen; then nothing leaves until it is seen
  anew. A process that was paused has lost that belief when it wakes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import orjson

from towline.bus.port import LostAssignment, NewRecord, Record

T = TypeVar("T")
GENERATION = "tl_generation"
"""Header of every record of a state partition."""
CLAIM = "\x1fclaim\x1f"
"""Key prefix of a claim; no lane has the empty key. Each claim has a key of its own, so none hides another."""
SURE_FOR = 8.0
"""Seconds; less than a group's session timeout without the time between two heartbeats (15 s less 3 s on both buses): a
member that is stopped just before a heartbeat is taken for dead that much earlier."""


class Fenced(LostAssignment):
    """Another member has claimed the partition; nothing of the turn that found out may leave."""


class Claim(NamedTuple):
    generation: int
    token: str
    """Of this one take-over."""
    member: str = ""


def key_of(claim: Claim) -> str:
    return f"{CLAIM}{claim.generation}\x1f{claim.token}"


def claim_record(topic: str, partition: int, claim: Claim) -> NewRecord:
    value = orjson.dumps({"generation": claim.generation, "member": claim.member})
    return NewRecord(topic, key_of(claim), value, headers(claim.generation), partition)


def headers(generation: int) -> dict[str, bytes]:
    return {GENERATION: str(generation).encode()}


_MOST_DIGITS = 19


def generation_of(record_headers: Mapping[str, bytes]) -> int:
    """0 for a record from before there were generations, -1 for a stranger's: it never counts."""
    said = record_headers.get(GENERATION, b"0")
    return int(said) if said.isdigit() and len(said) < _MOST_DIGITS else -1


def claimed_by(key: str, value: bytes | None) -> Claim | None:
    """The claim that this record is; None for rows, and for what is taken away, or only called like one."""
    if value is None or not key.startswith(CLAIM):
        return None
    generation, _, token = key.removeprefix(CLAIM).partition("\x1f")
    try:
        return Claim(int(generation), token, str(orjson.loads(value).get("member", "")))
    except (ValueError, AttributeError):
        return None


@dataclass(slots=True)
class Generations:
    """Which records of a state partition count: the rule, fed with every record in the order of the log."""

    highest: int = 0
    """Of all claims, and of all rows that count, so far."""

    def counts(self, key: str, value: bytes | None, generation: int) -> bool:
        """Whether a row counts; False for everything that is called like a claim."""
        if key.startswith(CLAIM):
            claim = claimed_by(key, value)
            self.highest = max(self.highest, claim.generation if claim else 0)
            return False
        if generation < self.highest:
            return False
        self.highest = generation
        return True


@dataclass(slots=True)
class Rows:
    """What a state partition says, folded record by record from its beginning."""

    counting: dict[str, bytes] = field(default_factory=dict)
    """Record key → value, of the rows that count."""
    shadowed: set[str] = field(default_factory=set)
    """Keys whose last record is a zombie's: compaction would keep it, so the owner writes them again."""
    claims: dict[str, Claim] = field(default_factory=dict)
    """Record key → claim, oldest first."""
    generations: Generations = field(default_factory=Generations)

    @property
    def highest(self) -> int:
        return self.generations.highest

    def feed(self, key: str, value: bytes | None, generation: int) -> None:
        counts = self.generations.counts(key, value, generation)
        if key.startswith(CLAIM):
            self._put(self.claims, key, claimed_by(key, value))
        elif not counts:
            self.shadowed.add(key)
        else:
            self.shadowed.discard(key)
            self._put(self.counting, key, value)

    @staticmethod
    def _put(table: dict[str, T], key: str, value: T | None) -> None:
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value


@dataclass(frozen=True, slots=True)
class Foreign:
    """What stands in a partition that its owner was not told of."""

    fenced_by: Claim | None = None
    shadowed: frozenset[str] = frozenset()
    """Keys of rows that may stand over what the owner wrote: it writes them again."""


def judge(own: Claim, records: Iterable[Record]) -> Foreign:
    """Read what an owner was not told of, in the order of the log.

    A higher claim, or a row that only its writer can have written, ends the ownership. A second claim of the same
    generation does not: whoever made it sees ours before it. A row of a lower generation is a zombie's; one of our own
    is an append whose answer was lost, and a delayed try of it may stand behind what was written since.
    """
    shadowed: set[str] = set()
    for record in records:
        if record.key.startswith(CLAIM):
            claim = claimed_by(record.key, record.value)
            if claim is not None and claim.generation > own.generation:
                return Foreign(claim)
        elif (generation := generation_of(record.headers)) > own.generation:
            return Foreign(Claim(generation, "", "another member"))
        else:
            shadowed.add(record.key)
    return Foreign(None, frozenset(shadowed))


def overtaken_by(own: Claim, claims: Iterable[Claim]) -> Claim | None:
    """Another claim that does not stand below ours: claims read before our own record, so theirs counts."""
    return next((c for c in claims if c.token != own.token and c.generation >= own.generation), None)


def suspended_seconds() -> float:
    """How long this host has slept since it started; a loop's own clock stands still meanwhile."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
