"""The notifier's decision: facts become drafts in group lanes, notices wait their turn in channel lanes.

fact (keyed by repo or application)
  └─ forward ─► NoticeDrafted in `change:…` or `application:…` ─► who, and was it told before?
                  └─ NoticeRendered on towline.notices, keyed by channel ─► Deliver, one at a time
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from towline.delivery.model import Decision, EffectFailed, Envelope, TimerFired
from towline.events import ChangeCreated, ChangeUpdated, Event, NoticeRendered
from towline_notifier import group, queue, render
from towline_notifier.messages import ChangeTitled, NoticeDelivered, NoticeDrafted
from towline_notifier.routing import Policy
from towline_notifier.state import FORGET, FORGET_AFTER, NotifierState, still_told
from towline_notifier.untrusted import line


def forward(envelope: Envelope) -> Iterable[tuple[str, Event]]:
    """A fact → the lane of what it is about, with what there is to tell; nothing for most facts."""
    event = envelope.event
    if isinstance(event, ChangeCreated | ChangeUpdated):
        title, author = line(event.title, render.TITLE_CHARS), line(event.author, render.FACT_CHARS)
        titled = ChangeTitled(change=event.change, at=envelope.time, title=title, author=author)
        return ((f"change:{event.change}", titled),) if title else ()
    draft = render.draft_of(event)
    if draft is None:
        return ()
    lane = f"change:{draft.group}" if draft.application is None else f"application:{draft.group}"
    return ((lane, NoticeDrafted(about=envelope.id, at=envelope.time, draft=draft)),)


def decide(policy: Policy, state: NotifierState, envelope: Envelope, now: datetime) -> Decision[NotifierState]:
    match envelope.event:
        case NoticeDrafted() as event:
            return group.on_draft(policy, state, event, now)
        case ChangeTitled() as event:
            return group.on_title(state, event, now)
        case NoticeRendered() as event:
            return queue.on_notice(policy, state, envelope, event, now)
        case NoticeDelivered() | EffectFailed() as event:
            return queue.on_result(state, event, now)
        case TimerFired():
            return _forget(state, now)
        case _:
            return Decision(state)


def _forget(state: NotifierState, now: datetime) -> Decision[NotifierState]:
    """Nothing happened here for long: keep what is still needed, and let the lane go when that is nothing."""
    after = state.model_copy(update={"told": still_told(state.told, now)})
    if after.needed:
        return Decision(after, timers={FORGET: now + FORGET_AFTER})
    return Decision(None)
