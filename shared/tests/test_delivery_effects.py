"""Effects in virtual time: pools, breakers, retries, and which of several wins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import ClassVar

import pytest
from shared.tests.conftest import Tally, Told, decide

from towline.delivery.effects import Effects
from towline.delivery.lane import OutboxItem
from towline.delivery.model import Effect, EffectContext, EffectFailed, Service
from towline.errors import DependencyDown, Retryable
from towline.events.base import Event
from towline.testing import virtual


class Status(Effect):
    kind: ClassVar[str] = "status"
    text: str

    @property
    def resource(self) -> str:
        return "forge x"

    @property
    def latest_wins(self) -> str | None:
        return None if self.text.startswith("each") else "status"


Handler = Callable[[Status, EffectContext], Awaitable[Event | None]]


class Run:
    """Effects of one service, and what came back of them by id."""

    def __init__(self, handler: Handler) -> None:
        self.ended: dict[str, Event | None] = {}
        service = Service("notifier", Tally, decide, effects={Status: handler}, pools={"forge": 2})
        self.effects = Effects(service, self._finished)

    async def _finished(self, _lane: str, item: OutboxItem, result: Event | None, _context: str | None) -> None:
        self.ended[item.id] = result

    def start(self, text: str, *, lane: str = "lane", kind: str = "status") -> None:
        self.effects.start(lane, OutboxItem(id=text, order=0, kind=kind, effect={"text": text}))


def test_while_one_runs_only_the_newest_waits_and_it_has_the_last_word() -> None:
    said: list[str] = []

    async def slow(effect: Status, _: EffectContext) -> None:
        await asyncio.sleep(1)
        said.append(effect.text)

    async def scene() -> None:
        run = Run(slow)
        run.start("first")
        await asyncio.sleep(0.5)
        for text in ("second", "third", "fourth"):
            run.start(text)
        await asyncio.sleep(5)
        assert said == ["first", "fourth"]
        assert run.ended.keys() == {"first", "second", "third", "fourth"}
        assert run.effects.running == 0

    virtual.run(scene())


def test_one_that_would_only_try_again_gives_way() -> None:
    said: list[str] = []

    async def once(effect: Status, _: EffectContext) -> None:
        if effect.text == "old":
            raise Retryable("slow down", after=3600)
        said.append(effect.text)

    async def scene() -> None:
        run = Run(once)
        run.start("old")
        await asyncio.sleep(1)
        run.start("new")
        await asyncio.sleep(1)
        assert said == ["new"]
        assert run.ended == {"old": None, "new": None}

    virtual.run(scene())


def test_lanes_and_names_do_not_replace_each_other() -> None:
    said: list[str] = []

    async def do(effect: Status, context: EffectContext) -> None:
        await asyncio.sleep(1)
        said.append(f"{context.key} {effect.text}")

    async def scene() -> None:
        run = Run(do)
        run.start("a", lane="one")
        run.start("b", lane="two")
        run.start("each c", lane="one")
        run.start("each d", lane="one")
        await asyncio.sleep(10)
        assert sorted(said) == ["one a", "one each c", "one each d", "two b"]

    virtual.run(scene())


def test_a_resource_is_called_by_so_many_at_once_as_its_pool_says() -> None:
    running = most = 0

    async def do(_: Status, __: EffectContext) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1

    async def scene() -> None:
        run = Run(do)
        for number in range(10):
            run.start(f"each {number}")
        await asyncio.sleep(60)
        assert len(run.ended) == 10
        assert most == 2

    virtual.run(scene())


def test_a_dead_dependency_is_asked_ever_more_rarely_and_all_run_once_it_is_back() -> None:
    asked = 0
    back = False

    async def do(_: Status, __: EffectContext) -> Told:
        nonlocal asked
        asked += 1
        if not back:
            raise DependencyDown("away")
        return Told(head="x")

    async def scene() -> None:
        nonlocal back
        run = Run(do)
        for number in range(20):
            run.start(f"each {number}")
        await asyncio.sleep(3600)
        assert asked < 150  # 60 probes of the longest delay, and what was asked before the breaker opened
        back = True
        await asyncio.sleep(300)
        assert len(run.ended) == 20

    virtual.run(scene())


def test_a_cancelled_probe_does_not_close_the_resource_for_good() -> None:
    hang = True

    async def do(effect: Status, _: EffectContext) -> Told:
        if effect.text == "each down":
            raise DependencyDown("away", after=1)
        if hang:
            await asyncio.Event().wait()
        return Told(head="x")

    async def scene() -> None:
        nonlocal hang
        run = Run(do)
        run.start("each down", lane="bad")
        await asyncio.sleep(30)
        run.effects.drop({"bad"})
        run.start("each probe", lane="lost")
        await asyncio.sleep(120)
        run.effects.drop({"lost"})
        hang = False
        run.start("each next")
        await asyncio.sleep(120)
        assert run.ended["each next"] == Told(head="x")

    virtual.run(scene())


def test_an_effect_of_another_version_fails_and_says_so() -> None:
    async def do(_: Status, __: EffectContext) -> None:
        raise AssertionError("not reached")

    async def scene() -> None:
        run = Run(do)
        run.start("x", kind="of the future")
        await asyncio.sleep(1)
        failed = run.ended["x"]
        assert isinstance(failed, EffectFailed)
        assert "of the future" in failed.reason

    virtual.run(scene())


def test_after_the_stop_nothing_begins() -> None:
    async def do(_: Status, __: EffectContext) -> None:
        raise AssertionError("not reached")

    async def scene() -> None:
        run = Run(do)
        await run.effects.stop()
        run.start("late")
        await asyncio.sleep(1)
        assert run.ended == {}

    virtual.run(scene())


@pytest.mark.parametrize("tries", [1, 5])
def test_what_fails_by_a_passing_reason_is_tried_again_under_the_same_id(tries: int) -> None:
    ids: list[str] = []

    async def do(_: Status, context: EffectContext) -> Told:
        ids.append(context.id)
        if context.tries < tries:
            raise Retryable("not now")
        return Told(head="x")

    async def scene() -> None:
        run = Run(do)
        run.start("each one")
        await asyncio.sleep(600)
        assert ids == ["each one"] * tries
        assert run.ended == {"each one": Told(head="x")}

    virtual.run(scene())


def test_what_is_tried_in_vain_is_said_until_it_works() -> None:
    """A gate stood still for a registry that was away, and the log alone said so."""
    away = True

    async def registry(effect: Status, _: EffectContext) -> None:
        if away:
            raise DependencyDown("registry r.example does not answer")

    async def scene() -> None:
        nonlocal away
        run = Run(registry)
        run.start("each 1")
        run.start("each 2")
        await asyncio.sleep(0.1)
        assert run.effects.delays == [], "it may be over in a moment"
        await asyncio.sleep(60)
        assert run.effects.delays == ["registry r.example does not answer"]
        away = False
        await asyncio.sleep(300)
        assert (run.effects.delays, len(run.ended)) == ([], 2)

    virtual.run(scene())
