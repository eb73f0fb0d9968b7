"""`towline dead …` on a real log, with a service that runs and with one that does not."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import orjson
import pytest

from towline import flow
from towline.bus.open import open_bus
from towline.bus.port import Bus, NewRecord, Record, TopicPartition
from towline.delivery import codec
from towline.delivery.lane import SEPARATOR
from towline.delivery.letters import Kind, Letter, letter_records
from towline.delivery.model import Decision, Envelope, Service, State
from towline.errors import BadInput
from towline.events import Event
from towline.testing import running
from towline_cli import instances, letters, show
from towline_cli.dead import Picked, dropping, listing, replaying, showing
from towline_cli.view import choose
from towline_cli.view.choose import Wanted
from towline_cli.view.letters import count_line, moment, payload_lines, short_ids

pytestmark = pytest.mark.whole_service
NOW = datetime(2026, 1, 2, tzinfo=UTC)
HOT, COLD = "local/hot", "local/cold"


class Book(State):
    words: tuple[str, ...] = ()


class Word(Event):
    type: ClassVar[str] = "dev.cdeventsx.towline-test-line.read.0.1.0"
    word: str

    @property
    def subject(self) -> str:
        return self.word


def mended(state: Book, envelope: Envelope, _: datetime) -> Decision[Book]:
    assert isinstance(envelope.event, Word)
    return Decision(Book(words=(*state.words, envelope.event.word)))


def broken(state: Book, envelope: Envelope, now: datetime) -> Decision[Book]:
    if isinstance(envelope.event, Word) and envelope.event.word == "poison":
        raise RuntimeError("a bug")
    return mended(state, envelope, now)


def service(decide: Callable[..., Decision[Book]]) -> Service[Book]:
    return Service(flow.NOTIFIER, Book, decide, inbox=(Word,))


@asynccontextmanager
async def log_at(config: Path) -> AsyncIterator[Bus]:
    bus = await open_bus(instances.bus_of(config))
    try:
        await bus.ensure(flow.topics())
        yield bus
    finally:
        await bus.close()


async def say(bus: Bus, *words: str, key: str = HOT) -> None:
    for word in words:
        said = Envelope(Word(word=word), f"e-{word}", "/t", NOW, key)
        await bus.publish([codec.encode(said, flow.inbox_of(flow.NOTIFIER))])


async def found(bus: Bus) -> list[Letter]:
    return list((await letters.read_letters(bus, flow.PARTITIONS)).letters)


async def until(check: Callable[[], Awaitable[bool]], timeout: float = 20.0) -> None:
    async with asyncio.timeout(timeout):
        while not await check():  # noqa: ASYNC110 - a log has no event for "this was written"
            await asyncio.sleep(0.01)


async def stuck(config: Path) -> list[Letter]:
    """A parked key with three letters, and one of another key that is garbage."""
    async with log_at(config) as bus:
        async with running(bus, service(broken)):
            await say(bus, "a", "poison", "b", "c")
            await bus.publish([NewRecord(flow.inbox_of(flow.NOTIFIER), COLD, b"\x00\xff", {"x": b"\xfe"})])

            async def four() -> bool:
                return len(await found(bus)) == 4

            await until(four)
        return await found(bus)


async def ask(config: Path, picked: Picked, *, wait: float = 20.0) -> int:
    return await replaying(config, picked, yes=False, by="ada@host", reason="mended", wait=wait)


def of(letters_: list[Letter], kind: Kind) -> Letter:
    return next(letter for letter in letters_ if letter.kind == kind)


async def test_a_list_says_so_when_there_is_none(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with log_at(shop):
        pass
    await listing(shop, Wanted(), resolved=False, json=False, newer=None, older=None)
    assert capsys.readouterr().out == "no dead letters\n"


async def test_a_list_shows_keys_reasons_and_what_to_do(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = await stuck(shop)
    short = short_ids(there)
    poison, garbage = of(there, Kind.UNDECIDED), of(there, Kind.UNDECODABLE)

    await listing(shop, Wanted(), resolved=False, json=False, newer=None, older=None)

    said = capsys.readouterr().out.splitlines()
    assert f"notifier  {HOT}  parked" in said
    assert any(line.startswith(f"  {short[poison.id]}  ") and "RuntimeError while deciding on" in line for line in said)
    assert sum("waits: its key is parked" in line for line in said) == 2
    assert any(line.startswith(f"  {short[garbage.id]}  ") and "no event  the record has no" in line for line in said)
    assert any(line.startswith(f"towline dead replay --key {HOT} ") for line in said)


@pytest.mark.parametrize(
    ("wanted", "newer", "older", "count"),
    [
        (Wanted(key=HOT), None, None, 3),
        (Wanted(service="notifier"), None, None, 4),
        (Wanted(service="reconciler"), None, None, 0),
        (Wanted(reason="runtimeerror WHILE"), None, None, 3),
        (Wanted(), "1h", None, 4),
        (Wanted(), None, "1h", 0),
    ],
)
async def test_a_list_is_narrowed_by_key_service_reason_and_age(
    shop: Path, capsys: pytest.CaptureFixture[str], wanted: Wanted, newer: str | None, older: str | None, count: int
) -> None:
    await stuck(shop)
    await listing(shop, wanted, resolved=False, json=True, newer=newer, older=older)
    assert len(orjson.loads(capsys.readouterr().out)) == count


async def test_one_is_shown_with_all_that_it_has(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = await stuck(shop)
    poison, garbage = of(there, Kind.UNDECIDED), of(there, Kind.UNDECODABLE)

    await showing(shop, poison.id[:5], json=False, raw=False)
    said = capsys.readouterr().out
    assert '"word": "poison"\n' in said
    assert "  ce_type: dev.cdeventsx.towline-test-line.read.0.1.0" in said
    assert f"  towline dead replay --key {HOT} " in said

    await showing(shop, garbage.id, json=False, raw=False)
    said = capsys.readouterr().out
    assert "  x: hex fe\nvalue     2 bytes\n  00ff\n" in said
    assert f"  towline dead drop {short_ids(there)[garbage.id]} --reason '…'\n" in said

    await showing(shop, garbage.id, json=True, raw=False)
    said = orjson.loads(capsys.readouterr().out)
    assert (said["headers"], said["value (base64)"], said["parked"]) == ({"x (base64)": "/g=="}, "AP8=", None)


async def test_a_key_is_replayed_and_what_became_of_it_is_said(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = await stuck(shop)
    async with log_at(shop) as bus:
        async with running(bus, service(broken)):
            assert await ask(shop, Picked(key=HOT)) == 1
        said = capsys.readouterr().out
        short = short_ids(there)[of(there, Kind.UNDECIDED).id]
        assert f"0 replayed\n{short} failed again: RuntimeError while deciding on" in said
        assert f"notifier {HOT} stays parked" in said

        async with running(bus, service(mended)):
            assert await ask(shop, Picked(key=HOT)) == 0
        assert f"3 replayed\nnotifier {HOT} is free\n" in capsys.readouterr().out
        assert [letter.key for letter in await found(bus) if letter.open] == [COLD]
    await listing(shop, Wanted(), resolved=True, json=False, newer=None, older=None)
    assert capsys.readouterr().out.count("replayed by ada@host at") == 3


async def test_what_is_asked_of_a_service_that_does_not_run_waits_for_it(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await stuck(shop)
    assert await ask(shop, Picked(key=HOT), wait=0.0) == 0
    assert "3 not taken up yet: notifier does it when it runs" in capsys.readouterr().out


async def test_one_of_a_parked_key_is_not_taken_out_of_its_order(shop: Path) -> None:
    there = await stuck(shop)
    with pytest.raises(BadInput, match=f"in their order: towline dead replay --key {HOT}"):
        await ask(shop, Picked(ids=[of(there, Kind.PARKED).id]))


async def test_what_is_resolved_stays_so(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = await stuck(shop)
    garbage = of(there, Kind.UNDECODABLE)
    ids = Picked(ids=[garbage.id[:6]])
    assert await dropping(shop, ids, yes=False, by="bob", reason="nonsense") == 0
    assert await dropping(shop, ids, yes=False, by="ada", reason="mine") == 1
    assert await ask(shop, ids) == 1
    said = capsys.readouterr().out
    assert said.startswith("1 dropped\n")
    assert said.count(f"{short_ids(there)[garbage.id]} was dropped by bob at ") == 2
    async with log_at(shop) as bus:
        resolution = of(await found(bus), Kind.UNDECODABLE).resolution
    assert resolution is not None
    assert (resolution.by, resolution.reason) == ("bob", "nonsense")


async def test_a_key_whose_letters_are_all_dropped_is_named_and_can_be_released(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await stuck(shop)
    assert await dropping(shop, Picked(key=HOT), yes=True, by="bob", reason="all of it") == 0
    assert f"notifier {HOT} is still parked and has no letters left: towline dead replay --key {HOT}" in (
        capsys.readouterr().out
    )
    async with log_at(shop) as bus, running(bus, service(broken)):
        await ask(shop, Picked(key=HOT))
        await say(bus, "d")

        async def free() -> bool:
            return not await letters.read_parked(bus, [("notifier", partition) for partition in range(12)])

        await until(free)


@pytest.mark.parametrize("picked", [Picked(), Picked(ids=["abcdef"], key=HOT), Picked(ids=["abcdef"], all=True)])
async def test_what_is_meant_must_be_said_once(shop: Path, picked: Picked) -> None:
    with pytest.raises(BadInput, match=r"name what is meant|not both"):
        await ask(shop, picked)


async def test_everything_is_only_replayed_or_dropped_when_somebody_says_yes(shop: Path) -> None:
    await stuck(shop)
    with pytest.raises(BadInput, match=r"replay 4 dead letters of 2 keys\? nobody is there to answer; --yes"):
        await ask(shop, Picked(all=True))
    with pytest.raises(BadInput, match=r"drop 4 dead letters\? The events are never handled\. nobody is there"):
        await dropping(shop, Picked(service="notifier"), yes=False, by="bob", reason="all")


async def test_a_wrong_id_gets_the_nearest_right_one(shop: Path) -> None:
    there = await stuck(shop)
    id = there[0].id
    near = id[:5] + ("0" if id[5] != "0" else "1")
    with pytest.raises(BadInput, match=rf"did you mean .*{short_ids(there)[id]} \(notifier local/"):
        choose.find(there, near)
    with pytest.raises(BadInput, match="give 4 or more characters"):
        choose.find(there, id[:3])
    with pytest.raises(BadInput, match="there is none at all"):
        choose.find([], id)


async def test_a_wrong_key_or_service_gets_the_nearest_right_one(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await stuck(shop)
    with pytest.raises(BadInput, match="the key 'local/hat' has no dead letters; did you mean local/hot"):
        await ask(shop, Picked(key="local/hat"))
    with pytest.raises(BadInput, match="no service 'notifer' on this bus; there are: notifier"):
        await dropping(shop, Picked(service="notifer"), yes=True, by="ada", reason="all")
    with pytest.raises(BadInput, match="no service 'x' on this bus; there are: ci-runner, git-watcher"):
        await listing(shop, Wanted(service="x"), resolved=False, json=False, newer=None, older=None)
    await listing(shop, Wanted(key="local/hat"), resolved=False, json=False, newer=None, older=None)
    assert capsys.readouterr().out == "no dead letters like that; there are 4 others: towline dead list\n"
    assert await ask(shop, Picked(key="z")) == 0
    assert capsys.readouterr().out == "nothing to replay\n"


@pytest.mark.parametrize("value", [b"[" * 600 + b"]" * 600, b"[" * 5000, b"\xff" * 5000, b"", None])
def test_whatever_a_payload_is_something_is_shown(value: bytes | None) -> None:
    lines = payload_lines(value)
    assert bool(lines) == bool(value)


async def test_a_letter_whose_key_no_service_can_have_is_not_waited_for(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with log_at(shop) as bus:
        record = Record("towline.changes", 3, 1, "k" * 5000, b"", {}, 0)
        written = letter_records(
            flow.dead_of("notifier"), 3, "notifier", record, kind=Kind.UNDECODABLE, reason="why", version="1"
        )
        await bus.publish(written)
    assert await replaying(shop, Picked(all=True), yes=True, by="ada", reason="", wait=20.0) == 0
    assert "cannot be replayed: its key is longer" in capsys.readouterr().out


async def test_nothing_of_a_letter_reaches_the_terminal_as_a_command(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202edessap\x9b1m\nhi"
    async with log_at(shop) as bus:
        record = NewRecord("towline.changes", evil, evil.encode(), {evil: evil.encode(), "ce_type": evil.encode()}, 3)
        await bus.publish([record])
        [read] = await bus.read(TopicPartition("towline.changes", 3))
        written = letter_records(
            flow.dead_of("notifier"), 3, "notifier", read, kind=Kind.UNDECODABLE, reason=evil, version="1"
        )
        await bus.publish([*written, NewRecord(flow.dead_of("notifier"), evil, b"", {"tl_dead_said": b"\xff"})])

    await listing(shop, Wanted(), resolved=False, json=False, newer=None, older=None)
    await showing(shop, letters_id(capsys), json=False, raw=False)
    said = capsys.readouterr()
    assert all(line.isprintable() for line in (said.out + said.err).split("\n"))


def letters_id(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr()
    assert "1 record of towline.notifier.dead cannot be read" in said.err
    assert all(line.isprintable() for line in (said.out + said.err).split("\n"))
    return said.out.splitlines()[1].split()[0]


async def test_status_says_in_one_line_that_there_are_dead_letters(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = await stuck(shop)
    assert count_line(there[:1]) == "1 dead letter: towline dead list"
    assert count_line([]) is None
    await asyncio.to_thread(show.status, shop, None)
    assert capsys.readouterr().out.splitlines()[0] == "4 dead letters: towline dead list"


def test_the_row_of_a_parked_key_is_called_as_the_runtime_calls_it() -> None:
    assert letters._PARKED == SEPARATOR + "parked"


def test_a_time_that_a_stranger_wrote_is_shown_whatever_it_is() -> None:
    assert moment(2**62) == f"at {2**62} ms"
    assert moment(0) == "1970-01-01 00:00:00 UTC"


def test_the_command_itself_says_what_is_wrong_and_ends_with_2(shop: Path) -> None:
    asked = [sys.executable, "-m", "towline_cli.main", "dead", "list", "--config", str(shop)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("towline: there is no log at ")
