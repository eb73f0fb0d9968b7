"""Envelope ↔ record: CloudEvents 1.0, Kafka binding in binary mode, with a CDEvent as data.

Source: CloudEvents Kafka protocol binding v1.0.2 §3.2; the trace context is the Distributed Tracing extension, the
order the Sequence extension. Towline's own attributes are `towlinecause` and `towlinelane`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import orjson
from pydantic import ValidationError

from towline import flow
from towline.bus.foreign import RAW_KEY
from towline.bus.port import NewRecord, Record
from towline.delivery.model import Envelope
from towline.errors import Undecodable
from towline.events.base import EVENT_TYPES, Event
from towline.ids import event_id
from towline.telemetry import trace


def source_of(service: str) -> str:
    return f"/towline/{service}"


def derive(service: str, cause: str, event: Event, index: int) -> str:
    """The id of the `index`-th event that `service` makes of `cause`; the same again on every replay."""
    return event_id(source_of(service), cause, type(event).type, event.subject, index)


def type_of(record: Record) -> str:
    return record.headers.get("ce_type", b"").decode(errors="replace")


def encode(envelope: Envelope, topic: str) -> NewRecord:
    event = envelope.event
    headers = {
        "ce_specversion": b"1.0",
        "ce_id": envelope.id.encode(),
        "ce_source": envelope.source.encode(),
        "ce_type": type(event).type.encode(),
        "ce_subject": event.subject.encode(),
        "ce_time": envelope.time.isoformat().encode(),
        "ce_partitionkey": envelope.key.encode(),
        "content-type": b"application/json",
    }
    for name, value in (
        ("ce_traceparent", envelope.traceparent),
        ("ce_towlinecause", envelope.cause),
        ("ce_towlinelane", envelope.lane),
        ("ce_sequence", None if envelope.sequence is None else str(envelope.sequence)),
    ):
        if value is not None:
            headers[name] = value.encode()
    data = event.to_cdevent(id=envelope.id, source=envelope.source, time=envelope.time)
    return NewRecord(topic, envelope.key, orjson.dumps(data), headers)


def decode(record: Record) -> Envelope:
    """Raises Undecodable, saying what the record lacks; its bytes are never part of the message."""
    headers = record.headers
    if RAW_KEY in headers:  # two such keys can read the same, and would share a lane
        raise Undecodable("the record's key is no UTF-8")
    try:
        event_type = headers["ce_type"].decode()
        model = _model_of(event_type)
        # `.towline.yaml` refuses keys it does not know; the same shapes inside an event must not: a newer
        # version may have written them.
        event = model.model_validate(orjson.loads(record.value or b"")["customData"], extra="ignore")
        return Envelope(
            event=event,
            id=headers["ce_id"].decode(),
            source=headers["ce_source"].decode(),
            time=datetime.fromisoformat(headers["ce_time"].decode()).astimezone(UTC),
            key=record.key,
            cause=_text(headers, "ce_towlinecause"),
            traceparent=trace.well_formed(headers.get("ce_traceparent")),
            lane=_text(headers, "ce_towlinelane"),
            sequence=int(headers["ce_sequence"]) if "ce_sequence" in headers else None,
        )
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Undecodable(f"{event_type}: {where}: {first['msg']}") from None
    except KeyError as error:
        raise Undecodable(f"the record has no {error.args[0]}") from None
    except Undecodable:
        raise
    except Exception as error:  # whatever these bytes bring out, it is no reason to stop for all that follow
        raise Undecodable(f"the record is no event: {type(error).__name__}") from None


def _model_of(event_type: str) -> type[Event]:
    model = EVENT_TYPES.get(event_type)
    if model is None:
        raise Undecodable(f"no event of type {event_type!r} is known to this version")
    return model


def _text(headers: Mapping[str, bytes], name: str) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode()


def fact(service: str, envelope: Envelope) -> NewRecord:
    """The record of an event for the topic that the map names, or for the service's own inbox."""
    event = type(envelope.event)
    return encode(envelope, flow.stream_of(event).topic if flow.on_map(event) else flow.inbox_of(service))
