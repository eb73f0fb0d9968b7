"""The gate's queue: which candidate should exist for whom. Pure; the interface is final, the policy is serial.

`plan` says for every place of a branch's queue what its candidate is for and what it stands on; whoever asks
compares that with what is there and replaces what differs. Rules that must hold:

- at most one place is wanted for the gate on the branch's own tip, and only that one may land;
- a place keeps what it has unless the plan says otherwise, so planning twice changes nothing.

A speculative policy gives later places `Purpose.GATE` on the candidate ahead of them; nothing else has to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from towline.events import Purpose


@dataclass(frozen=True, slots=True)
class Place:
    """One change in the queue, with what its present work is for; None when it has none."""

    ref: str
    purpose: Purpose | None = None
    base: str = ""


def plan(queue: Sequence[Place], tip: str) -> list[Place]:
    """What should be there. The first is gated on the tip; those behind it are checked once, on the tip they met."""
    wanted: list[Place] = []
    for number, place in enumerate(queue):
        if number == 0:
            wanted.append(Place(place.ref, Purpose.GATE, tip))
        elif place.purpose is Purpose.CHECK:
            wanted.append(place)
        else:
            wanted.append(Place(place.ref, Purpose.CHECK, tip))
    return wanted


def joined(queue: tuple[str, ...], ref: str) -> tuple[str, ...]:
    """With the change at the end; one that is in the queue keeps its place."""
    return queue if ref in queue else (*queue, ref)


def left(queue: tuple[str, ...], ref: str) -> tuple[str, ...]:
    return tuple(each for each in queue if each != ref)
