"""Reads a whole log as items, in constant memory.

The log is taken as of one moment. Kafka has no view of one moment, so there nobody may be in the groups: with no
service running the log stands still. A SQLite file has one (see `sqlite.snapshot`): it may be copied while it is used.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

from towline.bus.moving.items import Begin, Committed, End, Head, Item, Origin, Tail, in_order
from towline.bus.port import Topic, TopicPartition
from towline.errors import BadInput

READ_AT_ONCE = 500


async def items_of(
    origin: Origin, topics: Sequence[Topic], groups: Sequence[str], *, damaged: bool = False
) -> AsyncIterator[Item]:
    """The items of these topics, and what these groups have committed in them.

    `topics` not on the bus are left out; their number of partitions is the bus's own. Raises BadInput when a service
    runs on a Kafka bus, or no topic is there.
    """
    running = tuple([group for group in groups if await origin.members(group)])
    if running and origin.kind != "sqlite":
        raise BadInput(
            f"{', '.join(running)} still has members on this bus: stop every service first, so that nothing changes "
            f"while the log is read (a service that was killed is a member for up to 30 s more)"
        )
    there = set(await origin.topics())
    chosen = in_order(
        [
            Topic(topic.name, await origin.partitions(topic.name), topic.cleanup, topic.retention)
            for topic in topics
            if topic.name in there
        ]
    )
    if not chosen:
        raise BadInput(f"none of {len(topics)} topics is on this bus: is it the bus you mean?")
    yield Head(datetime.now(UTC).isoformat(timespec="seconds"), origin.kind, chosen, tuple(groups), running, damaged)
    places = [TopicPartition(topic.name, n) for topic in chosen for n in range(topic.partitions)]
    ends = await origin.ends(places)
    committed = [
        Committed(group, at, next_)
        for group in groups
        for at, next_ in sorted((await origin.offsets(group)).items())
        if at in ends
    ]
    records = 0
    for at in places:
        yield Begin(at)
        count, start = 0, 0
        while start < ends[at]:
            found = await origin.read(at, start=start, limit=READ_AT_ONCE)
            if not found:
                break
            for record in found:
                if record.offset < ends[at]:
                    count += 1
                    yield record
            start = found[-1].offset + 1
        lost = getattr(origin, "lost", {}).get(at, ()) if damaged else ()
        yield End(at, count, ends[at], tuple(lost))
        records += count
    for item in committed:
        yield item
    yield Tail(records)
