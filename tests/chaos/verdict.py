"""The checks after every fault, as pure functions of the evidence. Each returns sentences; none means that it holds.

The rule that must hold: each of them can fail, which `test_chaos_controls.py` shows with a real service whose
protection was taken away.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from tests.chaos.evidence import Arrived, Evidence
from tests.chaos.tally import ASKED, FACT, expected, number_of

Fed = Mapping[str, Iterable[str]]
"""Key → the things that were accepted from outside: `fact 1`, `asked 2`, `tick 1`."""


def broken(evidence: Evidence, fed: Fed) -> list[str]:
    """Everything that does not hold once all is quiet again."""
    return [
        *lost_or_repeated(evidence, fed),
        *effects(evidence, fed),
        *results(evidence, fed),
        *past_unfinished(evidence),
        *behind(evidence),
        *still_waiting(evidence),
    ]


def lost_or_repeated(evidence: Evidence, fed: Fed) -> list[str]:
    """State says each thing once, and what came by one topic in its order."""
    said: list[str] = []
    for key, things in fed.items():
        told, wanted = Counter(evidence.told.get(key, ())), expected(things)
        said += [f"state: {key} does not know {thing!r}" for thing in sorted(wanted - told.keys())]
        said += [f"state: {key} knows {thing!r}, which nobody said" for thing in sorted(told.keys() - wanted)]
        said += [f"state: {key} handled {thing!r} {times} times" for thing, times in told.items() if times > 1]
        for way in (FACT, ASKED):
            order = [number_of(thing) for thing in evidence.told.get(key, ()) if thing.startswith(f"{way} ")]
            if order != sorted(order):
                said.append(f"state: {key} handled {way} out of order: {order}")
    return said


def effects(evidence: Evidence, fed: Fed) -> list[str]:
    """Each thing is in the ledger once: not missing, not under two ids, not applied twice under one."""
    said: list[str] = []
    applied: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for attempt in evidence.attempts:
        if attempt.applied:
            applied[attempt.key, attempt.thing].append(f"{attempt.member} {attempt.pid} {attempt.id}")
    for key, things in fed.items():
        said += [f"effect: {key} {thing!r} is missing" for thing in things if not applied[key, thing]]
    for (key, thing), times in applied.items():
        if len(times) > 1:
            said.append(f"effect: {key} {thing!r} was applied {len(times)} times: {', '.join(times)}")
    return said


def results(evidence: Evidence, fed: Fed) -> list[str]:
    """What a consumer takes that drops what it has seen by sequence, as the product's own do: all of it, in order."""
    said: list[str] = []
    seen: dict[str, int] = {}
    ids: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    taken: defaultdict[str, list[str]] = defaultdict(list)
    for each in evidence.spoken:
        ids[each.key, each.thing].add(each.id)
        if each.sequence > seen.get(each.lane, 0):
            seen[each.lane] = each.sequence
            taken[each.key].append(each.thing)
    said += [f"result: {key} {thing!r} has {len(own)} ids" for (key, thing), own in ids.items() if len(own) > 1]
    for key, things in fed.items():
        missing = expected(things) - set(taken[key])
        said += [f"result: {key} {thing!r} reaches no consumer" for thing in sorted(missing)]
        told = list(evidence.told.get(key, ()))
        if not missing and taken[key] != told:
            said.append(f"result: {key} is read as {taken[key]}, and was decided as {told}")
    return said


def past_unfinished(evidence: Evidence) -> list[str]:
    """Nothing before a committed offset is without its turn, unless it is among the dead letters."""
    return [
        f"offset: {each.at.topic}/{each.at.partition} is committed to {evidence.committed[each.at]}, "
        f"past {each.key} {each.thing!r} at {each.offset}"
        for each in evidence.arrived
        if each.offset < evidence.committed.get(each.at, 0)
        and each.thing not in evidence.told.get(each.key, ())
        and (each.at, each.offset) not in evidence.dead
    ]


def behind(evidence: Evidence) -> list[str]:
    """After everything was handled and drained, the group has nothing left to read but copies: a source that looks
    again, a result told twice, may come when the last member is about to leave."""
    first: dict[tuple[str, str], Arrived] = {}
    for each in evidence.arrived:
        first.setdefault((each.key, each.thing), each)
    return [
        f"offset: {each.at.topic}/{each.at.partition} is committed to {evidence.committed.get(each.at, 0)}, "
        f"before {each.key} {each.thing!r} at {each.offset}, which is done"
        for each in first.values()
        if each.offset >= evidence.committed.get(each.at, 0)
    ]


def still_waiting(evidence: Evidence) -> list[str]:
    return [f"outbox: {key} still holds {ids}" for key, ids in evidence.waiting.items() if ids]
