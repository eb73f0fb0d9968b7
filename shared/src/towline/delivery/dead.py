"""Records that cannot be handled: given up with all their bytes, and taken up again when somebody asks for it.

Rules that must hold:

- The bytes of a record and the reason are durable in `.dead` before its offset may advance.
- A replay goes the way of any record: decoded, forwarded, known by its id, decided in its lane. A letter is resolved
  only after that; one that fails again stays as it is, and says so.
- A parked key is released as a whole: its letters are decided in the order they were given up, read from the log to
  its end while newer events of the key wait behind the request, and only then is the key free. Where one of them fails
  the key stays parked and those behind it wait. So nothing is lost, and nothing overtakes.
- Asking twice changes nothing: who is resolved in the log is not taken up.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import version
from typing import Generic

from towline import flow, killpoint
from towline.bus.port import Bus, NewRecord, Record, TopicPartition
from towline.delivery import codec
from towline.delivery.lanes import Lanes
from towline.delivery.letters import (
    Fold,
    Kind,
    Letter,
    Said,
    failed_record,
    letter_records,
    origin_of,
    record_of,
    resolved_record,
)
from towline.delivery.model import Envelope, ReplayRequested, S
from towline.delivery.outlast import outlast
from towline.errors import Permanent
from towline.telemetry import metrics

log = logging.getLogger(__name__)
MOST_TOGETHER = 500
"""Letters that one request takes up before it asks for the rest, so that the offsets behind it can be committed."""


Handle = Callable[[Record], Awaitable[None]]
"""Take a record all the way: to the end of its turn, or among the dead letters."""


@cache
def _version() -> str:
    return version("towline-core")


def request(service: str, key: str, asked: ReplayRequested, *, cause: str, now: datetime) -> NewRecord:
    """What an operator writes to have letters of `key` taken up again; the same cause says the same once more."""
    id = codec.derive(service, cause, asked, 0)
    return codec.encode(Envelope(asked, id, codec.source_of(service), now, key), flow.inbox_of(service))


class DeadLetters(Generic[S]):
    """What one service gives up, and takes up again."""

    def __init__(self, service: str, bus: Bus, lanes: Lanes[S], handle: Handle) -> None:
        self._service = service
        self._topic = flow.dead_of(service)
        self._bus = bus
        self._lanes = lanes
        self._handle = handle
        self._trials: dict[str, _Trial] = {}
        """Key → the letter that is taken up again just now; the key's lane is serial, so there is one."""

    def is_replayed(self, record: Record) -> bool:
        """It was given up before: neither its place in the log nor a parked key stands against it."""
        trial = self._trials.get(record.key)
        return trial is not None and trial.record is record

    async def park(self, record: Record, error: Exception) -> None:
        """The same event would fail again: `decide` is pure, and what is too large stays so."""
        log.error("a key is parked: its decision failed", extra={"key": record.key}, exc_info=error)
        said = str(error) if isinstance(error, Permanent) else type(error).__name__
        reason = f"{said} while deciding on {codec.type_of(record)}"
        await self._lanes.park(record.key, reason)
        await self.bury(record, reason, Kind.UNDECIDED)

    async def bury(self, record: Record, reason: str, kind: Kind) -> None:
        """The record's bytes are among the dead letters when this returns; those of a replayed one were."""
        if self.is_replayed(record):
            await self._failed_again(self._trials[record.key], reason, kind)
            return
        partition = self._lanes.partition_of(record.key)
        await self._write(
            *letter_records(self._topic, partition, self._service, record, kind=kind, reason=reason, version=_version())
        )
        metrics.dead_letter(self._service)
        log.error("dead letter", extra={"service": self._service, "origin": origin_of(record), "reason": reason})

    async def _write(self, *records: NewRecord) -> None:
        await outlast(self._service, lambda: self._bus.publish(records))

    # -- taken up again -----------------------------------------------------------------------------------------------

    async def replay(self, record: Record, envelope: Envelope, asked: ReplayRequested) -> None:
        """Take up the letters of one key that are still open; a parked key only as a whole."""
        key = envelope.key
        lane = self._lanes.get(key)
        if record.offset < lane.cursor.positions.get(record.topic, 0):
            return  # it was worked off: the group's offsets were set back
        if asked.letters and lane.parked is not None:
            log.warning("not replayed: the key is parked and is released as a whole", extra={"key": key})
            return
        letters = [letter for letter in await self._open(key, asked) if letter.whole_key]
        for letter in letters[:MOST_TOGETHER]:
            if await self._try(letter, asked) is Kind.UNDECIDED:
                return
        if len(letters) > MOST_TOGETHER:
            await self._ask_for_the_rest(envelope, asked, letters[MOST_TOGETHER])
        elif self._lanes.get(key).parked is not None:
            await self._lanes.release(key)
            log.info("a key is released", extra={"key": key, "by": asked.by})

    async def _open(self, key: str, asked: ReplayRequested) -> list[Letter]:
        """The key's open letters, to the end of the log; nothing of their bytes is kept.

        Read from the beginning: a copy of a letter may stand behind what resolved it.
        """
        at = TopicPartition(self._topic, self._lanes.partition_of(key))
        folding = Fold(self._service)
        position = 0
        while records := await self._read(at, position, 1000):
            for record in records:
                if record.key == key:
                    folding.feed(record)
            position = records[-1].offset + 1
        letters = list(folding.open())
        start = next((number for number, letter in enumerate(letters) if letter.id == asked.first), 0)
        return [letter for letter in letters[start:] if not asked.letters or letter.id in asked.letters]

    async def _read(self, at: TopicPartition, start: int, limit: int) -> Sequence[Record]:
        return await outlast(self._service, lambda: self._bus.read(at, start=start, limit=limit))

    async def _try(self, letter: Letter, asked: ReplayRequested) -> Kind | None:
        """Take one letter all the way; where it got stuck, None when it is resolved or was gone."""
        at = TopicPartition(self._topic, letter.partition)
        records = [record for offset in letter.offsets for record in await self._read(at, offset, 1)]
        try:
            trial = _Trial(letter, record_of(letter, records))
        except ValueError as error:  # outlived since it was read a moment ago
            log.warning("not replayed", extra={"letter": letter.id, "error": str(error)})
            return None
        self._trials[trial.record.key] = trial
        try:
            await self._handle(trial.record)
        finally:
            del self._trials[trial.record.key]
        if trial.failed is None:
            killpoint.passed(self._service, "replayed")
            await self._write(resolved_record(self._topic, letter, Said.REPLAYED, by=asked.by, reason=asked.reason))
            log.info("a dead letter is replayed", extra={"letter": letter.id, "by": asked.by})
        return trial.failed

    async def _failed_again(self, trial: _Trial, reason: str, kind: Kind) -> None:
        trial.failed = kind
        await self._write(failed_record(self._topic, trial.letter, kind=kind, reason=reason, version=_version()))
        log.error("a dead letter failed again", extra={"letter": trial.letter.id, "reason": reason})

    async def _ask_for_the_rest(self, envelope: Envelope, asked: ReplayRequested, first: Letter) -> None:
        asked = asked.model_copy(update={"first": first.id})
        await self._write(request(self._service, envelope.key, asked, cause=envelope.id, now=envelope.time))


@dataclass(slots=True)
class _Trial:
    """A letter on its way again."""

    letter: Letter
    record: Record
    failed: Kind | None = None
    """Where it got stuck this time."""
