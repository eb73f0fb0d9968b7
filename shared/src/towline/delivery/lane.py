"""A lane: what a service holds for one key, and how it is kept in the state topic.

A lane is a set of rows, each one compacted record `<key>␟<row>` in the partition of the key's inbox:

    cursor            positions, sequences, epoch: what was handled and sent
    state             the state model without its tables
    state.<f>␟<e>     entry <e> of a table, a state field of type dict[str, Model]
    timer␟<name>      a due time
    outbox␟<id>       an event or effect that is not done yet
    parked            why `decide` keeps failing here; later events go to the dead letters

A turn writes the rows it changed, in one atomic batch; a row with no value is a tombstone. Rule: whatever a lane
says can be rebuilt from its rows alone.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import Any, Generic, get_args, get_origin

import orjson
from pydantic import BaseModel, ConfigDict, Field

from towline.bus.port import NewRecord
from towline.delivery import ownership
from towline.delivery.model import S, State

SEPARATOR = "\x1f"
OUTBOX = "outbox" + SEPARATOR
RECENT_IDS = 128
"""Ids of source events a lane remembers, to drop what a source emits twice."""
SEEN_LANES = 256
"""Producer lanes a lane remembers, the last heard of; a copy comes soon after its original (a producer's restart)."""

Rows = dict[str, bytes | None]


class Cursor(BaseModel):
    model_config = ConfigDict(frozen=True)

    positions: dict[str, int] = Field(default_factory=dict, description="Topic → next offset of the lane's partition.")
    seen: dict[str, int] = Field(
        default_factory=dict,
        description="Producer lane and topic it was read from → last sequence handled. By topic, because the order of "
        "topics to each other is not promised: a later event of one must not hide an earlier one of another.",
    )
    epoch: str = Field("", description="Names this life of the lane: a forgotten key that comes back counts anew.")
    sent: int = Field(0, description="Sequence of the last event that left in this epoch.")
    recent: tuple[str, ...] = Field((), description="Ids of the last events that sources emitted.")


class OutboxItem(BaseModel):
    """Something decided and not yet done. An event is kept as the record it will be, so that its bytes never change."""

    model_config = ConfigDict(frozen=True)

    id: str
    order: int
    kind: str = Field(description="`event`, or the kind of an effect.")
    topic: str = ""
    key: str = ""
    value: str = ""
    headers: dict[str, str] = Field(default_factory=dict)
    effect: dict[str, Any] = Field(default_factory=dict)
    traceparent: str | None = None
    cause: str | None = Field(None, description="For the log of an effect: id of the event that asked for it.")
    change: str | None = Field(None, description="For the log of an effect: the change that event is about.")

    @classmethod
    def of_event(cls, id: str, order: int, record: NewRecord) -> OutboxItem:
        return cls(
            id=id,
            order=order,
            kind="event",
            topic=record.topic,
            key=record.key,
            value=base64.b64encode(record.value or b"").decode(),
            headers={name: value.decode() for name, value in record.headers.items()},
        )

    def record(self) -> NewRecord:
        headers = {name: value.encode() for name, value in self.headers.items()}
        return NewRecord(self.topic, self.key, base64.b64decode(self.value), headers)


@dataclass(frozen=True)
class Lane(Generic[S]):
    key: str
    state: S
    cursor: Cursor = field(default_factory=Cursor)
    timers: Mapping[str, datetime] = field(default_factory=dict)
    outbox: Mapping[str, OutboxItem] = field(default_factory=dict)
    parked: str | None = None
    fresh: bool = True
    """Its state is not kept: it says nothing yet, or was forgotten."""

    @property
    def idle(self) -> bool:
        """Nothing is known of the key and nothing is awaited; only the cursor still tells what was handled."""
        return self.fresh and not self.timers and not self.outbox and self.parked is None

    def done(self, ids: Iterable[str]) -> Lane[S]:
        gone = set(ids)
        return replace(self, outbox={id: item for id, item in self.outbox.items() if id not in gone})


@cache
def tables_of(model: type[State]) -> frozenset[str]:
    """The fields kept as one row per entry."""
    names = set()
    for name, info in model.model_fields.items():
        args = get_args(info.annotation)
        if get_origin(info.annotation) is dict and isinstance(args[1], type) and issubclass(args[1], BaseModel):
            names.add(name)
    return frozenset(names)


def changed_rows(before: Lane[S], after: Lane[S]) -> Rows:
    """The rows that turn `before` into `after`; empty when nothing changed."""
    rows: Rows = {}
    old, new = None if before.fresh else before.state, None if after.fresh else after.state
    if old is not new:
        rows.update(_changed_state(old, new))
    for name in before.timers.keys() | after.timers.keys():
        due = after.timers.get(name)
        if due != before.timers.get(name):
            rows[_row("timer", name)] = None if due is None else due.isoformat().encode()
    for id in before.outbox.keys() - after.outbox.keys():
        rows[_row("outbox", id)] = None
    for id in after.outbox.keys() - before.outbox.keys():
        rows[_row("outbox", id)] = after.outbox[id].model_dump_json(exclude_defaults=True).encode()
    if after.parked != before.parked:
        rows["parked"] = None if after.parked is None else after.parked.encode()
    if after.cursor is not before.cursor:
        rows["cursor"] = after.cursor.model_dump_json(exclude_defaults=True).encode()
    return rows


def _changed_state(before: S | None, after: S | None) -> Rows:
    """None stands for a state that is not kept."""
    rows: Rows = {}
    model = type(after) if after is not None else type(before)
    tables: frozenset[str] = tables_of(model) if issubclass(model, State) else frozenset()
    for name in tables:
        old = {} if before is None else getattr(before, name)
        new = {} if after is None else getattr(after, name)
        for entry in old.keys() - new.keys():
            rows[_row(f"state.{name}", entry)] = None
        for entry, value in new.items():
            if old.get(entry) is not value:
                rows[_row(f"state.{name}", entry)] = value.model_dump_json(exclude_defaults=True).encode()
    body, former = _body(after, tables), _body(before, tables)
    if body != former:
        rows["state"] = body
    return rows


def _body(state: State | None, tables: frozenset[str]) -> bytes | None:
    if state is None:
        return None
    return state.model_dump_json(exclude=set(tables), exclude_defaults=True).encode()


def rows_of(lane: Lane[Any]) -> Rows:
    """Every row of a lane."""
    return changed_rows(Lane(lane.key, type(lane.state)()), lane)


def records_of(
    topic: str, partition: int, key: str, rows: Rows, headers: Mapping[str, bytes] | None = None
) -> list[NewRecord]:
    return [
        NewRecord(topic, key + SEPARATOR + row, value, headers or {}, partition) for row, value in sorted(rows.items())
    ]


def lanes_of(model: type[S], rows: ownership.Rows) -> dict[str, Lane[S]]:
    """The lanes of a state partition, by key, from the rows of it that count."""
    lanes: dict[str, dict[str, bytes]] = {}
    for record_key, value in rows.counting.items():
        key, _, row = record_key.partition(SEPARATOR)
        lanes.setdefault(key, {})[row] = value
    return {key: _lane(model, key, own) for key, own in lanes.items()}


def _lane(model: type[S], key: str, rows: Mapping[str, bytes]) -> Lane[S]:
    body: dict[str, Any] = orjson.loads(rows.get("state", b"{}"))
    timers: dict[str, datetime] = {}
    outbox: dict[str, OutboxItem] = {}
    for row, value in rows.items():
        family, _, entry = row.partition(SEPARATOR)
        if family.startswith("state."):
            body.setdefault(family.removeprefix("state."), {})[entry] = orjson.loads(value)
        elif family == "timer":
            timers[entry] = datetime.fromisoformat(value.decode())
        elif family == "outbox":
            outbox[entry] = OutboxItem.model_validate_json(value)
    return Lane(
        key=key,
        state=model.model_validate(body, extra="ignore"),
        cursor=Cursor.model_validate_json(rows.get("cursor", b"{}")),
        timers=timers,
        outbox=dict(sorted(outbox.items(), key=lambda pair: pair[1].order)),
        parked=rows["parked"].decode() if "parked" in rows else None,
        fresh="state" not in rows,
    )


def _row(family: str, entry: str) -> str:
    return f"{family}{SEPARATOR}{entry}"
