"""Decides in a channel lane: notices to one channel leave in order, one at a time.

One at a time because the channel's limit then has one owner: while it says "too many" or does not answer, the rest
waits here, and a recovery can never overtake its incident. What waits longer than it is news is dropped.
"""

from __future__ import annotations

from datetime import datetime

from towline.delivery.model import Decision, EffectFailed, Envelope
from towline.events import NoticeRendered
from towline_notifier.kind import Kind
from towline_notifier.messages import Deliver, NoticeDelivered
from towline_notifier.routing import Policy
from towline_notifier.state import FORGET, FORGET_AFTER, NotifierState, OpenIncident, Told, still_told


def on_notice(
    policy: Policy, state: NotifierState, envelope: Envelope, notice: NoticeRendered, now: datetime
) -> Decision[NotifierState]:
    if notice.about in state.told:
        return Decision(state)
    recovers = notice.kind == Kind.INCIDENT_RESOLVED and notice.group in state.open
    if envelope.time < now - policy.horizon and not recovers:
        return Decision(state)
    place = f"{int(max(state.waiting, default='0')) + 1:012d}"
    deliver = Deliver(
        channel=notice.channel,
        id=envelope.id,
        time=envelope.time,
        expires=now + policy.lifetime(notice.kind),
        notice=notice,
    )
    told = still_told(state.told, now)
    after = state.model_copy(
        update={
            "told": {**told, notice.about: Told(until=envelope.time + 2 * policy.horizon)},
            "open": _open(state, envelope, notice),
            "waiting": {**state.waiting, place: deliver},
        }
    )
    return _start_next(after, now)


def on_result(state: NotifierState, event: NoticeDelivered | EffectFailed, now: datetime) -> Decision[NotifierState]:
    """Delivered or given up: the next one's turn. A result of anything else than what is in flight changes nothing."""
    notice = event.notice if isinstance(event, NoticeDelivered) else event.payload.get("id")
    flying = state.in_flight
    if flying is None or flying not in state.waiting or state.waiting[flying].id != notice:
        return Decision(state)
    waiting = {place: deliver for place, deliver in state.waiting.items() if place != flying}
    return _start_next(state.model_copy(update={"waiting": waiting, "in_flight": None}), now)


def _start_next(state: NotifierState, now: datetime) -> Decision[NotifierState]:
    waiting = {
        place: deliver for place, deliver in state.waiting.items() if place == state.in_flight or deliver.expires > now
    }
    in_flight = state.in_flight or min(waiting, default=None)
    effects = (waiting[in_flight],) if in_flight is not None and in_flight != state.in_flight else ()
    after = state.model_copy(update={"waiting": waiting, "in_flight": in_flight})
    return Decision(after, effects=effects, timers={FORGET: now + FORGET_AFTER})


def _open(state: NotifierState, envelope: Envelope, notice: NoticeRendered) -> dict[str, OpenIncident]:
    if notice.kind == Kind.INCIDENT_DETECTED:
        return {**state.open, notice.group: OpenIncident(since=envelope.time)}
    if notice.kind == Kind.INCIDENT_RESOLVED:
        return {group: incident for group, incident in state.open.items() if group != notice.group}
    return state.open
