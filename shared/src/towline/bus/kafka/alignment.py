"""Partition n of all topics belongs to one member; what the group gives otherwise is left alone. Pure.

The range assignor gives it so as long as all members read the same topics. In a rolling update that adds a topic they
do not: a new member may get partition n of the new topic, an old one that of the inbox. Then n of the new topic is read
by nobody until the update is done: only the owner of the state may decide it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from towline.bus.port import Assignment, TopicPartition


def whole(given: Assignment, counts: Mapping[str, int]) -> Assignment:
    """Of what is given, the partitions given of every topic with the same count. `counts`: topic → partitions."""
    alike: dict[int, set[str]] = defaultdict(set)
    for topic, count in counts.items():
        alike[count].add(topic)
    return frozenset(
        at
        for at in given
        if at.topic not in counts
        or all(TopicPartition(topic, at.partition) in given for topic in alike[counts[at.topic]])
    )
