"""How a process outside and one in a jail speak over pipes. Frame: four bytes of length, big-endian, then the bytes.

Standard library only: it is imported in jails.
"""

from __future__ import annotations

import os


def framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def read(fd: int) -> bytes | None:
    """One frame's bytes; None at the end of the pipe."""
    head = _take(fd, 4)
    return None if head is None else _take(fd, int.from_bytes(head, "big"))


def write(fd: int, data: bytes) -> None:
    """All of it, also where the pipe takes a part at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _take(fd: int, count: int) -> bytes | None:
    taken = bytearray()
    while len(taken) < count:
        chunk = os.read(fd, min(1 << 20, count - len(taken)))
        if not chunk:
            return None
        taken += chunk
    return bytes(taken)
