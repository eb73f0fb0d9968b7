"""Which member of a group gets which partitions: Kafka's range assignment, the same on every adapter.

Members in the order of their names get neighbouring partitions of each topic. Rule: topics with equal partition counts
are divided alike, so partition n of every topic of a service is one member's.

Source: org.apache.kafka.clients.consumer.RangeAssignor, without racks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from towline.bus.port import Assignment, TopicPartition


def range_assignment(members: Mapping[str, Collection[str]], partitions: Mapping[str, int]) -> dict[str, Assignment]:
    """Member → its partitions; `members` says who reads which topics, `partitions` how many each topic has."""
    shares: dict[str, set[TopicPartition]] = {member: set() for member in members}
    for topic, count in partitions.items():
        readers = sorted(member for member, topics in members.items() if topic in topics)
        if not readers:
            continue
        each, more = divmod(count, len(readers))
        start = 0
        for index, member in enumerate(readers):
            end = start + each + (1 if index < more else 0)
            shares[member].update(TopicPartition(topic, partition) for partition in range(start, end))
            start = end
    return {member: frozenset(share) for member, share in shares.items()}
