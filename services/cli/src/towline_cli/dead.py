"""`towline dead list|show|replay|drop`: what people ask of the dead letters, read from the log and written to it.

Rule: what is written here asks or notes. A letter is taken up by the service alone, in its lane, when it runs.
"""

from __future__ import annotations

import asyncio
import getpass
import socket
import sys
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson

from towline.bus.partition import partition_of
from towline.bus.port import Bus, NewRecord
from towline.delivery.letters import Letter, Said, resolved_record
from towline.errors import BadInput
from towline_cli.letters import Found, bytes_of, places_of, read_letters, read_parked
from towline_cli.show import PARTITIONS, opened
from towline_cli.view import letters as view
from towline_cli.view.choose import Wanted, find, known_key, known_service, milliseconds
from towline_cli.view.printable import printable

LOOK_EVERY_S = 0.25
LOOK_SELDOM_S = 2.0
"""Each look is later than the one before, up to this: what is looked at has work to do."""
IDS_TOGETHER = 200
"""Of one request; it must fit a record."""


@dataclass(frozen=True, slots=True)
class Picked:
    """What a command names: ids, or everything of a key, of a service, or at all."""

    ids: Sequence[str] = ()
    key: str | None = None
    service: str | None = None
    all: bool = False

    def check(self) -> None:
        """Raises BadInput for nothing, or for two ways at once."""
        if self.ids and (self.key is not None or self.service is not None or self.all):
            raise BadInput("give ids, or one of --key, --service and --all, not both")
        if not self.ids and self.key is None and self.service is None and not self.all:
            raise BadInput("name what is meant: ids of `towline dead list`, --key, --service or --all")


async def listing(
    config: Path, wanted: Wanted, *, resolved: bool, json: bool, newer: str | None, older: str | None
) -> None:
    now_ms = int(time.time() * 1000)
    wanted = Wanted(
        wanted.service,
        wanted.key,
        wanted.reason,
        None if newer is None else now_ms - milliseconds(newer),
        None if older is None else now_ms - milliseconds(older),
    )
    async with opened(config) as bus:
        found = await read_letters(bus, PARTITIONS)
        known_service(wanted.service, found.services)
        chosen = [each for each in found.letters if wanted.takes(each) and (resolved or each.open)]
        parked = await read_parked(bus, places_of(chosen))
    if json:
        _json([view.plain(letter, parked) for letter in chosen])
        return
    short = view.short_ids(found.letters)
    others = sum(letter.open for letter in found.letters)
    if not chosen and others:
        _say(f"no dead letters like that; there are {others} others: towline dead list")
        return
    _say(*view.list_lines(chosen, parked, short, now_ms), *view.hints(chosen, parked, short))
    _say_unreadable(found)


async def showing(config: Path, id: str, *, json: bool, raw: bool) -> None:
    async with opened(config) as bus:
        found = await read_letters(bus, PARTITIONS)
        letter = find(found.letters, id)
        parked = await read_parked(bus, [(letter.service, letter.partition)])
        record = await bytes_of(bus, letter)
    if raw:
        if record is None:
            raise BadInput(f"the bytes of {letter.id} are no longer in the log")
        sys.stdout.buffer.write(record.value or b"")
        return
    if json:
        _json(view.plain(letter, parked, record))
        return
    short = view.short_ids(found.letters)[letter.id]
    _say(*view.show_lines(letter, record, parked.get((letter.service, letter.key)), short))


async def replaying(config: Path, picked: Picked, *, yes: bool, by: str, reason: str, wait: float) -> int:
    """Ask that letters be taken up again; 1 when one failed again or was resolved before."""
    picked.check()
    async with opened(config) as bus:
        found = await read_letters(bus, PARTITIONS)
        short = view.short_ids(found.letters)
        chosen, refused = _open_of(found, picked)
        for letter in chosen:
            if not letter.whole_key:
                _say(f"{short[letter.id]} cannot be replayed: its key is longer than any service has")
        chosen = [letter for letter in chosen if letter.whole_key]
        parked = await _parked(bus, chosen, picked, found.services)
        _refuse_out_of_order(chosen, parked, picked, short)
        groups: dict[view.Key, list[Letter]] = {key: [] for key in parked if _means(picked, key)}
        groups.update(view.by_key(chosen))
        for letter in refused:
            _say(f"{short[letter.id]} was {_was(letter)}")
        if not groups:
            known_key(picked.key, found.letters)
            _say("nothing to replay" if not refused else "nothing else to replay")
            return 1 if refused else 0
        count = f"{view.counted(len(chosen), 'dead letter')} of {view.counted(len(groups), 'key')}"
        if not picked.ids and picked.key is None:
            _confirm(f"replay {count}?", yes=yes)
        await bus.publish(_requests(groups, picked, by=by, reason=reason))
        _say(f"asked to replay {count}")
        failed = await _follow(bus, groups, parked, short, wait)
    return 1 if failed or refused else 0


