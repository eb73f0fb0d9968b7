"""The fact topics as plain data. Reads every partition without a group, so looking changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from towline.bus.pages import records_from
from towline.bus.port import Bus, Record, TopicPartition

TOPICS = ("towline.changes", "towline.pipelines", "towline.artifacts", "towline.deployments", "towline.notices")
"""The fact topics of `towline.flow`, whose models cost more time than a status may take; a test compares the two."""


@dataclass(frozen=True, slots=True)
class Fact:
    name: str
    """`change.merged`, `candidate.created`, …"""
    id: str
    time: datetime
    data: Mapping[str, Any]
    traceparent: str = ""

    @property
    def change(self) -> str | None:
        return self.data.get("change")


def short_name(event_type: str) -> str:
    """`dev.cdevents.change.merged.0.3.0` and `dev.cdeventsx.towline-change.merged.0.3.0` are `change.merged`."""
    words = event_type.split(".")
    return ".".join(words[2:4]).removeprefix("towline-") if len(words) > 4 else event_type


def fact_of(record: Record) -> Fact | None:
    """None for what is no event: a reader of the log is no place to fail on it."""
    try:
        headers = {name: value.decode() for name, value in record.headers.items()}
        return Fact(
            name=short_name(headers["ce_type"]),
            id=headers["ce_id"],
            time=datetime.fromisoformat(headers["ce_time"]),
            data=orjson.loads(record.value or b"")["customData"],
            traceparent=headers.get("ce_traceparent", ""),
        )
    except (KeyError, ValueError, TypeError):
        return None


async def read_facts(bus: Bus, partitions: int, topics: Iterable[str] = TOPICS) -> list[Fact]:
    """Every fact, oldest first; copies under a known id are left out."""
    known: dict[str, Fact] = {}
    present = set(await bus.topics())
    for topic in topics:
        for partition in range(partitions) if topic in present else ():
            async for record in records_from(bus, TopicPartition(topic, partition)):
                if (fact := fact_of(record)) is not None:
                    known.setdefault(fact.id, fact)
    return sorted(known.values(), key=lambda fact: fact.time)
