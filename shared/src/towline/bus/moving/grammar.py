"""In which order the items of a moved log may come, and which numbers they may have. Pure.

A checksum says only that a line is as it was written, and a file may be written by anybody. Rule: what passes here can
be loaded without a surprise: every partition named in the head comes once, whole, with as many records as it says.
"""

from __future__ import annotations

import re

from towline.bus.moving.items import Begin, Committed, End, Head, Item, Tail
from towline.bus.port import Record, TopicPartition

MOST_PARTITIONS = 1000
_MOST = 2**63 - 1
_NAME = re.compile(r"(?!\.\.?$)[A-Za-z0-9._-]{1,249}")
"""Of a topic and of a group, as Kafka takes it."""


class Grammar:
    """Fed with every item in its order."""

    def __init__(self) -> None:
        self._head: Head | None = None
        self._missing: set[TopicPartition] = set()
        self._places: frozenset[TopicPartition] = frozenset()
        self._open: TopicPartition | None = None
        self._next = 0
        self._records = self._all_records = 0

    def take(self, item: Item) -> None:
        """Raises ValueError that says what is wrong with it here."""
        if (self._head is None) != isinstance(item, Head):
            raise ValueError("the head of an exported log belongs in the first line and nowhere else")
        match item:
            case Head():
                self._begin(item)
            case Begin():
                self._must(self._open is None, f"{_said(self._open)} has not ended")
                self._must(item.at in self._missing, f"{_said(item.at)} is not in the head, or was there before")
                self._missing.remove(item.at)
                self._open, self._next, self._records = item.at, 0, 0
            case Record():
                self._must(item.offset >= self._next, f"offset {item.offset} comes where {self._next} is the least")
                self._must(item.offset < _MOST and -1 <= item.timestamp_ms <= _MOST, "a number is out of its range")
                self._next, self._records = item.offset + 1, self._records + 1
            case End():
                self._must(item.at == self._open, f"{_said(item.at)} ends where {_said(self._open)} is open")
                self._must(item.records == self._records, f"{item.records} records are said, {self._records} are here")
                self._must(self._next <= item.next <= _MOST, f"the next offset cannot be {item.next}")
                self._open, self._all_records = None, self._all_records + self._records
            case Committed():
                self._must(self._open is None, f"{_said(self._open)} has not ended")
                self._must(self._head is not None and item.group in self._head.groups, "the group is not in the head")
                self._must(item.at in self._places, f"{_said(item.at)} is not in the head")
                self._must(0 <= item.next <= _MOST, f"the next offset cannot be {item.next}")
            case Tail():
                self._must(self._open is None, f"{_said(self._open)} has not ended")
                self._must(not self._missing, f"{_said(min(self._missing, default=None))} is missing")
                said = f"{item.records} records are said, {self._all_records} are here"
                self._must(item.records == self._all_records, said)

    def _begin(self, head: Head) -> None:
        names = [topic.name for topic in head.topics]
        self._must(len(set(names)) == len(names), "a topic is there twice")
        for name in (*names, *head.groups, *head.running):
            self._must(isinstance(name, str) and _NAME.fullmatch(name) is not None, f"{name!r} is no name")
        for topic in head.topics:
            self._must(
                1 <= topic.partitions <= MOST_PARTITIONS,
                f"topic {topic.name} has {topic.partitions} partitions: expected 1 to {MOST_PARTITIONS}",
            )
        self._head = head
        self._places = frozenset(TopicPartition(t.name, n) for t in head.topics for n in range(t.partitions))
        self._missing = set(self._places)

    @staticmethod
    def _must(holds: bool, otherwise: str) -> None:
        if not holds:
            raise ValueError(otherwise)


def _said(at: TopicPartition | None) -> str:
    return "no partition" if at is None else f"{at.topic[:249]!r}/{at.partition}"
