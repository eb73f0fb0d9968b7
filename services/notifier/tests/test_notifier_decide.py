"""Scope: the decision, driven as the runtime drives it but with every order and any number of copies.

`World` is the smallest runtime there can be: lanes by key, forwards, effects that succeed or fail as told. What it
leaves out on purpose is the runtime's own deduplication, so the rules hold without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.delivery import codec
from towline.delivery.model import Decision, EffectFailed, Envelope, TimerFired
from towline.events import (
    ChangeCreated,
    ChangeMerged,
    DriftRepaired,
    Event,
    IncidentDetected,
    IncidentResolved,
    NoticeRendered,
    Outcome,
    PipelineRunFinished,
    Purpose,
    ServiceUpgraded,
    Verdict,
)
from towline_notifier.decide import decide, forward
from towline_notifier.messages import Deliver, NoticeDelivered
from towline_notifier.routing import Policy
from towline_notifier.settings import NotifierSettings
from towline_notifier.state import FORGET, NotifierState

NOW = datetime(2026, 11, 24, 6, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
APP: dict[str, Any] = {"application": "prod/shop/cart", "repo": "git.test/shop/cart"}
CHANGE: dict[str, Any] = {"repo": "git.test/shop/cart", "change": "git.test/shop/cart!login", "head": "a" * 40}
CHANNEL = {"kind": "webhook", "url": "https://hooks.example.test/x"}
TWO = NotifierSettings.model_validate({"channels": {"ops": CHANNEL, "team": CHANNEL}})
MERGED = ChangeMerged(**CHANGE, target="main", candidate="b", landed="d" * 40, previous="e", source_tree="c")


def incident(revision: str = "1") -> IncidentDetected:
    return IncidentDetected(**APP, revision=revision, reason="0 of 2 replicas")


def recovery(revision: str = "1") -> IncidentResolved:
    return IncidentResolved(**APP, revision=revision)


def fact(event: Event, number: int = 0, at: datetime = NOW) -> Envelope:
    key = str(getattr(event, "application", None) or getattr(event, "repo", ""))
    return Envelope(event, f"fact-{number}", "/towline/test", at, key, lane=f"test/{key}", sequence=number)


@dataclass
class World:
    settings: NotifierSettings = TWO
    now: datetime = NOW
    lanes: dict[str, NotifierState] = field(default_factory=dict)
    notices: list[Envelope] = field(default_factory=list)
    delivered: list[Deliver] = field(default_factory=list)
    flying: list[Deliver] = field(default_factory=list)
    timers: dict[tuple[str, str], datetime] = field(default_factory=dict)

    def turn(self, envelope: Envelope) -> Decision[NotifierState]:
        state = self.lanes.get(envelope.key, NotifierState())
        decision = decide(Policy(self.settings), state, envelope, self.now)
        assert decision == decide(Policy(self.settings), state, envelope, self.now), "the same decision twice"
        kept = decision.state if decision.state is not None else NotifierState()
        self.lanes[envelope.key] = NotifierState.model_validate_json(kept.model_dump_json(exclude_defaults=True))
        assert self.lanes[envelope.key] == kept, "a state survives being stored"
        for index, event in enumerate(decision.events):
            assert isinstance(event, NoticeRendered)
            id = codec.derive("notifier", envelope.id, event, index)
            self.notices.append(Envelope(event, id, "/towline/notifier", self.now, event.channel, envelope.id))
        self.flying += [effect for effect in decision.effects if isinstance(effect, Deliver)]
        for name, due in decision.timers.items():
            if due is not None:
                self.timers[(envelope.key, name)] = due
        return decision

    def tell(self, envelope: Envelope) -> list[Envelope]:
        """Forward a fact and decide on it; returns the notices it led to."""
        before = len(self.notices)
        for key, event in forward(envelope):
            id = codec.derive("notifier", envelope.id, event, 0)
            self.turn(replace(envelope, event=event, id=id, key=key, cause=envelope.id))
        return self.notices[before:]

    def land(self, works: bool = True) -> None:
        """End the delivery that began first, and give its lane the result."""
        deliver = self.flying.pop(0)
        result: Event = NoticeDelivered(channel=deliver.channel, notice=deliver.id)
        if works:
            self.delivered.append(deliver)
        else:
            payload = deliver.model_dump(mode="json", exclude_defaults=True)
            result = EffectFailed(effect="effect-1", kind="deliver", reason="answered 404", payload=payload)
        self.turn(Envelope(result, f"result-{deliver.id}", "/towline/notifier", self.now, deliver.channel, "effect-1"))

    def land_all(self) -> None:
        while self.flying:
            self.land()


def kinds(notices: list[Envelope]) -> list[tuple[str, str]]:
    return [(n.event.channel, n.event.kind) for n in notices if isinstance(n.event, NoticeRendered)]


def test_a_fact_becomes_one_notice_per_channel_of_its_route() -> None:
    world = World()
    assert kinds(world.tell(fact(MERGED))) == [("ops", "change-merged"), ("team", "change-merged")]


def test_a_fact_that_comes_again_tells_nobody_again() -> None:
    world = World()
    world.tell(fact(MERGED))
    assert world.tell(fact(MERGED)) == []


def test_an_event_older_than_the_horizon_is_not_told() -> None:
    world = World()
    assert world.tell(fact(MERGED, 1, NOW - HOUR - timedelta(seconds=1))) == []
    assert len(world.tell(fact(MERGED, 2, NOW - HOUR))) == 2


def test_a_replay_of_all_history_is_silent() -> None:
    world = World()
    for number, event in enumerate(
        (MERGED, incident(), recovery(), incident("2"), ServiceUpgraded(**APP, revision="3"))
    ):
        assert world.tell(fact(event, number, NOW - 3 * HOUR)) == []
    assert world.lanes.get("application:prod/shop/cart", NotifierState()) == NotifierState()


def test_the_same_drift_is_told_again_only_after_the_quiet_time() -> None:
    world = World()
    drift = DriftRepaired(**APP, revision="1", object="Deployment shop/cart", fields=("spec.replicas",), seconds=0.1)
    assert len(world.tell(fact(drift, 1))) == 2
    world.now += timedelta(minutes=5)
    assert world.tell(fact(drift.model_copy(update={"seconds": 0.3}), 2, world.now)) == []
    assert len(world.tell(fact(drift.model_copy(update={"fields": ("spec.paused",)}), 3, world.now))) == 2
    world.now += timedelta(minutes=6)
    assert len(world.tell(fact(drift, 4, world.now))) == 2


def test_a_failed_pipeline_and_its_rejection_are_told_once() -> None:
    from towline.events import CandidateRejected

    world = World()
    run = PipelineRunFinished(
        **CHANGE,
        candidate="b",
        source_tree="c",
        purpose=Purpose.GATE,
        run="r",
        outcome=Outcome.FAILURE,
        verdict=Verdict.INVALID,
    )
    rejected = CandidateRejected(**CHANGE, target="main", candidate="b", stage="pipeline", reason="It failed.")
    assert kinds(world.tell(fact(run, 1))) == [("ops", "pipeline-failed"), ("team", "pipeline-failed")]
    assert world.tell(fact(rejected, 2)) == []
    assert len(world.tell(fact(rejected.model_copy(update={"candidate": "f"}), 3))) == 2


def test_a_notice_names_the_title_its_change_was_given() -> None:
    world = World()
    world.tell(fact(ChangeCreated(**CHANGE, target="main", title="Fix\tthe login", author="Ada"), 1))
    [first, _] = world.tell(fact(MERGED, 2))
    assert isinstance(first.event, NoticeRendered)
    assert first.event.facts["title"] == "Fix the login"
    assert first.event.facts["author"] == "Ada"


ROUTED = {
    "channels": {"ops": CHANNEL, "team": CHANNEL},
    "routes": [{"match": {"severity": "error"}, "channels": ["ops"]}],
}


def test_a_recovery_goes_where_the_incident_went_though_no_route_names_it() -> None:
    world = World(NotifierSettings.model_validate(ROUTED))
    assert kinds(world.tell(fact(incident(), 1))) == [("ops", "incident-detected")]
    assert kinds(world.tell(fact(recovery(), 2))) == [("ops", "incident-resolved")]
    assert world.tell(fact(recovery(), 3)) == []


def test_a_recovery_is_sent_though_it_is_old_when_its_incident_was_told() -> None:
    world = World()
    world.tell(fact(incident(), 1))
    world.now += 5 * HOUR
    assert len(world.tell(fact(recovery(), 2, NOW + HOUR))) == 2


def test_a_recovery_without_a_told_incident_is_not_sent() -> None:
    world = World()
    assert world.tell(fact(recovery(), 1)) == []


def test_an_incident_that_arrives_after_its_recovery_is_not_told() -> None:
    world = World()
    world.tell(fact(recovery(), 2, NOW))
    assert world.tell(fact(incident(), 1, NOW - timedelta(seconds=5))) == []
    assert len(world.tell(fact(incident("2"), 3, NOW + timedelta(seconds=1)))) == 2


def test_a_late_copy_of_an_old_recovery_does_not_close_a_new_incident() -> None:
    world = World()
    world.tell(fact(incident("2"), 3, NOW))
    assert world.tell(fact(recovery(), 2, NOW - timedelta(seconds=5))) == []
    assert len(world.tell(fact(recovery("2"), 4, NOW))) == 2


def test_an_incident_that_is_open_is_not_told_again_but_a_new_one_after_recovery_is() -> None:
    world = World()
    assert len(world.tell(fact(incident(), 1))) == 2
    assert world.tell(fact(incident(), 2)) == []
    assert len(world.tell(fact(incident("2"), 3))) == 2, "another revision fails: that is news"
    assert len(world.tell(fact(recovery("2"), 4))) == 2
    assert len(world.tell(fact(incident("2"), 5, NOW + timedelta(seconds=1)))) == 2, "it broke again: that is news"


def test_a_channel_gets_one_notice_at_a_time_and_in_order() -> None:
    world = World(NotifierSettings.model_validate({"channels": {"ops": CHANNEL}}))
    for number, event in enumerate((incident(), recovery(), MERGED)):
        for notice in world.tell(fact(event, number)):
            world.turn(notice)
    assert len(world.flying) == 1
    world.land(works=False)
    assert len(world.flying) == 1, "one that cannot be delivered does not hold up the next"
    world.land_all()
    assert [deliver.notice.kind for deliver in world.delivered] == ["incident-resolved", "change-merged"]
    assert world.lanes["ops"].waiting == {}
    assert world.lanes["ops"].in_flight is None


def test_channels_do_not_wait_for_each_other() -> None:
    world = World()
    for notice in world.tell(fact(MERGED)):
        world.turn(notice)
    assert sorted(deliver.resource for deliver in world.flying) == ["channel ops", "channel team"]


def test_a_notice_that_comes_again_is_not_delivered_again() -> None:
    world = World()
    [ops, _] = world.tell(fact(MERGED))
    world.turn(ops)
    world.land_all()
    decision = world.turn(ops)
    assert decision.effects == ()
    assert decision.state is world.lanes["ops"] or decision.state == world.lanes["ops"]


def test_a_result_that_comes_again_starts_nothing() -> None:
    world = World(NotifierSettings.model_validate({"channels": {"ops": CHANNEL}}))
    for number, event in enumerate((incident(), recovery(), MERGED)):
        for notice in world.tell(fact(event, number)):
            world.turn(notice)
    first = world.flying[0]
    world.land()
    flying = list(world.flying)
    again = NoticeDelivered(channel="ops", notice=first.id)
    world.turn(Envelope(again, "result-again", "/towline/notifier", NOW, "ops", "effect-1"))
    assert world.flying == flying


def test_news_that_waited_too_long_is_dropped_but_an_incident_is_kept() -> None:
    world = World(NotifierSettings.model_validate({"channels": {"ops": CHANNEL}}))
    for number, event in enumerate((ServiceUpgraded(**APP, revision="0"), MERGED, incident(), recovery())):
        for notice in world.tell(fact(event, number)):
            world.turn(notice)
    world.now += 2 * HOUR
    world.land_all()
    assert [d.notice.kind for d in world.delivered] == ["service-upgraded", "incident-detected", "incident-resolved"]


def test_a_notice_of_an_old_log_is_not_delivered() -> None:
    world = World()
    [ops, _] = world.tell(fact(incident()))
    later = World(now=NOW + 2 * HOUR)
    later.turn(ops)
    assert later.flying == []


def test_a_lane_nobody_needs_is_forgotten_and_one_with_an_open_incident_is_not() -> None:
    world = World(NotifierSettings.model_validate({"channels": {"ops": CHANNEL}}))
    for event, number in ((MERGED, 1), (incident(), 2)):
        for notice in world.tell(fact(event, number)):
            world.turn(notice)
    world.land_all()
    for (key, name), due in list(world.timers.items()):
        assert name == FORGET
        world.now = due
        world.turn(Envelope(TimerFired(name=name, due=due), "ring", "/towline/notifier", due, key))
    assert world.lanes["change:git.test/shop/cart!login"] == NotifierState()
    assert list(world.lanes["application:prod/shop/cart"].open) == ["ops"]
    world.turn(Envelope(recovery(), "r", "/x", world.now, "nobody"))
    for notice in world.tell(fact(recovery(), 9, world.now)):
        world.turn(notice)
    world.land_all()
    assert world.delivered[-1].notice.kind == "incident-resolved"


EVENTS = st.sampled_from(
    (
        MERGED,
        incident("1"),
        incident("2"),
        recovery("1"),
        recovery("2"),
        ServiceUpgraded(**APP, revision="2"),
        DriftRepaired(**APP, revision="1", object="Deployment shop/cart"),
    )
)
STEP = timedelta(seconds=90)


@st.composite
def arrivals(draw: st.DrawFn) -> list[Envelope]:
    """A history of facts, each some time after the one before, as copies in any order."""
    gaps = draw(st.lists(st.tuples(EVENTS, st.integers(0, 20)), min_size=1, max_size=12))
    at, facts = NOW - HOUR, []
    for number, (event, steps) in enumerate(gaps):
        at += steps * STEP
        facts.append(fact(event, number, at))
    copies = [each for each in facts for _ in range(draw(st.integers(1, 3)))]
    return draw(st.permutations(copies))


@given(arrivals(), st.data())
def test_whatever_arrives_however_often_each_channel_hears_of_an_event_at_most_once(
    facts: list[Envelope], data: st.DataObject
) -> None:
    world = World()
    for envelope in facts:
        world.now = max(world.now, envelope.time)
        world.tell(envelope)
    copies = [notice for notice in world.notices for _ in range(data.draw(st.integers(1, 2)))]
    for notice in data.draw(st.permutations(copies)):
        world.turn(notice)
        if data.draw(st.booleans()) and world.flying:
            world.land(works=data.draw(st.booleans()))
    world.land_all()
    told = [(deliver.channel, deliver.notice.about) for deliver in world.delivered]
    assert len(told) == len(set(told))
    assert all(not lane.waiting and lane.in_flight is None for lane in world.lanes.values())


@given(arrivals())
def test_an_incident_that_was_told_is_followed_by_its_recovery(facts: list[Envelope]) -> None:
    world = World()
    for envelope in facts:
        world.now = max(world.now, envelope.time)
        for notice in world.tell(envelope):
            world.turn(notice)
    end = max(world.now, *(envelope.time for envelope in facts)) + STEP
    world.now = end
    for notice in world.tell(fact(recovery("last"), 99, end)):
        world.turn(notice)
    world.land_all()
    for channel in ("ops", "team"):
        heard = [
            d.notice.kind for d in world.delivered if d.channel == channel and d.notice.kind.startswith("incident")
        ]
        assert heard == [] or heard[-1] == "incident-resolved"
        balance = 0
        for kind in heard:
            balance = balance + 1 if kind == "incident-detected" else 0
            assert balance <= len(facts)
        recoveries = [i for i, kind in enumerate(heard) if kind == "incident-resolved"]
        assert all(heard[i - 1] == "incident-detected" for i in recoveries), "no recovery without an incident"


@pytest.mark.parametrize("channel", ["ops", "team"])
def test_the_key_of_a_channel_is_never_the_key_of_a_group(channel: str) -> None:
    lanes = [key for event in (MERGED, incident()) for key, _ in forward(fact(event))]
    assert all(":" in key for key in lanes)
    assert ":" not in channel
