"""Who gets which partition: Kafka's range assignment, on every adapter.

Rule that must hold: topics with the same number of partitions and the same members give partition n of all of them to
one member, so that a service's inbox, its state and what it consumes are together.
Source: org.apache.kafka.clients.consumer.RangeAssignor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from towline.bus.port import Assignment, TopicPartition


def range_assignment(members: Mapping[str, Sequence[str]], partitions: Mapping[str, int]) -> dict[str, Assignment]:
    """Member → its topics, and topic → its partitions; every member is in the answer, be it with nothing."""
    shares: dict[str, set[TopicPartition]] = {member: set() for member in members}
    for topic, count in partitions.items():
        readers = sorted(member for member, topics in members.items() if topic in topics)
        for place, member in enumerate(readers):
            each, more = divmod(count, len(readers))
            start = each * place + min(place, more)
            length = each + (place < more)
            shares[member].update(TopicPartition(topic, number) for number in range(start, start + length))
    return {member: frozenset(share) for member, share in shares.items()}
