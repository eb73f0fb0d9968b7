"""JSON Schema of each event's data: a CDEvent whose `customData` is the event's model.

Readers ignore fields they do not know and take unknown words as `unknown`, so the schemas do the same: no object is
closed, and a set of words is told in `x-extensible-enum`, which validators do not enforce.
"""

from __future__ import annotations

from typing import Any

from towline.events import Event
from towline.events.base import CDEVENTS_VERSION

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEXT = {"type": "string", "minLength": 1}


def file_of(event: type[Event]) -> str:
    return f"{event.type}.json"


def schema_of(event: type[Event]) -> dict[str, Any]:
    """Draft 2020-12."""
    custom = _lenient(event.model_json_schema(mode="serialization"))
    definitions = custom.pop("$defs", {})
    custom.pop("title", None)
    return {
        "$schema": DIALECT,
        "title": event.__name__,
        "description": custom.pop("description", f"Data of a CloudEvent of type {event.type}."),
        "type": "object",
        "required": ["context", "subject", "customData", "customDataContentType"],
        "properties": {
            "context": {
                "type": "object",
                "required": ["specversion", "id", "source", "type", "timestamp"],
                "properties": {
                    "specversion": {"type": "string", "const": CDEVENTS_VERSION},
                    "id": {**_TEXT, "description": "The CloudEvent's id; the same on every redelivery."},
                    "source": {**_TEXT, "description": "`/towline/<service>`."},
                    "type": {"type": "string", "const": event.type},
                    "timestamp": {"type": "string", "format": "date-time"},
                },
            },
            "subject": {
                "type": "object",
                "required": ["id", "content"],
                "properties": {
                    "id": {**_TEXT, "description": "What the event is about; the CloudEvent's subject."},
                    "source": _TEXT,
                    "content": {"type": "object", "description": "CDEvents' own words; not read back by Towline."},
                },
            },
            "customData": custom,
            "customDataContentType": {"type": "string", "const": "application/json"},
        },
        "$defs": definitions,
    }


def _lenient(schema: Any) -> Any:
    """Opens objects and sets of words, and drops titles that only repeat a name."""
    if isinstance(schema, list):
        return [_lenient(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    opened = {}
    for key, value in schema.items():
        if key == "title" and isinstance(value, str):
            continue
        if key == "additionalProperties" and value is False:
            continue
        if key == "enum":
            opened["x-extensible-enum"] = value
            continue
        opened[key] = _lenient(value)
    return opened
