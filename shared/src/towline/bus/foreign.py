"""What a stranger's Kafka record may have and the port cannot hold: a key that is no text, headers twice or null.

Towline writes none of these. Rule: such a record is read without fail, and its bytes go along in headers of their own,
so that it ends among the dead letters whole.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import orjson

RAW_KEY = "tl_raw_key"
"""The bytes of a key that is no UTF-8; the record's key is then what can be read of it."""
RAW_HEADERS = "tl_raw_headers"
"""JSON `[[name, base64 or null], …]` of all headers in their order, where a name stands twice or a value is null."""


def portable(key: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> tuple[str, dict[str, bytes]]:
    """Key and headers for the port. A null key and an empty one are the same here."""
    named = {name: value for name, value in headers if value is not None}
    if len(named) != len(headers):
        listed = [[name, None if value is None else base64.b64encode(value).decode()] for name, value in headers]
        named[RAW_HEADERS] = orjson.dumps(listed)
    if key is None:
        return "", named
    try:
        return key.decode(), named
    except UnicodeDecodeError:
        named[RAW_KEY] = key
        return key.decode(errors="replace"), named
