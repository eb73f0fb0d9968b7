"""The wire form of an example: the record as it stands in a topic, headers and data."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

from towline import flow
from towline.bus.port import NewRecord
from towline.delivery import codec
from towline.delivery.model import Envelope
from towline.events import Event

TIME = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CAUSE = "b1946ac92492d2347c6235b4d2611184"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def record_of(event: Event) -> NewRecord:
    """As its producer would publish it; the same every time."""
    stream = flow.stream_of(type(event))
    key = stream.key(event)
    envelope = Envelope(
        event=event,
        id=codec.derive(stream.producer, CAUSE, event, 0),
        source=codec.source_of(stream.producer),
        time=TIME,
        key=key,
        cause=CAUSE,
        traceparent=TRACEPARENT,
        lane=f"{stream.producer}/{key}@5f2c91aa",
        sequence=1,
    )
    return codec.encode(envelope, stream.topic)


def headers_of(record: NewRecord) -> dict[str, str]:
    return {name: value.decode() for name, value in record.headers.items()}


def data_of(record: NewRecord) -> dict[str, Any]:
    data: dict[str, Any] = orjson.loads(record.value or b"{}")
    return data