async def dropping(config: Path, picked: Picked, *, yes: bool, by: str, reason: str) -> int:
    """Note that letters are given up for good; 1 when one was resolved before."""
    picked.check()
    async with opened(config) as bus:
        found = await read_letters(bus, PARTITIONS)
        short = view.short_ids(found.letters)
        chosen, refused = _open_of(found, picked)
        for letter in refused:
            _say(f"{short[letter.id]} was {_was(letter)}")
        if not chosen:
            known_key(picked.key, found.letters)
        elif not picked.ids:
            _confirm(f"drop {view.counted(len(chosen), 'dead letter')}? The events are never handled.", yes=yes)
        for start in range(0, len(chosen), IDS_TOGETHER):
            await bus.publish(
                [
                    resolved_record(f"towline.{letter.service}.dead", letter, Said.DROPPED, by=by, reason=reason)
                    for letter in chosen[start : start + IDS_TOGETHER]
                ]
            )
        after = await read_letters(bus, PARTITIONS)
        parked = await read_parked(bus, places_of(chosen))
    return _tell_dropped(chosen, after, parked, short, refused=bool(refused))


def actor() -> str:
    """Who asks, where nobody says otherwise."""
    user = "someone"
    with suppress(OSError, KeyError):
        user = getpass.getuser()
    return f"{user}@{socket.gethostname()}"


# -- chosen -----------------------------------------------------------------------------------------------------------


def _open_of(found: Found, picked: Picked) -> tuple[list[Letter], list[Letter]]:
    """The open letters that are meant, in their order, and those that were named and are not open."""
    if picked.ids:
        named = {each.id: each for each in (find(found.letters, id) for id in picked.ids)}
        chosen = [letter for letter in found.letters if letter.id in named]
        return [letter for letter in chosen if letter.open], [letter for letter in chosen if not letter.open]
    known_service(picked.service, found.services)
    wanted = Wanted(picked.service, picked.key)
    return [letter for letter in found.letters if letter.open and wanted.takes(letter)], []


async def _parked(bus: Bus, chosen: Sequence[Letter], picked: Picked, services: Collection[str]) -> dict[view.Key, str]:
    places = places_of(chosen)
    if picked.key is not None:  # a parked key may have no letters any more, and is released all the same
        places |= {(service, partition_of(picked.key, PARTITIONS)) for service in services}
    return await read_parked(bus, places)


def _means(picked: Picked, key: view.Key) -> bool:
    return picked.key == key[1] and picked.service in (None, key[0])


def _refuse_out_of_order(
    chosen: Sequence[Letter], parked: Mapping[view.Key, str], picked: Picked, short: Mapping[str, str]
) -> None:
    """Raises BadInput where single letters of a parked key are named: they are taken up in their order, or dropped."""
    for letter in chosen if picked.ids else ():
        if (letter.service, letter.key) in parked:
            raise BadInput(
                f"the key of {short[letter.id]} is parked, and its letters are taken up together, in their order: "
                f"{view.replay_command(letter.key)}; drop those that shall not be"
            )


def _requests(groups: Mapping[view.Key, Sequence[Letter]], picked: Picked, *, by: str, reason: str) -> list[NewRecord]:
    from towline.delivery.dead import request
    from towline.delivery.model import ReplayRequested

    cause, now = uuid.uuid4().hex, datetime.now(UTC)
    written = []
    for (service, key), letters in groups.items():
        ids = [letter.id for letter in letters] if picked.ids else []
        for number in range(0, max(1, len(ids)), IDS_TOGETHER):
            some = tuple(ids[number : number + IDS_TOGETHER])
            asked = ReplayRequested(by=by, reason=reason, letters=some)
            written.append(request(service, key, asked, cause=f"{cause} {key} {number}", now=now))
    return written


