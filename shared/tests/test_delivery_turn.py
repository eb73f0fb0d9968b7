"""The pure turn: what it writes, what leaves, and that nothing is handled twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from shared.tests.conftest import NOW, Hint, Tally, Tell, Told, created, decide, tell

from towline.delivery import codec
from towline.delivery.lane import SEEN_LANES, SEPARATOR, Lane, lanes_of, records_of
from towline.delivery.model import Decision, Envelope, Service, TimerFired
from towline.delivery.ownership import Rows
from towline.delivery.turn import Arrival, Turn, forwarded, take
from towline.events import Event, NoticeRendered, Severity

SERVICE = Service("notifier", Tally, decide, effects={Tell: tell}, inbox=(Told, Hint))


def envelope(event: Event, id: str = "a", *, sequence: int | None = None, cause: str | None = None) -> Envelope:
    lane = None if sequence is None else "git-watcher/local/app"
    return Envelope(event, id, "/towline/git-watcher", NOW, "local/app", cause, None, lane, sequence)


def turn(lane: Lane[Tally], arrived: Envelope, offset: int = 0, topic: str = "t") -> Turn[Tally] | None:
    return take(SERVICE, lane, arrived, Arrival(topic, offset + 1), NOW, lambda _: None)


EMPTY = Lane("local/app", Tally())


def taken(lane: Lane[Tally], arrived: Envelope, offset: int = 0, topic: str = "t") -> Turn[Tally]:
    result = turn(lane, arrived, offset, topic)
    assert result is not None
    return result


def test_an_event_leaves_before_its_effects_and_both_wait_in_the_outbox() -> None:
    result = taken(EMPTY, envelope(created("h1")))
    assert [item.kind for item in result.leaving] == ["event", "tell"]
    assert list(result.lane.outbox) == [item.id for item in result.leaving]


def test_deciding_the_same_event_again_gives_the_same_ids_and_bytes() -> None:
    first, second = (taken(EMPTY, envelope(created("h1"))) for _ in range(2))
    assert first.leaving == second.leaving
    assert first.rows == second.rows


def test_a_record_at_or_before_the_position_changes_nothing() -> None:
    lane = taken(EMPTY, envelope(created("h1"), "a", sequence=1), 7).lane
    assert turn(lane, envelope(created("h1"), "a", sequence=1), 7) is None
    assert turn(lane, envelope(created("h2"), "b", sequence=2), 6) is None


def test_a_copy_under_a_new_offset_is_known_by_its_sequence() -> None:
    lane = taken(EMPTY, envelope(created("h1"), "a", sequence=1), 0).lane
    assert turn(lane, envelope(created("h1"), "a", sequence=1), 1) is None
    assert turn(lane, envelope(created("h2"), "b", sequence=2), 2) is not None


def test_a_source_event_emitted_twice_is_known_by_its_id() -> None:
    lane = taken(EMPTY, envelope(Hint(word="x"), "a"), 0).lane
    assert turn(lane, envelope(Hint(word="x"), "a"), 1) is None


def test_a_result_closes_its_effect_and_a_second_result_changes_nothing() -> None:
    lane = taken(EMPTY, envelope(created("h1"))).lane
    effect = next(id for id, item in lane.outbox.items() if item.kind == "tell")
    closed = taken(lane, envelope(Told(head="h1"), "r1", cause=effect), 1).lane
    assert effect not in closed.outbox
    assert closed.state.told == 1
    assert turn(closed, envelope(Told(head="h1"), "r2", cause=effect), 2) is None


def test_a_timer_rings_once_and_a_stale_one_not_at_all() -> None:
    lane = taken(EMPTY, envelope(created("timer"))).lane
    due = lane.timers["soon"]
    rung = taken(lane, envelope(TimerFired(name="soon", due=due), "t1"), 1).lane
    assert rung.state.rung == 1
    assert "soon" not in rung.timers
    assert turn(rung, envelope(TimerFired(name="soon", due=due), "t2"), 2) is None
    assert turn(lane, envelope(TimerFired(name="soon", due=due + timedelta(1)), "t3"), 3) is None


def test_only_changed_entries_of_a_table_are_written() -> None:
    lane = taken(EMPTY, envelope(created("h1"), "a")).lane
    rows = taken(lane, envelope(created("h2"), "b"), 1).rows
    assert f"state.heads{SEPARATOR}h2" in rows
    assert f"state.heads{SEPARATOR}h1" not in rows


def test_an_outgoing_event_is_decoded_as_what_was_decided() -> None:
    item = taken(EMPTY, envelope(created("h1"))).leaving[0]
    assert item.headers["ce_type"] == NoticeRendered.type
    assert item.topic == "towline.notices"
    assert item.headers["ce_towlinecause"] == "a"
    assert item.headers["ce_id"] == codec.derive("notifier", "a", created_notice(), 0)


def created_notice() -> NoticeRendered:
    return NoticeRendered(channel="local/app", group="h1", severity=Severity.INFO, title="seen", about="h1")


def test_a_later_event_of_one_topic_hides_no_earlier_one_of_another() -> None:
    lane = taken(EMPTY, envelope(created("h2"), "b", sequence=2), 0, "second").lane
    lane = taken(lane, envelope(created("h1"), "a", sequence=1), 0, "first").lane
    assert lane.state.total == 2
    assert turn(lane, envelope(created("h1"), "a", sequence=1), 1, "first") is None
    assert turn(lane, envelope(created("h2"), "b", sequence=2), 1, "second") is None


def copies_of(arrived: Envelope, *keys: str, topic: str = "facts") -> list[Envelope]:
    return forwarded("notifier", arrived, topic, [(key, Hint(word=f"{arrived.id}{i}")) for i, key in enumerate(keys)])


def test_a_forwarded_copy_is_not_hidden_by_a_later_event_that_came_directly() -> None:
    [copy] = copies_of(envelope(created("h1"), "a", sequence=1), "local/app")
    lane = taken(EMPTY, envelope(created("h2"), "b", sequence=2), 0, "facts").lane
    assert taken(lane, copy, 0, "inbox").lane.state.total == 2


def test_copies_of_one_producer_under_two_keys_do_not_hide_each_other() -> None:
    early = replace(envelope(created("h1"), "a", sequence=1), key="one")
    late = replace(envelope(created("h2"), "b", sequence=2), key="two")
    [first], [second] = copies_of(early, "local/app"), copies_of(late, "local/app")
    lane = taken(EMPTY, second, 0, "inbox").lane
    lane = taken(lane, first, 1, "inbox").lane
    assert lane.state.total == 2
    assert turn(lane, first, 2, "inbox") is None
    assert turn(lane, second, 3, "inbox") is None


def test_several_copies_for_one_lane_all_count_and_a_repetition_does_not() -> None:
    event = envelope(created("h1"), "a", sequence=5)
    copies = [
        *copies_of(event, "local/app", "other", "local/app"),
        *copies_of(event, "local/app", "other", "local/app"),
    ]
    lane = EMPTY
    for offset, copy in enumerate(copy for copy in copies if copy.key == "local/app"):
        step = turn(lane, copy, offset, "inbox")
        lane = step.lane if step else lane
    assert lane.state.total == 2
    assert len({copy.id for copy in copies}) == 3


def test_a_forgotten_key_comes_back_under_another_epoch() -> None:
    first = taken(EMPTY, envelope(created("h1"), "a"), 0)
    again = taken(EMPTY, envelope(created("h1"), "a"), 7)
    lanes = {item.headers["ce_towlinelane"] for step in (first, again) for item in step.leaving if item.kind == "event"}
    assert len(lanes) == 2


def test_a_state_like_a_new_one_is_not_kept() -> None:
    lane = taken(EMPTY, envelope(Hint(word="x"), "a"), 0).lane
    assert not lane.idle
    forget = replace(SERVICE, decide=lambda *_: Decision(None))
    step = take(forget, lane, envelope(Hint(word="y"), "b"), Arrival("t", 2), NOW, lambda _: None)
    assert step is not None
    assert step.lane.idle
    assert step.rows["state"] is None


def test_what_a_lane_remembers_of_producers_is_bounded() -> None:
    lane = EMPTY
    for number in range(SEEN_LANES + 10):
        arrived = replace(envelope(created("h"), f"e{number}", sequence=1), lane=f"runner/{number}")
        lane = taken(lane, arrived, number).lane
    assert len(lane.cursor.seen) == SEEN_LANES
    last = replace(envelope(created("h"), "again", sequence=1), lane=f"runner/{SEEN_LANES}")
    assert turn(lane, last, 1000) is None


@given(st.lists(st.tuples(st.sampled_from(["h1", "h2", "timer"]), st.booleans()), max_size=20))
def test_a_lane_is_rebuilt_from_its_rows_alone(steps: list[tuple[str, bool]]) -> None:
    lane, rows = EMPTY, Rows()
    for offset, (head, answered) in enumerate(steps):
        arrived = envelope(created(head), f"e{offset}", sequence=offset + 1)
        if answered and (open_effects := [id for id, item in lane.outbox.items() if item.kind == "tell"]):
            arrived = envelope(Told(head=head), f"e{offset}", cause=open_effects[0])
        result = taken(lane, arrived, offset)
        for record in records_of("s", 0, lane.key, result.rows):
            rows.feed(record.key, record.value, 0)
        lane = result.lane
        for item in [item for item in lane.outbox.values() if item.kind == "event"]:
            rows.feed(f"{lane.key}{SEPARATOR}outbox{SEPARATOR}{item.id}", None, 0)
            lane = lane.done((item.id,))
    rebuilt = lanes_of(Tally, rows).get(lane.key, EMPTY)
    assert replace(rebuilt, outbox=dict(rebuilt.outbox)) == lane


@given(st.lists(st.integers(0, 9), max_size=30), st.data())
def test_redelivering_any_part_of_a_history_changes_nothing(heads: list[int], data: st.DataObject) -> None:
    history = [(i, envelope(created(f"h{head}"), f"e{i}", sequence=i + 1)) for i, head in enumerate(heads)]
    lane = EMPTY
    for offset, arrived in history:
        lane = taken(lane, arrived, offset).lane
        again = data.draw(st.sampled_from(history[: offset + 1]))
        assert turn(lane, again[1], again[0]) is None
        assert turn(lane, again[1], 1000 + offset) is None
    assert lane.state.total == len(heads)
