"""A log that begins anew under a service that remembers the old one. Pure.

A topic that was deleted and made again, or has lost its end, counts its records from lower offsets than lanes have
handled. They would take every new event for an old one, without a word. Rule: an end below a position is proof, since
a log only grows; the positions in that topic are then nothing's, and go. What comes again all the same is known by its
id and its sequence, as anywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from towline.delivery.lane import Lane
from towline.delivery.model import S


def highest(lanes: Iterable[Lane[S]], topics: Collection[str]) -> dict[str, int]:
    """Topic → the furthest position that a lane has in it."""
    found: dict[str, int] = {}
    for lane in lanes:
        for topic, position in lane.cursor.positions.items():
            if topic in topics and position > found.get(topic, 0):
                found[topic] = position
    return found


def begun(positions: Mapping[str, int], ends: Mapping[str, int]) -> set[str]:
    """The topics whose log is not the one that the positions are of."""
    return {topic for topic, position in positions.items() if ends[topic] < position}


def without(lane: Lane[S], topics: Collection[str]) -> Lane[S]:
    """The lane without its positions in these topics; itself when it has none."""
    positions = {topic: next_ for topic, next_ in lane.cursor.positions.items() if topic not in topics}
    if len(positions) == len(lane.cursor.positions):
        return lane
    return replace(lane, cursor=lane.cursor.model_copy(update={"positions": positions}))