# -- followed ---------------------------------------------------------------------------------------------------------


async def _follow(
    bus: Bus,
    groups: Mapping[view.Key, Sequence[Letter]],
    parked: Mapping[view.Key, str],
    short: Mapping[str, str],
    wait: float,
) -> bool:
    """Say what became of them, as far as it is known within `wait` seconds; whether one failed again."""
    asked = {letter.id: letter for letters in groups.values() for letter in letters}
    until, pause = time.monotonic() + wait, LOOK_EVERY_S
    while True:
        now = {letter.id: letter for letter in (await read_letters(bus, PARTITIONS)).letters if letter.id in asked}
        failed = {id for id, letter in now.items() if letter.open and letter.times > asked[id].times}
        stopped = {(now[id].service, now[id].key) for id in failed} & parked.keys()
        waiting = [
            letter
            for id, letter in now.items()
            if letter.open and id not in failed and (letter.service, letter.key) not in stopped
        ]
        if not waiting or time.monotonic() >= until:
            break
        await asyncio.sleep(pause)
        pause = min(1.5 * pause, LOOK_SELDOM_S)
    done = sum(not letter.open for letter in now.values())
    _say(f"{done} replayed")
    _say(*(f"{short[id]} failed again: {now[id].reason}" for id in now if id in failed))
    for service, key in sorted(stopped):
        _say(f"{service} {key} stays parked: its letters wait for this one to be mended or dropped")
    if waiting:
        services = ", ".join(sorted({letter.service for letter in waiting}))
        _say(f"{len(waiting)} not taken up yet: {services} does it when it runs and has worked off what came before")
    else:
        await _follow_release(bus, set(groups) & parked.keys() - stopped, until)
    return bool(failed)


async def _follow_release(bus: Bus, keys: set[view.Key], until: float) -> None:
    """A key is free after the last of its letters."""
    places = {(service, partition_of(key, PARTITIONS)) for service, key in keys}
    while still := keys & (await read_parked(bus, places)).keys():
        if time.monotonic() >= until:
            break
        await asyncio.sleep(LOOK_EVERY_S)
    _say(*(f"{service} {key} is free" for service, key in sorted(keys - still)))
    _say(*(f"{service} {key} is not free yet: {service} does it when it runs" for service, key in sorted(still)))


def _tell_dropped(
    chosen: Sequence[Letter], after: Found, parked: Mapping[view.Key, str], short: Mapping[str, str], *, refused: bool
) -> int:
    now = {letter.id: letter for letter in after.letters}
    replayed = [
        now[letter.id]
        for letter in chosen
        if letter.id in now and (done := now[letter.id].resolution) is not None and done.how is not Said.DROPPED
    ]
    for letter in replayed:
        _say(f"{short[letter.id]} was {_was(letter)} a moment before")
    _say(f"{len(chosen) - len(replayed)} dropped" if chosen or not refused else "nothing dropped")
    still = {(letter.service, letter.key) for letter in after.letters if letter.open}
    for service, key in sorted({(letter.service, letter.key) for letter in chosen} & parked.keys()):
        left = "" if (service, key) in still else " and has no letters left"
        _say(f"{service} {key} is still parked{left}: {view.replay_command(key)}")
    return 1 if replayed or refused else 0


def _was(letter: Letter) -> str:
    done = letter.resolution
    return "" if done is None else f"{done.how} by {done.by} at {view.moment(done.at_ms)}"


# -- said -------------------------------------------------------------------------------------------------------------


def _confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise BadInput(f"{question} nobody is there to answer; --yes says so")
    sys.stdout.write(f"{question} [y/N] ")
    sys.stdout.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise BadInput("nothing was done")


def _say_unreadable(found: Found) -> None:
    for service, count in sorted(found.unreadable.items()):
        said = f"{view.counted(count, 'record')} of towline.{service}.dead cannot be read, and no letter is made of it"
        sys.stderr.write(printable(said) + "\n")


def _say(*lines: str) -> None:
    sys.stdout.writelines(printable(line) + "\n" for line in lines)


def _json(said: object) -> None:
    sys.stdout.write(orjson.dumps(said, option=orjson.OPT_INDENT_2).decode() + "\n")
