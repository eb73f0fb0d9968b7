"""What parent and jailed worker say to each other, in frames (`towline.frames`).

A request is one JSON frame. An answer is three frames: JSON, the snapshot, and new objects (loose files, each a frame
inside). Standard library only; both sides import this.
"""

from __future__ import annotations

from collections.abc import Iterable

from towline.frames import framed

HELLO = b"ready"
"""What the worker says once, when its imports are done."""


def join(parts: Iterable[bytes]) -> bytes:
    return b"".join(framed(part) for part in parts)


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
