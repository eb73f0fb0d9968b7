"""What a stranger may write to Kafka that the port cannot hold: a key or name that is no text, headers twice or null.

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
"""JSON `[[name, base64 or null], …]` of all headers in their order, where a name stands twice, a value is null, or a
name is no UTF-8: that has its bytes in base64 behind the value, and its name is what can be read of it."""


def portable(key: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> tuple[str, dict[str, bytes]]:
    """Key and headers for the port. A null key and an empty one are the same here.

    What is no UTF-8 in a header's name comes as surrogates (PEP 383).
    """
    named = {name: value for name, value in headers if value is not None}
    if len(named) != len(headers) or not all(map(_is_text, named)):
        named = {_readable(name): value for name, value in named.items()}
        named[RAW_HEADERS] = orjson.dumps([_listed(name, value) for name, value in headers])
    if key is None:
        return "", named
    try:
        return key.decode(), named
    except UnicodeDecodeError:
        named[RAW_KEY] = key
        return key.decode(errors="replace"), named


def _listed(name: str, value: bytes | None) -> list[str | None]:
    listed = [_readable(name), None if value is None else base64.b64encode(value).decode()]
    return listed if _is_text(name) else [*listed, base64.b64encode(_raw(name)).decode()]


def _is_text(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def _readable(name: str) -> str:
    return _raw(name).decode(errors="replace")


def _raw(name: str) -> bytes:
    return name.encode(errors="surrogateescape")
