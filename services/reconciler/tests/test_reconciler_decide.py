"""The decision over generated histories: nothing twice, every wait ends, whatever the agent tells in whatever order."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from towline.delivery.model import Envelope
from towline.events import (
    DriftDetected,
    DriftRepaired,
    Event,
    HealthChanged,
    IncidentDetected,
    IncidentResolved,
    ServiceDeployed,
    ServiceRemoved,
    ServiceUpgraded,
    SyncFinished,
    SyncStarted,
)
from towline.events.base import Outcome
from towline.events.deployment import Health
from towline_reconciler.decide import decide
from towline_reconciler.messages import (
    ApplicationGone,
    DriftEnded,
    DriftSeen,
    HealthSeen,
    Observation,
    ReconcilerState,
    SyncBegan,
    SyncEnded,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
APP, REPO = "local/default/shop", "git.example/shop/app"
SYNCS = ("2026-01-01T00:00:01.0Z", "2026-01-01T00:00:02.0Z", "2026-01-01T00:00:03.0Z")


def began(sync: str = SYNCS[0], revision: str = "r1", made_of: str = "") -> SyncBegan:
    return SyncBegan(application=APP, repo=REPO, revision=revision, sync=sync, made_of=made_of)


def ended(
    sync: str = SYNCS[0], revision: str = "r1", outcome: Outcome = Outcome.SUCCESS, made_of: str = ""
) -> SyncEnded:
    return SyncEnded(application=APP, repo=REPO, revision=revision, sync=sync, outcome=outcome, made_of=made_of)


def health(of: Health, revision: str = "r1", *, failed: bool = False) -> HealthSeen:
    return HealthSeen(application=APP, repo=REPO, revision=revision, health=of, failed=failed, images=("a@sha256:1",))


def drift(object: str = "Deployment shop/web") -> DriftSeen:
    return DriftSeen(application=APP, repo=REPO, revision="r1", object=object, fields=("spec.replicas",))


def repaired(object: str = "Deployment shop/web") -> DriftEnded:
    return DriftEnded(application=APP, repo=REPO, revision="r1", object=object, seconds=0.01)


def gone() -> ApplicationGone:
    return ApplicationGone(application=APP, repo=REPO, revision="r1")


revisions = st.sampled_from(["r1", "r2"])
observations = st.one_of(
    st.builds(began, st.sampled_from(SYNCS), revisions, st.sampled_from(["", "m1", "m2"])),
    st.builds(
        ended,
        st.sampled_from(SYNCS),
        st.sampled_from(["r1", "r2"]),
        st.sampled_from([Outcome.SUCCESS, Outcome.FAILURE]),
        st.sampled_from(["", "m1", "m2"]),
    ),
    st.builds(health, st.sampled_from(list(Health)), revisions, failed=st.booleans()),
    st.builds(drift, st.sampled_from(["A a/a", "B b/b"])),
    st.builds(repaired, st.sampled_from(["A a/a", "B b/b"])),
)


def told(state: ReconcilerState, *seen: Observation) -> tuple[ReconcilerState, list[Event]]:
    events: list[Event] = []
    for number, each in enumerate(seen):
        decision = decide(state, Envelope(each, f"e{number}", "/towline/reconciler", NOW, APP), NOW)
        state = decision.state if decision.state is not None else ReconcilerState()
        events += decision.events
    return state, events


def kinds(events: list[Event]) -> list[type[Event]]:
    return [type(each) for each in events]


def test_the_first_healthy_revision_is_deployed_and_the_next_one_upgraded() -> None:
    _, events = told(
        ReconcilerState(),
        began(),
        ended(),
        health(Health.PROGRESSING),
        health(Health.HEALTHY),
        began(SYNCS[1], "r2"),
        ended(SYNCS[1], "r2"),
        health(Health.HEALTHY, "r2"),
    )
    assert kinds(events) == [
        *(SyncStarted, SyncFinished, HealthChanged, HealthChanged, ServiceDeployed),
        *(SyncStarted, SyncFinished, ServiceUpgraded),
    ]
    upgraded = events[-1]
    assert isinstance(upgraded, ServiceUpgraded)
    assert (upgraded.revision, upgraded.images) == ("r2", ("a@sha256:1",))


@given(st.lists(observations, max_size=25))
def test_an_observation_told_again_publishes_nothing(history: list[Observation]) -> None:
    state = ReconcilerState()
    for seen in history:
        state, _ = told(state, seen)
        again, events = told(state, seen)
        assert events == []
        assert again == state


@given(st.lists(observations, max_size=25))
def test_every_wait_has_its_end_when_the_application_goes(history: list[Observation]) -> None:
    _, events = told(ReconcilerState(), *history, gone())
    seen = kinds(events)
    assert seen.count(SyncStarted) == seen.count(SyncFinished)
    assert seen.count(DriftDetected) == seen.count(DriftRepaired)
    assert seen.count(IncidentDetected) == seen.count(IncidentResolved)
    assert seen.count(ServiceRemoved) == (ServiceDeployed in seen)


@given(st.lists(observations, max_size=25))
def test_ends_follow_their_beginnings_one_by_one(history: list[Observation]) -> None:
    _, events = told(ReconcilerState(), *history)
    for begin, end in ((SyncStarted, SyncFinished), (IncidentDetected, IncidentResolved)):
        order = [type(each) for each in events if isinstance(each, begin | end)]
        assert all(kind is (begin, end)[index % 2] for index, kind in enumerate(order))


@given(st.lists(observations, max_size=25))
def test_health_is_told_as_a_chain(history: list[Observation]) -> None:
    _, events = told(ReconcilerState(), *history)
    changes = [each for each in events if isinstance(each, HealthChanged)]
    assert [each.previous for each in changes] == [Health.UNKNOWN, *(each.health for each in changes)][: len(changes)]
    assert all(each.health is not each.previous for each in changes)


def test_a_sync_that_is_older_than_the_last_one_is_no_news() -> None:
    state, _ = told(ReconcilerState(), began(SYNCS[1]), ended(SYNCS[1]))
    assert told(state, began(SYNCS[0]), ended(SYNCS[0]))[1] == []


def test_a_sync_whose_agent_died_is_cancelled_by_the_next() -> None:
    _, events = told(ReconcilerState(), began(), began(SYNCS[1], "r2"), ended(SYNCS[1], "r2"))
    finished = [each.outcome for each in events if isinstance(each, SyncFinished)]
    assert finished == [Outcome.CANCEL, Outcome.SUCCESS]


def test_a_sync_that_an_agent_does_again_because_it_died_before_it_noted_it_is_no_news() -> None:
    """The bug: killed between telling a sync's end and writing the status, the next agent told it all again."""
    first = told(ReconcilerState(), began(made_of="m"), ended(made_of="m"))[0]
    state, events = told(first, began(SYNCS[1], made_of="m"), ended(SYNCS[1], made_of="m"))
    assert events == []
    assert told(state, ended(made_of="m"))[1] == []
    failed = told(state, began(SYNCS[2], made_of="m"), ended(SYNCS[2], outcome=Outcome.FAILURE, made_of="m"))[1]
    assert kinds(failed) == [SyncStarted, SyncFinished]


