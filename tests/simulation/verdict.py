"""What a simulated history must have come to, read from the log and the ledger, and how the seeds are gone through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from tests.simulation.stages import Book, Ledger, expected, expected_effects

from towline import flow
from towline.bus.port import TopicPartition
from towline.delivery.lane import Lane
from towline.testing import virtual
from towline.testing.memory import MemoryLog
from towline.testing.rebuilt import rebuilt

PATIENCE_S = 3600.0
"""In virtual time; a history that needs longer is stuck."""
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def go_through(seeds: range, history: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    """One history for each seed; an error names its seed."""
    for seed in seeds:
        try:
            virtual.run(history(seed))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


async def all_done(log: MemoryLog, ledger: Ledger, heads: dict[str, list[str]]) -> None:
    """Looks whenever the log grew and the effects, which are cheap to look at, are all there."""
    effects = expected_effects(heads)
    while not (effects <= ledger.ids.keys() and not missing(log, heads)):
        await log.changed.wait()


def lanes(log: MemoryLog, service: str) -> dict[str, Lane[Book]]:
    """As the log alone says."""
    return rebuilt(Book, log.of_topic(flow.state_of(service)))


def books(log: MemoryLog) -> dict[str, dict[str, dict[str, int]]]:
    return {
        service: {
            f"{key} {thing}": entry.counts
            for key, lane in lanes(log, service).items()
            for thing, entry in lane.state.things.items()
        }
        for service in flow.SERVICES
    }


def missing(log: MemoryLog, heads: dict[str, list[str]]) -> list[str]:
    found, wanted = books(log), expected(heads)
    return [
        f"{service}: {thing} is {found[service].get(thing)}, wanted is {counts}"
        for service, things in wanted.items()
        for thing, counts in things.items()
        if found[service].get(thing) != counts
    ]


def check(log: MemoryLog, ledger: Ledger, heads: dict[str, list[str]]) -> None:
    assert books(log) == expected(heads)
    assert ledger.ids.keys() == expected_effects(heads)
    assert {work: len(ids) for work, ids in ledger.ids.items() if len(ids) != 1} == {}, "one id for one effect"
    for service in flow.SERVICES:
        for key, lane in lanes(log, service).items():
            assert not lane.outbox, f"{service} {key}"
            assert not lane.timers, f"{service} {key}"
            assert lane.parked is None, f"{service} {key}"
        for partition in range(flow.PARTITIONS):
            assert not log.records.get(TopicPartition(flow.dead_of(service), partition))
        for topic in (*flow.topics_consumed_by(service), flow.inbox_of(service)):
            for partition in range(flow.PARTITIONS):
                at = TopicPartition(topic, partition)
                assert log.offsets.get((service, at), 0) == log.heads.get(at, 0), f"{service} committed {at}"
    check_order(log, heads)


def check_order(log: MemoryLog, heads: dict[str, list[str]]) -> None:
    """What one lane says is first read in the order it was said, and its copies carry the same ids."""
    sequences: dict[tuple[str, str, str], list[int]] = {}
    copies: Counter[tuple[str, str, int]] = Counter()
    ids: dict[tuple[str, str, int], set[bytes]] = {}
    for at, records in log.records.items():
        if at.topic not in {stream.topic for stream in flow.STREAMS}:
            continue
        for record in records:
            lane, sequence = record.headers["ce_towlinelane"].decode(), int(record.headers["ce_sequence"])
            copies[at.topic, lane, sequence] += 1
            ids.setdefault((at.topic, lane, sequence), set()).add(record.headers["ce_id"])
            if copies[at.topic, lane, sequence] == 1:
                sequences.setdefault((at.topic, record.key, lane), []).append(sequence)
    assert all(len(same) == 1 for same in ids.values())
    for read in sequences.values():
        assert all(earlier < later for earlier, later in pairwise(read)), read
    for repo, pushed in heads.items():
        things = lanes(log, flow.WATCHER)[repo].state.things
        assert sorted(pushed, key=lambda head: things[head].order) == pushed
