"""What is kept of a job's output: its beginning and its end, within a bound."""

from __future__ import annotations

from collections import deque

HEAD_SHARE = 4
"""One part in so many of the bound is the beginning; the end is where failures are told."""


class Output:
    def __init__(self, most_kept: int) -> None:
        self._most_head = most_kept // HEAD_SHARE
        self._most_tail = most_kept - self._most_head
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self.total = 0
        """Bytes that were written, kept or not."""

    def add(self, chunk: bytes) -> None:
        self.total += len(chunk)
        room = self._most_head - len(self._head)
        self._head += chunk[: max(0, room)]
        rest = chunk[max(0, room) :]
        if not rest:
            return
        self._tail.append(rest)
        self._tail_size += len(rest)
        while self._tail_size - len(self._tail[0]) >= self._most_tail:
            self._tail_size -= len(self._tail.popleft())

    def kept(self) -> bytes:
        """The log; where something was cut out, a line says how much."""
        tail = b"".join(self._tail)[-self._most_tail :]
        cut = self.total - len(self._head) - len(tail)
        return bytes(self._head) + (b"\n[... %d bytes are left out ...]\n" % cut if cut else b"") + tail
