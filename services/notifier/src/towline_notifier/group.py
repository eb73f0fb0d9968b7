"""Decides in a group lane: is there something new to tell of this change or application, and to whom?

Rules that must hold:

- Of one event each channel gets at most one notice, however often and in whatever order events arrive.
- An event older than the horizon causes no notice, so a replay is silent.
- A recovery goes exactly where its incident went, also when routes have changed since and also when it is old.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from towline.delivery.model import Decision
from towline.ids import digest_of
from towline_notifier import render
from towline_notifier.kind import Kind
from towline_notifier.messages import ChangeTitled, Draft, NoticeDrafted
from towline_notifier.routing import Policy
from towline_notifier.state import FORGET, FORGET_AFTER, NotifierState, OpenIncident, Told, still_told

Told_by_name = dict[str, Told]


def on_title(state: NotifierState, event: ChangeTitled, now: datetime) -> Decision[NotifierState]:
    if event.at < now - FORGET_AFTER or (state.title, state.author) == (event.title, event.author):
        return Decision(state)
    after = state.model_copy(update={"title": event.title, "author": event.author})
    return Decision(after, timers={FORGET: now + FORGET_AFTER})


def on_draft(policy: Policy, state: NotifierState, event: NoticeDrafted, now: datetime) -> Decision[NotifierState]:
    if event.about in state.told:
        return Decision(state)
    if event.draft.kind == Kind.INCIDENT_RESOLVED:
        return _on_recovery(policy, state, event, now)
    if event.at < now - policy.horizon or _is_over(state, event):
        return Decision(state)
    told = still_told(state.told, now)
    channels = tuple(name for name in policy.channels_for(event.draft) if not _knows(state, told, event.draft, name))
    if not channels:
        return Decision(state)
    told = _with_told(policy, told, event, channels, now)
    open = state.open
    if event.draft.kind == Kind.INCIDENT_DETECTED:
        incident = OpenIncident(since=event.at, about=_revision(event.draft))
        open = {**open, **{name: _later(open.get(name), incident) for name in channels}}
    return _tell(state.model_copy(update={"told": told, "open": open}), event, channels, now)


def _on_recovery(policy: Policy, state: NotifierState, event: NoticeDrafted, now: datetime) -> Decision[NotifierState]:
    closed = {name for name, incident in state.open.items() if incident.since <= event.at}
    settled = event.at if state.settled is None else max(state.settled, event.at)
    if not closed:
        if event.at < now - policy.horizon or settled == state.settled:
            return Decision(state)
        return Decision(state.model_copy(update={"settled": settled}), timers={FORGET: now + FORGET_AFTER})
    channels = tuple(name for name in state.open if name in closed and policy.is_channel(name))
    after = state.model_copy(
        update={
            "told": _with_told(policy, still_told(state.told, now), event, channels, now),
            "open": {name: incident for name, incident in state.open.items() if name not in closed},
            "settled": settled,
        }
    )
    return _tell(after, event, channels, now)


def _tell(
    state: NotifierState, event: NoticeDrafted, channels: Iterable[str], now: datetime
) -> Decision[NotifierState]:
    notices = tuple(render.notice_of(event.draft, name, event.about, state.title, state.author) for name in channels)
    return Decision(state, events=notices, timers={FORGET: now + FORGET_AFTER})


def _is_over(state: NotifierState, event: NoticeDrafted) -> bool:
    """An incident that arrives after its recovery: nobody was alarmed, nobody need be."""
    return event.draft.kind == Kind.INCIDENT_DETECTED and state.settled is not None and event.at <= state.settled


def _knows(state: NotifierState, told: Told_by_name, draft: Draft, channel: str) -> bool:
    """True when the channel was told the same thing a short while ago, or has this incident open."""
    if draft.kind == Kind.INCIDENT_DETECTED:
        return channel in state.open and state.open[channel].about == _revision(draft)
    entry = told.get(_same(draft)) if draft.same else None
    return entry is not None and channel in entry.channels


def _with_told(
    policy: Policy, told: Told_by_name, event: NoticeDrafted, channels: tuple[str, ...], now: datetime
) -> Told_by_name:
    """Twice the horizon: a clock that is set back by less than that brings nothing back."""
    told = {**told, event.about: Told(until=event.at + 2 * policy.horizon, channels=channels)}
    if event.draft.same:
        name = _same(event.draft)
        known = told[name].channels if name in told else ()
        told[name] = Told(until=now + policy.quiet, channels=tuple(dict.fromkeys((*known, *channels))))
    return told


def _later(known: OpenIncident | None, incident: OpenIncident) -> OpenIncident:
    return known if known is not None and known.since > incident.since else incident


def _same(draft: Draft) -> str:
    return f"same {digest_of(draft.same)[:32]}"


def _revision(draft: Draft) -> str:
    return draft.facts.get("revision", "")
