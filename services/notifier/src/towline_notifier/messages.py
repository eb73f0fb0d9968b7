"""What the notifier tells itself: inbox events and the one effect.

A group lane (key `change:<change>` or `application:<application>`) takes ChangeTitled and NoticeDrafted and says
NoticeRendered; a channel lane (key: the channel's name, which holds no colon) takes NoticeRendered, asks for Deliver
and takes its result.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from pydantic import Field

from towline.delivery.model import Effect
from towline.events import Event, NoticeRendered, Part, Severity


class Draft(Part):
    """A notice before it is known who gets it. All text is plain: cleaned and redacted, not yet escaped."""

    kind: str = Field(description="One of `kind.Kind`.")
    severity: Severity
    group: str = Field(description="A change or an application.")
    repo: str = Field(description="`<host>/<owner>/<name>`; empty where unknown.")
    application: str | None = Field(None, description="`<cluster>/<namespace>/<name>`; None for a change.")
    change: str | None = None
    title: str
    text: str = ""
    facts: dict[str, str] = Field(default_factory=dict)
    same: str = Field(
        "",
        description="Notices of a group with equal `same` say the same thing, whatever durations they quote; "
        "empty: never the same.",
    )


class NoticeDrafted(Event):
    type: ClassVar[str] = "dev.cdeventsx.towline-notifier-notice.drafted.0.1.0"
    about: str = Field(description="Id of the event that is told of.")
    at: datetime = Field(description="When that event happened.")
    draft: Draft

    @property
    def subject(self) -> str:
        return self.draft.group

    @property
    def change(self) -> str | None:
        return self.draft.change


class ChangeTitled(Event):
    """A change has this title; later notices of its group name it."""

    type: ClassVar[str] = "dev.cdeventsx.towline-notifier-change.titled.0.1.0"
    change: str
    at: datetime
    title: str = Field(description="Cleaned first line of the commit message.")
    author: str = ""

    @property
    def subject(self) -> str:
        return self.change


class NoticeDelivered(Event):
    type: ClassVar[str] = "dev.cdeventsx.towline-notifier-notice.delivered.0.1.0"
    channel: str
    notice: str = Field(description="Id of the delivered notice.")

    @property
    def subject(self) -> str:
        return self.notice


class Deliver(Effect):
    """Send one notice to one channel. Sent twice after a crash; a receiver tells by the notice's id."""

    kind: ClassVar[str] = "deliver"
    channel: str
    id: str = Field(description="Id of the notice: the same on every try.")
    time: datetime = Field(description="When the notice was rendered.")
    expires: datetime = Field(description="After this nobody wants it any more.")
    notice: NoticeRendered

    @property
    def resource(self) -> str:
        return f"channel {self.channel}"

    @property
    def change(self) -> str | None:
        return self.notice.change
