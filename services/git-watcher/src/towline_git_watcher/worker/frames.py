"""How parent and jailed worker speak: frames of four bytes of length, big-endian, and that many bytes.

A request is one JSON frame. An answer is three frames: JSON, the snapshot, and new objects (loose files, each a frame
inside). Standard library only; both sides import this.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

HELLO = b"ready"
"""What the worker says once, when its imports are done."""


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[: 1 << 20]) :]


def read(fd: int) -> bytes | None:
    """One frame; None at the end of the pipe."""
    head = _take(fd, 4)
    return None if head is None else _take(fd, int.from_bytes(head, "big"))


def _take(fd: int, count: int) -> bytes | None:
    taken = bytearray()
    while len(taken) < count:
        chunk = os.read(fd, min(1 << 20, count - len(taken)))
        if not chunk:
            return None
        taken += chunk
    return bytes(taken)


def join(parts: Iterable[bytes]) -> bytes:
    return b"".join(frame(part) for part in parts)


def split(data: bytes) -> list[bytes]:
    """The parts of a joined frame. Raises ValueError when they do not add up."""
    parts, at = [], 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if at + 4 > len(data) or end > len(data):
            raise ValueError("frames do not add up")
        parts.append(data[at + 4 : end])
        at = end
    return parts