def test_a_sync_whose_agent_died_goes_on_when_the_next_one_does_the_same() -> None:
    _, events = told(ReconcilerState(), began(made_of="m"), began(SYNCS[1], made_of="m"), ended(SYNCS[1], made_of="m"))
    assert kinds(events) == [SyncStarted, SyncFinished]
    assert events[-1].outcome is Outcome.SUCCESS  # type: ignore[attr-defined]


def test_an_end_whose_beginning_was_lost_brings_it_along() -> None:
    assert kinds(told(ReconcilerState(), ended())[1]) == [SyncStarted, SyncFinished]


def test_waiting_is_no_incident_and_giving_up_is_one() -> None:
    state, events = told(ReconcilerState(), health(Health.PROGRESSING))
    assert IncidentDetected not in kinds(events)
    state, events = told(state, health(Health.DEGRADED, failed=True))
    assert kinds(events) == [HealthChanged, IncidentDetected]
    assert kinds(told(state, health(Health.HEALTHY))[1]) == [HealthChanged, ServiceDeployed, IncidentResolved]


def test_an_application_that_nobody_knows_goes_silently() -> None:
    assert told(ReconcilerState(), gone(), gone())[1] == []


def test_a_removed_application_names_what_it_ran() -> None:
    state, _ = told(ReconcilerState(), health(Health.HEALTHY))
    after, events = told(state, gone())
    assert kinds(events) == [ServiceRemoved]
    assert isinstance(events[0], ServiceRemoved)
    assert events[0].images == ("a@sha256:1",)
    assert after == ReconcilerState()
