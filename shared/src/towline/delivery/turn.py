"""One event, one turn, as a pure function: `take(lane, envelope, …) -> Turn`.

Rules that must hold:

- An event whose position, sequence, effect or timer the lane has already handled changes nothing.
- Ids of what leaves derive from the id of what came in, so deciding the same event again says the same.
- A producer lane's sequence is compared only within the topic it was read from, and a forwarded copy only with copies
  that took the same way: elsewhere a later event may be read first.
- A replayed event comes late: its position and sequence say nothing of whether it was handled, its id does.
- A turn is applied only after its rows are durable; until then the old lane stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic

from towline import flow
from towline.delivery import codec
from towline.delivery.lane import RECENT_IDS, SEEN_LANES, Cursor, Lane, OutboxItem, Rows, changed_rows
from towline.delivery.model import Decision, Effect, Envelope, S, Service, State, TimerFired
from towline.events.base import Event
from towline.ids import digest_of

Trace = Callable[[Event | Effect], str | None]
"""The trace context that something leaving this turn shall carry."""


@dataclass(frozen=True)
class Turn(Generic[S]):
    lane: Lane[S]
    rows: Rows
    leaving: tuple[OutboxItem, ...] = ()
    """Events first, then effects, in the order decided."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where an envelope was read: its topic and the offset after it."""

    topic: str
    next_offset: int
    replayed: bool = False
    """It was read there before, given up, and is taken up again."""


def handled(lane: Lane[Any], envelope: Envelope, at: Arrival) -> bool:
    """True when this lane has had the event: a redelivery, a copy, a late result or a stale timer."""
    if not at.replayed and at.next_offset <= lane.cursor.positions.get(at.topic, 0):
        return True
    if envelope.lane is not None and envelope.sequence is not None:
        if not at.replayed and envelope.sequence <= lane.cursor.seen.get(_way(envelope.lane, at), 0):
            return True
        return envelope.id in lane.cursor.recent
    if isinstance(envelope.event, TimerFired):
        return lane.timers.get(envelope.event.name) != envelope.event.due
    if _answers_effect(envelope):
        return envelope.cause not in lane.outbox
    return envelope.id in lane.cursor.recent


def take(
    service: Service[S], lane: Lane[S], envelope: Envelope, at: Arrival, now: datetime, trace: Trace
) -> Turn[S] | None:
    """Decide on one event; None when it was handled before or changes nothing. Raises what `decide` raises."""
    if handled(lane, envelope, at):
        return None
    decision = service.decide(lane.state, envelope, now)
    closes = isinstance(envelope.event, TimerFired) or _answers_effect(envelope)
    if not closes and _says_nothing(lane.state, decision):
        return None
    after = _applied(service, lane, envelope, at, decision)
    leaving = _leaving(service, after, envelope, decision, now, trace)
    if leaving:
        sent = after.cursor.sent + sum(1 for item in leaving if item.kind == "event")
        after = replace(
            after,
            cursor=after.cursor.model_copy(update={"sent": sent}),
            outbox={**after.outbox, **{item.id: item for item in leaving}},
        )
    return Turn(after, changed_rows(lane, after), leaving)


def forwarded(service: str, envelope: Envelope, topic: str, copies: Iterable[tuple[str, Event]]) -> list[Envelope]:
    """The inbox copies of an event that is keyed otherwise.

    The producer's sequence goes with each, but its lane is told apart by the way: the topic, the key it was read under,
    and which of several copies for one lane it is. Without that a copy could hide, or be hidden by, another event.
    """
    made: list[Envelope] = []
    turns: Counter[str] = Counter()
    for index, (key, event) in enumerate(copies):
        way = None if envelope.lane is None else f"{envelope.lane} via {topic} {envelope.key} {turns[key]}"
        turns[key] += 1
        id = codec.derive(service, f"{envelope.id} {key}", event, index)
        source = codec.source_of(service)
        made.append(replace(envelope, event=event, id=id, source=source, key=key, cause=envelope.id, lane=way))
    return made


def _way(lane: str, at: Arrival) -> str:
    return f"{lane} {at.topic}"


def _answers_effect(envelope: Envelope) -> bool:
    """Results carry the id of their effect as cause and, unlike facts, no sequence."""
    return envelope.cause is not None and envelope.cause.startswith("effect-")


def _says_nothing(state: State, decision: Decision[Any]) -> bool:
    return decision.state is state and not decision.events and not decision.effects and not decision.timers


def _applied(service: Service[S], lane: Lane[S], envelope: Envelope, at: Arrival, decision: Decision[S]) -> Lane[S]:
    timers = dict(lane.timers)
    if isinstance(envelope.event, TimerFired):
        timers.pop(envelope.event.name, None)
    for name, due in decision.timers.items():
        if due is None:
            timers.pop(name, None)
        else:
            timers[name] = due
    nothing = service.state()
    state = nothing if decision.state is None else decision.state
    cursor = _advanced(lane.cursor, envelope, at)
    after = replace(lane, state=state, cursor=cursor, timers=timers, fresh=state == nothing)
    return after.done((envelope.cause,)) if _answers_effect(envelope) and envelope.cause else after


def _advanced(cursor: Cursor, envelope: Envelope, at: Arrival) -> Cursor:
    update: dict[str, Any] = {}
    if not at.replayed:
        update["positions"] = {**cursor.positions, at.topic: at.next_offset}
    if not cursor.epoch:
        update["epoch"] = digest_of(envelope.id, at.topic, str(at.next_offset))[:8]
    if envelope.lane is not None and envelope.sequence is not None:
        way = _way(envelope.lane, at)
        others = [(name, sequence) for name, sequence in cursor.seen.items() if name != way]
        last = max(envelope.sequence, cursor.seen.get(way, 0))
        update["seen"] = dict([*others, (way, last)][-SEEN_LANES:])
        by_id = at.replayed
    else:
        by_id = not _answers_effect(envelope) and not isinstance(envelope.event, TimerFired)
    if by_id:
        update["recent"] = (*cursor.recent, envelope.id)[-RECENT_IDS:]
    return cursor.model_copy(update=update)


def _leaving(
    service: Service[S], lane: Lane[S], envelope: Envelope, decision: Decision[S], now: datetime, trace: Trace
) -> tuple[OutboxItem, ...]:
    base = max((item.order for item in lane.outbox.values()), default=-1) + 1
    items: list[OutboxItem] = []
    for index, event in enumerate(decision.events):
        out = Envelope(
            event=event,
            id=codec.derive(service.name, envelope.id, event, index),
            source=codec.source_of(service.name),
            time=now,
            key=flow.stream_of(type(event)).key(event),
            cause=envelope.id,
            traceparent=trace(event),
            lane=f"{service.name}/{lane.key}@{lane.cursor.epoch}",
            sequence=lane.cursor.sent + index + 1,
        )
        items.append(OutboxItem.of_event(out.id, base + len(items), codec.fact(service.name, out)))
    for index, effect in enumerate(decision.effects):
        id = "effect-" + digest_of(service.name, lane.key, envelope.id, effect.kind, str(index))[:32]
        data = effect.model_dump(mode="json", exclude_defaults=True)
        order = base + len(items)
        change = getattr(effect, "change", None) or getattr(envelope.event, "change", None)
        items.append(
            OutboxItem(
                id=id,
                order=order,
                kind=effect.kind,
                effect=data,
                traceparent=trace(effect),
                cause=envelope.id,
                change=change if isinstance(change, str) else None,
            )
        )
    return tuple(items)
