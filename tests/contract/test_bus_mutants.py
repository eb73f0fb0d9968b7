"""The conformance machine can fail: each bus here breaks one promise, and a generated history shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.contract.machine import BusMachine
from tests.contract.places import MemoryPlace, Place

from towline.bus.port import Assignment, Cleanup, NewRecord, Record, TopicPartition
from towline.bus.size import check_append, check_sizes
from towline.testing import memory
from towline.testing.memory import MemoryBus, MemoryConsumer, MemoryGroup, MemoryLog

Mutant = Callable[[pytest.MonkeyPatch], None]
HISTORIES = 400
"""Far more than any of them needs."""

offer, add, share, commit = MemoryBus.offer, MemoryLog.add, MemoryGroup.share, MemoryConsumer.commit
give_up, take_over, sweep, leave = (
    MemoryConsumer._give_up,
    MemoryConsumer._take_over,
    MemoryLog.sweep,
    MemoryGroup.leave,
)


class InMemory(BusMachine):
    def start(self) -> Place:
        return MemoryPlace()


def hands_out_two_records_in_the_wrong_order(patch: pytest.MonkeyPatch) -> None:
    def swapped(self: MemoryBus, behind: Mapping[TopicPartition, int], limit: int) -> list[Record]:
        return sorted(offer(self, behind, limit), key=lambda record: (record.position, -record.offset))

    patch.setattr(MemoryBus, "offer", swapped)


def leaves_out_a_record(patch: pytest.MonkeyPatch) -> None:
    def holed(self: MemoryBus, behind: Mapping[TopicPartition, int], limit: int) -> list[Record]:
        return [record for record in offer(self, behind, limit) if record.offset % 7 != 3]

    patch.setattr(MemoryBus, "offer", holed)


def ignores_commits(patch: pytest.MonkeyPatch) -> None:
    async def ignored(self: MemoryConsumer, offsets: Mapping[TopicPartition, int]) -> None:
        before = dict(self._log.offsets)
        await commit(self, offsets)
        self._log.offsets = before

    patch.setattr(MemoryConsumer, "commit", ignored)


def takes_a_commit_of_one_that_was_put_out(patch: pytest.MonkeyPatch) -> None:
    async def taken(self: MemoryConsumer, offsets: Mapping[TopicPartition, int]) -> None:
        for at, next_ in offsets.items():
            self._log.offsets[self._group, at] = next_

    patch.setattr(MemoryConsumer, "commit", taken)


def begins_again_at_the_first_record(patch: pytest.MonkeyPatch) -> None:
    async def forgetful(self: MemoryConsumer, group: MemoryGroup, generation: int) -> None:
        offsets, self._log.offsets = self._log.offsets, {}
        try:
            await take_over(self, group, generation)
        finally:
            self._log.offsets = offsets

    patch.setattr(MemoryConsumer, "_take_over", forgetful)


def tears_an_append(patch: pytest.MonkeyPatch) -> None:
    async def torn(self: MemoryBus, at: TopicPartition, records: Sequence[NewRecord], **_: object) -> int:
        check_append(at, records)
        first = self.log.heads.get(at, 0)
        for record in records:
            self.log.add(replace(record, partition=at.partition))
            await asyncio.sleep(0)
        return first

    patch.setattr(MemoryBus, "append", torn)


def gives_a_partition_to_two(patch: pytest.MonkeyPatch) -> None:
    def whole(self: MemoryGroup, consumer: MemoryConsumer, partitions: Mapping[str, int]) -> Assignment:
        return frozenset(TopicPartition(name, number) for name, count in partitions.items() for number in range(count))

    patch.setattr(MemoryGroup, "share", whole)


def gives_a_partition_to_nobody(patch: pytest.MonkeyPatch) -> None:
    def short(self: MemoryGroup, consumer: MemoryConsumer, partitions: Mapping[str, int]) -> Assignment:
        return frozenset(at for at in share(self, consumer, partitions) if at.partition != 1)

    patch.setattr(MemoryGroup, "share", short)


def splits_a_partition_number(patch: pytest.MonkeyPatch) -> None:
    def turned(self: MemoryGroup, consumer: MemoryConsumer, partitions: Mapping[str, int]) -> Assignment:
        def number(at: TopicPartition) -> int:
            last = partitions[at.topic] - 1
            return last - at.partition if at.topic.endswith("state") else at.partition

        return frozenset(TopicPartition(at.topic, number(at)) for at in share(self, consumer, partitions))

    patch.setattr(MemoryGroup, "share", turned)


def waits_for_nobody(patch: pytest.MonkeyPatch) -> None:
    """A new member gets its share before the old one was told."""
    patch.setattr(MemoryGroup, "is_settled", lambda self: True)


def tells_no_loss(patch: pytest.MonkeyPatch) -> None:
    async def silent(self: MemoryConsumer) -> None:
        self._on_revoked = None
        await give_up(self)

    patch.setattr(MemoryConsumer, "_give_up", silent)


def forgets_who_left(patch: pytest.MonkeyPatch) -> None:
    """The others are not told, and nobody gets what it had."""

    def unheard(self: MemoryGroup, consumer: MemoryConsumer) -> None:
        leave(self, consumer)
        self.wanted -= 1

    patch.setattr(MemoryGroup, "leave", unheard)


def forgets_what_was_paused(patch: pytest.MonkeyPatch) -> None:
    async def resumed(self: MemoryConsumer) -> None:
        self._paused.clear()
        await give_up(self)

    patch.setattr(MemoryConsumer, "_give_up", resumed)


def ignores_seeks(patch: pytest.MonkeyPatch) -> None:
    def ignored(self: MemoryConsumer, partition: TopicPartition, offset: int) -> None:
        assert partition in self.assignment

    patch.setattr(MemoryConsumer, "seek", ignored)


def ignores_pauses(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryConsumer, "pause", lambda self, *partitions: None)


def keeps_no_tombstone(patch: pytest.MonkeyPatch) -> None:
    """The value that was deleted is the last one again."""

    def dropped(self: MemoryLog, record: NewRecord) -> int:
        offset = add(self, record)
        at = self.place(record)
        if record.value is None and self.topics[at.topic].cleanup is Cleanup.COMPACT:
            self.records[at].pop()
        return offset

    patch.setattr(MemoryLog, "add", dropped)


def compacts_the_last_value_away(patch: pytest.MonkeyPatch) -> None:
    def greedy(self: MemoryLog) -> None:
        sweep(self)
        for at, kept in self.records.items():
            if self.topics[at.topic].cleanup is Cleanup.COMPACT:
                del kept[5:]

    patch.setattr(MemoryLog, "sweep", greedy)


def uses_an_offset_twice(patch: pytest.MonkeyPatch) -> None:
    def shrunk(self: MemoryLog) -> None:
        sweep(self)
        for at, kept in self.records.items():
            self.heads[at] = kept[-1].offset + 1 if kept else 0

    patch.setattr(MemoryLog, "sweep", shrunk)


def loses_an_empty_header(patch: pytest.MonkeyPatch) -> None:
    def without(self: MemoryLog, record: NewRecord) -> int:
        return add(self, replace(record, headers={name: value for name, value in record.headers.items() if value}))

    patch.setattr(MemoryLog, "add", without)


def takes_null_for_empty(patch: pytest.MonkeyPatch) -> None:
    def filled(self: MemoryLog, record: NewRecord) -> int:
        return add(self, replace(record, value=record.value or b""))

    patch.setattr(MemoryLog, "add", filled)


def spreads_keys_in_its_own_way(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(memory, "partition_of", lambda key, partitions: sum(key.encode()) % partitions)


def takes_what_is_too_large(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(memory, "check_sizes", lambda records: 0)
    patch.setattr(memory, "check_append", lambda at, records: None)


def writes_a_part_of_what_it_refuses(patch: pytest.MonkeyPatch) -> None:
    async def early(self: MemoryBus, records: Collection[NewRecord]) -> Sequence[int]:
        offsets = []
        for record in records:
            check_sizes([record])
            offsets.append(self.log.add(record))
        return offsets

    patch.setattr(MemoryBus, "publish", early)


MUTANTS: list[Mutant] = [
    hands_out_two_records_in_the_wrong_order,
    leaves_out_a_record,
    ignores_commits,
    takes_a_commit_of_one_that_was_put_out,
    begins_again_at_the_first_record,
    tears_an_append,
    gives_a_partition_to_two,
    gives_a_partition_to_nobody,
    splits_a_partition_number,
    waits_for_nobody,
    tells_no_loss,
    forgets_who_left,
    forgets_what_was_paused,
    ignores_seeks,
    ignores_pauses,
    keeps_no_tombstone,
    compacts_the_last_value_away,
    uses_an_offset_twice,
    loses_an_empty_header,
    takes_null_for_empty,
    spreads_keys_in_its_own_way,
    takes_what_is_too_large,
    writes_a_part_of_what_it_refuses,
]


@pytest.mark.whole_service
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_machine_finds_a_bus_that(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    how = settings(
        max_examples=HISTORIES,
        stateful_step_count=30,
        phases=[Phase.generate],
        derandomize=True,
        report_multiple_bugs=False,
        print_blob=False,
    )
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_state_machine_as_test(InMemory, settings=how)
